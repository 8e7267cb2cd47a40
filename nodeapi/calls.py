"""The functions behind the table of operations: what a call means, in terms of the services below."""

from functools import partial
from typing import Any
from uuid import UUID

import grpc

from messaging import services
from messaging.idempotency import Claim
from nodeapi.errors import ApiError, invalid


async def send_message(
    doors, *, msg: bytes, pubkey: str, amount: int, reply_to_id: UUID | None, claim: Claim | None
) -> dict[str, Any]:
    """Sends `amount` sat with a message. Refuses what can be known to fail before anything is stored."""
    engine = doors.engine
    require_running(engine, "message")
    if len(msg) > engine.limits.max_bytes:
        raise invalid("msg", f"has {len(msg)} bytes, more than message.max_bytes ({engine.limits.max_bytes})")
    if pubkey == engine.own_pubkey.hex():
        raise invalid("pubkey", "is this node's own key")
    # Before the balance is looked at: what was accepted once is not refused when it is asked for again.
    if claim and (accepted := await engine.outbox.answer(claim)):
        return {"id": str(accepted)}
    spendable_sat = engine.lnd.spendable_sat
    if spendable_sat is not None and amount > spendable_sat:
        raise ApiError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"amount: {amount} sat is more than the {spendable_sat} sat that this node can spend",
        )
    return await services.message_send(
        outbox=engine.outbox,
        service="message",
        pubkey=pubkey,
        body=msg,
        amount_sat=amount,
        reply_to=reply_to_id,
        claim=claim,
    )


async def get_message(doors, *, id: UUID) -> dict[str, Any]:
    found = await doors.database.read(partial(services.message_get, message_id=id))
    if found is None:
        raise ApiError(grpc.StatusCode.NOT_FOUND, f"id: there is no message {id}")
    return {"message": found}


async def list_messages(doors, **filters) -> dict[str, Any]:
    found = await doors.database.read(partial(services.message_list, **filters))
    if found is None:
        raise invalid("before", "names no message of this node")
    return {"messages": found}


async def get_info(doors) -> dict[str, Any]:
    engine = doors.engine
    return {
        **engine.lnd.describe(),
        "pubkey": engine.own_pubkey.hex(),
        "version": engine.version,
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


def require_running(engine, service_type: str) -> None:
    service = engine.registry.by_type(service_type)
    state = service.state if service else "off"
    if state != "running":
        raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, f"the service {service_type} is {state} on this node")
