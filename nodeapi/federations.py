"""The calls of federate.Federate, and Broadcast, which puts the federation and messaging together."""

from functools import partial
from typing import Any

import grpc

from federation import services, steps
from federation.settings import SERVICE
from messaging.idempotency import Claim
from messaging.services import message_broadcast, messages_pubkeys
from nodeapi.checks import (
    answered_before,
    require_other_node,
    require_running,
    require_sendable,
    require_spendable,
    with_amount,
)
from nodeapi.errors import ApiError


async def request_federate(doors, *, pubkey: str, claim: Claim | None) -> dict[str, Any]:
    """Asks another node to be federated with this one."""
    asked = await _ask(doors, services.federation_request, pubkey, claim)
    return await with_amount(doors.database, asked)


async def leave_federation(doors, *, pubkey: str, claim: Claim | None) -> dict[str, Any]:
    """Ends the federation with another node, on both sides, or takes back a request that it has not answered."""
    return await _ask(doors, services.federation_leave, pubkey, claim)


async def _ask(doors, service, pubkey: str, claim: Claim | None) -> dict[str, Any]:
    engine = doors.engine
    require_running(engine, SERVICE)
    require_other_node(engine, pubkey)
    if answer := await answered_before(engine, claim):
        return answer
    try:
        message_id = await service(
            outbox=engine.outbox,
            settings=engine.registry.by_type(SERVICE).settings,
            pubkey=pubkey,
            expires_seconds=engine.limits.expires_seconds,
            claim=claim,
        )
    except steps.NotPossible as error:
        raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, f"pubkey: {error}") from None
    return {"id": str(message_id)}


async def list_federations(doors, **filters) -> dict[str, Any]:
    """The nodes that this one is federated with, or was."""
    return {"federations": await doors.database.read(partial(services.federation_list, **filters))}


async def broadcast(
    doors, *, msg: bytes, amount: int, expires_in: int | None, claim: Claim | None
) -> dict[str, Any]:
    """Sends `amount` sat with a message to each member: to all of them, or to none."""
    engine = doors.engine
    require_running(engine, "message")
    require_running(engine, SERVICE)
    if claim and (accepted := await engine.outbox.all_answers(claim)):
        return {"messages": await doors.database.read(partial(messages_pubkeys, accepted))}
    members = await doors.database.read(services.member_pubkeys)
    if not members:
        raise ApiError(
            grpc.StatusCode.FAILED_PRECONDITION, "there are no members to broadcast to (federate.Federate)"
        )
    for pubkey in members:
        require_sendable(engine, pubkey, len(msg), "msg", amount * len(members))
    what = f"{amount} sat to each of {len(members)} members"
    require_spendable(engine, "amount", amount * len(members) * 1000, what)
    ids = await message_broadcast(
        outbox=engine.outbox,
        service="message",
        pubkeys=members,
        body=msg,
        amount_sat=amount,
        expires_seconds=expires_in or engine.limits.expires_seconds,
        claim=claim,
    )
    return {"messages": await doors.database.read(partial(messages_pubkeys, ids))}
