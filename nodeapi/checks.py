"""What a call is checked for before anything is stored. Each raises ApiError."""

from functools import partial
from typing import Any
from uuid import UUID

import grpc

from messaging.database import Database
from messaging.idempotency import Claim
from messaging.services import sent_amount_sat
from nodeapi.engine import Engine
from nodeapi.errors import ApiError, invalid, shown_sat


def require_running(engine: Engine, service_type: str) -> None:
    service = engine.registry.by_type(service_type)
    state = service.state if service else "off"
    if state != "running":
        raise ApiError(
            grpc.StatusCode.FAILED_PRECONDITION, f"the service {service_type} is {state} on this node"
        )


def require_other_node(engine: Engine, pubkey: str) -> None:
    if pubkey == engine.own_pubkey.hex():
        raise invalid("pubkey", "is this node's own key")


def require_sendable(engine: Engine, pubkey: str, size_bytes: int, size_field: str, amount_sat: int) -> None:
    """ApiError when nothing of the kind may be sent from this node."""
    max_bytes = engine.limits.max_bytes
    if size_bytes > max_bytes:
        raise invalid(size_field, f"{size_bytes} bytes are more than message.max_bytes ({max_bytes})")
    require_other_node(engine, pubkey)
    require_permitted(engine, "amount", amount_sat * 1000)


def require_permitted(engine: Engine, field: str, amount_msat: int) -> None:
    """ApiError when one call may not spend so much; `field` is what of the call says it."""
    limit_sat = engine.limits.max_amount_sat
    if limit_sat is not None and amount_msat > limit_sat * 1000:
        raise invalid(field, f"{shown_sat(amount_msat)} are more than lightning.max_amount_sat ({limit_sat})")


def require_spendable(engine: Engine, field: str, amount_msat: int, what: str = "") -> None:
    """ApiError when the channels cannot spend so much now; `what` names it where it is more than one amount."""
    spendable_sat = engine.lnd.spendable_sat
    if spendable_sat is not None and amount_msat > spendable_sat * 1000:
        raise ApiError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"{field}: {what or shown_sat(amount_msat)} is more than the {spendable_sat} sat that this node can spend",
        )


async def answered_before(engine: Engine, claim: Claim | None) -> dict[str, Any] | None:
    """The reply that this claim had before. To be asked before anything that changes is looked at: what was accepted once
    is not refused when it is asked for again.
    """
    accepted = await engine.outbox.answer(claim) if claim else None
    return {"id": str(accepted)} if accepted else None


async def with_amount(database: Database, reply: dict[str, Any]) -> dict[str, Any]:
    """The reply of a call that sends a request, with what the message of this id carries; the same when it is repeated."""
    amount_sat = await database.read(partial(sent_amount_sat, UUID(reply["id"])))
    return reply | {"amount_sat": amount_sat}
