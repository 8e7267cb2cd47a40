"""The functions behind the table of operations: what a call means, in terms of the services below."""

from functools import partial
from typing import Any
from uuid import UUID

import grpc

from lightning.client import LndError
from messaging import services
from messaging.budget import OverBudget
from messaging.idempotency import Claim
from nodeapi.errors import ApiError, invalid


async def send_message(
    doors,
    *,
    msg: bytes,
    pubkey: str,
    amount: int,
    reply_to_id: UUID | None,
    expires_in: int | None,
    claim: Claim | None,
) -> dict[str, Any]:
    """Sends a message to another node, with satoshis. The answer comes as soon as it is stored."""
    return await _send(doors.engine, "message", "msg", msg, pubkey, amount, claim, reply_to_id, expires_in)


async def send_to_stream(doors, *, pubkey: str, data: bytes, amount: int, claim: Claim | None) -> dict[str, Any]:
    """Sends raw bytes, which the other node's stream tells as they are."""
    return await _send(doors.engine, "websocket", "data", data, pubkey, amount, claim)


async def _send(
    engine,
    service: str,
    body_field: str,
    body: bytes,
    pubkey: str,
    amount: int,
    claim: Claim | None,
    reply_to: UUID | None = None,
    expires_seconds: int | None = None,
) -> dict[str, Any]:
    """Sends `amount` sat with a message. Refuses what can be known to fail before anything is stored."""
    require_running(engine, service)
    require_sendable(engine, pubkey, len(body), body_field, amount)
    # Before the balance is looked at: what was accepted once is not refused when it is asked for again.
    if claim and (accepted := await engine.outbox.answer(claim)):
        return {"id": str(accepted)}
    spendable_sat = engine.lnd.spendable_sat
    if spendable_sat is not None and amount > spendable_sat:
        raise ApiError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"amount: {amount} sat is more than the {spendable_sat} sat that this node can spend",
        )
    try:
        return await services.message_send(
            outbox=engine.outbox,
            service=service,
            pubkey=pubkey,
            body=body,
            amount_sat=amount,
            reply_to=reply_to,
            expires_seconds=expires_seconds,
            claim=claim,
        )
    except OverBudget as error:
        raise ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from None


async def estimate_message(doors, *, pubkey: str, size: int, amount: int) -> dict[str, Any]:
    """What it would take to send a message of `size` bytes now. Nothing is sent."""
    engine = doors.engine
    require_sendable(engine, pubkey, size, "size", amount)
    try:
        return await services.message_estimate(
            ways=engine.outbox.ways, service="message", pubkey=pubkey, size_bytes=size, amount_sat=amount
        )
    except LndError as error:
        raise ApiError(grpc.StatusCode.UNAVAILABLE, str(error)) from None


async def get_message(doors, *, id: UUID) -> dict[str, Any]:
    """One message, sent or received, with what became of it."""
    found = await doors.database.read(partial(services.message_get, message_id=id))
    if found is None:
        raise ApiError(grpc.StatusCode.NOT_FOUND, f"id: there is no message {id}")
    return {"message": found}


async def list_messages(doors, **filters) -> dict[str, Any]:
    """The history of messages, newest first."""
    found = await doors.database.read(partial(services.message_list, **filters))
    if found is None:
        raise invalid("before", "names no message of this node")
    return {"messages": found}


async def get_info(doors) -> dict[str, Any]:
    """This node: its key, network, lnd, balances and services."""
    engine = doors.engine
    return {
        **engine.lnd.describe(),
        "pubkey": engine.own_pubkey.hex(),
        "version": engine.version,
        "last_seq": doors.hub.last_seq,
        "services": [
            {
                "service_type": service.service_type,
                "custom_record_number": service.record_number,
                "active": service.active,
                "state": service.state,
            }
            for service in engine.registry.services
        ],
    }


def require_sendable(engine, pubkey: str, size_bytes: int, size_field: str, amount_sat: int) -> None:
    """ApiError when nothing of the kind may be sent from this node."""
    limits = engine.limits
    if size_bytes > limits.max_bytes:
        raise invalid(size_field, f"{size_bytes} bytes are more than message.max_bytes ({limits.max_bytes})")
    if pubkey == engine.own_pubkey.hex():
        raise invalid("pubkey", "is this node's own key")
    if limits.max_amount_sat is not None and amount_sat > limits.max_amount_sat:
        raise invalid("amount", f"{amount_sat} sat are more than lightning.max_amount_sat ({limits.max_amount_sat})")


def require_running(engine, service_type: str) -> None:
    service = engine.registry.by_type(service_type)
    state = service.state if service else "off"
    if state != "running":
        raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, f"the service {service_type} is {state} on this node")
