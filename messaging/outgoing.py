"""New messages to be sent, not stored yet."""

from datetime import timedelta
from uuid import UUID, uuid4

from django.utils import timezone

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
    """A message of `service` to `pubkey` (hex), which carries `amount_sat` and is given up after `expires_seconds`."""
    now = timezone.now()
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
