"""The events by which the stream tells of the VPN's steps, and the messages that tell the other node."""

from typing import Any
from uuid import UUID

import orjson

from messaging.models import Event, Message
from messaging.outgoing import new_message
from vpn import bodies
from vpn.settings import SERVICE

DAY_SECONDS = 86_400


def event(type: str, message_id: UUID, *, received: Message | None = None, **fields: Any) -> Event:
    """`received` is the message by which the other node told it; without it, this node did it."""
    return Event(
        message_id=message_id,
        reply_to=received.reply_to if received else None,
        from_pubkey=received.pubkey if received else "",
        data=bodies.encode(type, **fields),
        service_type=SERVICE,
        amount_sat=received.amount_msat // 1000 if received else 0,
    )


def message(
    type: str,
    pubkey: str,
    *,
    reply_to: UUID | None = None,
    message_id: UUID | None = None,
    for_seconds: float = DAY_SECONDS,
    **fields: Any,
) -> Message:
    """Given up after so many seconds, at least a minute and at most a day."""
    return new_message(
        service=SERVICE,
        pubkey=pubkey,
        body=bodies.encode(type, **fields),
        reply_to=reply_to,
        message_id=message_id,
        expires_seconds=int(min(max(for_seconds, 60), DAY_SECONDS)),
    )


def fields_of(told: Event) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(bytes(told.data))
    return fields
