"""The functions behind the table of operations: what a call means, in terms of the services below."""

from functools import partial
from typing import Any
from uuid import UUID

import grpc
from django.db import Error as DatabaseError

from lightning.client import LndError
from messaging import answers, payments, services
from messaging.abandoned import NotPossibleError, UnknownMessageError
from messaging.idempotency import Claim
from nodeapi.checks import answered_before, require_running, require_sendable, require_spendable
from nodeapi.errors import ApiError, invalid
from nodeapi.node_states import RUNNING, STARTING, WAITING_FOR_LND
from nodeapi.service_names import require_known, stored

_DEAD_PAYMENTS = "lnd holds {} dead payments: it calls them under way, but no channel holds them; the node gives each up once it is safe"


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


async def send_to_stream(
    doors, *, pubkey: str, data: bytes, amount: int, claim: Claim | None
) -> dict[str, Any]:
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
    if answer := await answered_before(engine, claim):
        return answer
    require_spendable(engine, "amount", amount * 1000)
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
    if filters.get("service"):
        require_known([filters["service"]], stored(doors))
    found = await doors.database.read(partial(services.message_list, **filters))
    if found is None:
        raise invalid("before", "names no message of this node")
    return {"messages": found}


async def list_message_payments(doors, *, id: UUID) -> dict[str, Any]:
    """The payments by which a message of this node is sent, or was sent last: what `lncli` can be asked for."""
    found = await doors.database.read(partial(payments.of_message, id))
    if found is None:
        raise ApiError(grpc.StatusCode.NOT_FOUND, f"id: no message was sent under the id {id}")
    return {"payments": found}


async def give_up_message(doors, *, id: UUID) -> dict[str, Any]:
    """Gives up a message that has not ended, whatever lnd says of its payment. Its sender is told that it has failed; should
    lnd pay it all the same, it is settled.
    """
    try:
        given_up = await doors.engine.outbox.give_up(id)
    except UnknownMessageError as error:
        raise ApiError(grpc.StatusCode.NOT_FOUND, f"id: {error}") from None
    except NotPossibleError as error:
        raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, f"id: {error}") from None
    return {"id": str(id), "may_cost_msat": given_up.may_be_paid_msat}


async def _answers(doors) -> dict[str, Any]:
    """What answers to others may cost and have cost; nothing while the database is away, which keeps nobody from the rest."""
    allowance_msat = doors.engine.answer_terms.allowance_msat
    try:
        budget = await doors.database.read(partial(answers.budget, allowance_msat))
    except DatabaseError:
        return {}
    return {
        "answers_limit_sat": budget.limit_msat // 1000,
        "answers_used_sat": -(-budget.used_msat // 1000),
    }


async def get_info(doors) -> dict[str, Any]:
    """This node: its key, network, lnd, balances and services."""
    engine = doors.engine
    if engine is None:
        return _info_before_lnd(doors)
    told = engine.lnd.describe()
    dead_payments = len(engine.dead_payments.suspected)
    if dead_payments:
        told["warnings"].append(_DEAD_PAYMENTS.format(dead_payments))
    return {
        **told,
        **await _answers(doors),
        "dead_payments": dead_payments,
        "pubkey": engine.own_pubkey.hex(),
        "version": engine.version,
        "state": RUNNING,
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


def _info_before_lnd(doors) -> dict[str, Any]:
    """What is known before lnd has answered for the first time since the start; the first warning says what is waited for."""
    told = doors.lnd.describe() if doors.lnd else {}
    return {
        **told,
        "warnings": [doors.waiting_for],
        "pubkey": doors.lnd.info.identity_pubkey if doors.lnd else "",
        "version": doors.version,
        "state": WAITING_FOR_LND if doors.lnd and doors.lnd.trouble else STARTING,
        "last_seq": doors.hub.last_seq,
        "services": [
            {
                "service_type": row.service_type,
                "custom_record_number": row.custom_record_number,
                "active": row.active,
                "state": "waiting" if row.active else "off",
            }
            for row in doors.services
        ],
    }
