"""What can be asked of messages. Reads are synchronous; sending goes through the outbox."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.db.models.functions import Length

from lightning.carrier import Outcome
from messaging.idempotency import Claim
from messaging.models import UNFINISHED, Direction, Message, State, besides, failed, named, unfinished
from messaging.outbox import Outbox
from messaging.outgoing import new_message
from messaging.pages import count_within
from messaging.times import rfc3339
from messaging.ways import Ways

DEFAULT_PAGE = 100
# Of the bodies in one answer: gRPC clients take no more than 4 MiB of it unless they are told to.
PAGE_BYTES = 3_145_728


async def message_send(
    *,
    outbox: Outbox,
    service: str,
    pubkey: str,
    body: bytes,
    amount_sat: int,
    reply_to: UUID | None,
    expires_seconds: int | None,
    claim: Claim | None,
) -> dict[str, Any]:
    """Accepts a message of `service` to `pubkey` (hex). Answers with its id once it is committed. Raises KeyReused and
    OverBudget.
    """
    message_id = await outbox.accept(
        service=service,
        pubkey=pubkey,
        body=body,
        amount_sat=amount_sat,
        reply_to=reply_to,
        expires_seconds=expires_seconds,
        claim=claim,
    )
    return {"id": str(message_id)}


async def message_broadcast(
    *,
    outbox: Outbox,
    service: str,
    pubkeys: list[str],
    body: bytes,
    amount_sat: int,
    expires_seconds: int,
    claim: Claim | None,
) -> list[UUID]:
    """Accepts one message to each of these nodes, or none: their ids, once all are committed. Raises KeyReused and
    OverBudget.
    """
    messages = [
        new_message(
            service=service, pubkey=pubkey, body=body, amount_sat=amount_sat, expires_seconds=expires_seconds
        )
        for pubkey in pubkeys
    ]
    return await outbox.accept_all(messages, claim=claim)


def sent_amount_sat(message_id: UUID) -> int:
    """What the message that was sent under this id carries; 0 if there is none any more."""
    found = named(Direction.OUT, [message_id]).values_list("amount_msat", flat=True).first()
    return (found or 0) // 1000


def messages_pubkeys(ids: list[UUID]) -> list[dict[str, str]]:
    """To whom the messages that were sent under these ids go."""
    sent = named(Direction.OUT, ids).order_by("pk")
    return [
        {"pubkey": pubkey, "id": str(identity)}
        for pubkey, identity in sent.values_list("pubkey", "message_id")
    ]


async def message_estimate(
    *, ways: Ways, service: str, pubkey: str, size_bytes: int, amount_sat: int
) -> dict[str, Any]:
    """What it would take to send a message now. Raises LndError."""
    announced = await ways.announced(pubkey)
    found = await ways.estimate(
        service=service, pubkey=pubkey, size_bytes=size_bytes, amount_msat=amount_sat * 1000
    )
    if isinstance(found, Outcome):
        return {"reachable": False, "problem": found.cause, "keysend": announced}
    return {
        "reachable": True,
        "keysend": announced,
        "parts": found.parts,
        "hops": found.hops,
        "amount": -(-found.amount_msat // 1000),
        "fee_msat": found.fee_msat,
        "cost_msat": found.amount_msat + found.fee_msat,
    }


def message_get(*, message_id: UUID) -> dict[str, Any] | None:
    """The message that was sent under this id or, if there is none, the one that was received under it."""
    found = list(Message.objects.filter(message_id=message_id).order_by("-direction", "pk")[:1])
    return _shown(found[0]) if found else None


def message_list(
    *,
    pubkey: str = "",
    service: str = "",
    direction: str = "",
    state: str = "",
    before: UUID | None = None,
    limit: int = DEFAULT_PAGE,
) -> list[dict[str, Any]] | None:
    """The history, newest first: up to `limit` messages, fewer where their bodies have more than PAGE_BYTES together, but one
    if there is one. None when `before` names no message.
    """
    place = None
    if before:
        place = Message.objects.filter(message_id=before).order_by("pk").values_list("pk", flat=True).first()
        if place is None:
            return None
    found: list[tuple[int, int]] = []
    for history in _histories(pubkey=pubkey, service=service, direction=direction, state=state):
        messages = history if place is None else history.filter(pk__lt=place)
        found += messages.order_by("-pk").values_list("pk", Length("body"))[:limit]
    found = sorted(found, reverse=True)[:limit]
    keys = [key for key, _ in found[: count_within((size_bytes for _, size_bytes in found), PAGE_BYTES)]]
    return [_shown(message) for message in Message.objects.filter(pk__in=keys).order_by("-pk")]


def _histories(*, pubkey: str, service: str, direction: str, state: str) -> list[QuerySet[Message]]:
    """What is asked for, in one or two parts, of which an index gives each in its order, among however many others."""
    if state and not direction:
        direction = Direction.IN if state == State.RECEIVED else Direction.OUT
    by: tuple[str, ...]
    asked = {"pubkey": pubkey, "service": service, "direction": direction, "state": state}
    asked = {name: value for name, value in asked.items() if value}
    if state in UNFINISHED:
        parts, by = [unfinished()], ()
    elif state == State.FAILED:
        parts, by = [failed()], ("state",)
    elif pubkey:
        parts, by = [Message.objects.filter(pubkey=pubkey)], ("pubkey",)
    elif service:
        ways = [direction] if direction else Direction.values
        parts, by = (
            [Message.objects.filter(service=service, direction=way) for way in ways],
            ("service", "direction"),
        )
    else:
        parts, by = (
            [Message.objects.filter(**({"direction": direction} if direction else {}))],
            ("direction",),
        )
    others = [besides(name, value) for name, value in asked.items() if name not in by]
    return [messages.filter(*others) for messages in parts]


def _shown(message: Message) -> dict[str, Any]:
    return {
        "id": str(message.message_id),
        "direction": Direction(message.direction).value,
        "pubkey": message.pubkey,
        "service": message.service,
        "reply_to_id": str(message.reply_to) if message.reply_to else "",
        "msg": bytes(message.body),
        "amount": message.amount_msat // 1000,
        "state": State(message.state).value,
        "attempts": message.attempts,
        "fee_msat": message.fee_msat,
        "error": message.error,
        "created_at": rfc3339(message.created_at),
        "updated_at": rfc3339(message.updated_at),
        "parts": message.parts,
    }
