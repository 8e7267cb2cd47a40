"""New messages to be sent."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

from messaging import clock, peers
from messaging.database import insert_new
from messaging.models import Direction, Message, State

DEFAULT_EXPIRES_SECONDS = 86_400


def new_message(
    *,
    service: str,
    pubkey: str,
    body: bytes,
    amount_sat: int = 1,
    reply_to: UUID | None = None,
    expires_seconds: int = DEFAULT_EXPIRES_SECONDS,
    message_id: UUID | None = None,
) -> Message:
    """A message, not stored yet, of `service` to `pubkey` (hex), which carries `amount_sat` and is given up after `expires_seconds`."""
    now = clock.now()
    return Message(
        message_id=message_id or uuid4(),
        direction=Direction.OUT,
        pubkey=pubkey,
        service=service,
        reply_to=reply_to,
        body=body,
        amount_msat=amount_sat * 1000,
        state=State.QUEUED,
        created_at=now,
        updated_at=now,
        expires_at=now + timedelta(seconds=expires_seconds),
    )


def store_all(messages: list[Message], cost_msat: Callable[[int, int], int]) -> None:
    """Stores new messages as queued, with what they may cost. Part of the caller's transaction."""
    for message in messages:
        message.cost_msat = cost_msat(len(message.body), message.amount_msat)
    insert_new(Message, messages)
    # An answer that this node gives of itself makes nobody a peer that it has written to.
    peers.touch(message.pubkey for message in messages)
