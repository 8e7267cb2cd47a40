"""The service signing: signatures by the node's key, made by lnd, verified here."""

from functools import partial
from typing import Any

import grpc

from lightning import signature as signatures
from lightning.client import LndError
from messaging import peers
from messaging.envelope import DOMAIN
from nodeapi.checks import require_running
from nodeapi.engine import Engine
from nodeapi.errors import ApiError, invalid


async def sign_message(doors, *, msg: str) -> dict[str, Any]:
    """A text's signature by this node's key, as lnd makes it."""
    engine = doors.engine
    require_running(engine, "sign")
    message = _bounded(engine, msg)
    # What this node sends is signed by the same lnd call: whoever may sign could otherwise forge its messages.
    if message.startswith(DOMAIN):
        raise invalid("msg", f"must not begin with {DOMAIN.decode()!r}: the node signs its own messages so")
    try:
        return {"signature": await engine.client.sign_message(message)}
    except LndError as error:
        raise ApiError(grpc.StatusCode.UNAVAILABLE, str(error)) from None


async def verify_signature(doors, *, msg: str, signature: str, pubkey: str | None) -> dict[str, Any]:
    """Whether a text was signed by the key that is asked for or, without one, by a node that is known here.

    Almost any text of the right form is somebody's signature: that it belongs to some key says nothing.
    """
    engine = doors.engine
    require_running(engine, "sign")
    message = _bounded(engine, msg)
    try:
        signer = signatures.recover(message=message, text=signature)
    except ValueError as error:
        raise invalid("signature", str(error)) from None
    result = signer.hex() == pubkey if pubkey else await _is_known(doors, signer)
    return {"result": result, "pubkey": signer.hex()}


async def _is_known(doors, pubkey: bytes) -> bool:
    if pubkey == doors.engine.own_pubkey or await doors.database.read(partial(peers.is_stored, pubkey.hex())):
        return True
    try:
        await doors.engine.client.node_info(pubkey)
    except LndError as error:
        if error.code is grpc.StatusCode.NOT_FOUND:
            return False
        raise ApiError(grpc.StatusCode.UNAVAILABLE, str(error)) from None
    return True


def _bounded(engine: Engine, msg: str) -> bytes:
    message, limit = msg.encode(), engine.limits.max_bytes
    if len(message) > limit:
        raise invalid("msg", f"{len(message)} bytes are more than message.max_bytes ({limit})")
    return message
