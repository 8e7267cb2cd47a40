"""The payments of a message, as an operator looks at them."""

from typing import Any
from uuid import UUID

from django.db.models import Count

from messaging.models import Attempt, Direction, Message, Part, named
from messaging.times import rfc3339


def of_message(message_id: UUID) -> list[dict[str, Any]] | None:
    """The payments by which the message is sent that has this id, or was sent last; None when this node sent none."""
    message = named(Direction.OUT, [message_id]).defer("body").first()
    if message is None:
        return None
    parts = {part.attempt_id: part for part in Part.objects.filter(message=message, attempt__isnull=False)}
    keys = [*parts, message.attempt_id]
    attempts = Attempt.objects.filter(pk__in=[key for key in keys if key]).defer("packet")
    counted = attempts.annotate(carries=Count("messages")).order_by("created_at")
    return [_shown(attempt, message, parts.get(attempt.pk)) for attempt in counted]


def _shown(attempt: Any, message: Message, part: Part | None) -> dict[str, Any]:
    """`attempt` is an Attempt with `carries`, the number of whole messages that share it."""
    is_open = attempt.state == Attempt.State.IN_FLIGHT
    return {
        "payment_hash": bytes(attempt.name).hex(),
        "state": Attempt.State(attempt.state).value,
        "amount_msat": attempt.amount_msat,
        "fee_msat": attempt.fee_msat,
        "messages": attempt.carries,
        "part": part.index + 1 if part else 0,
        "error": (part or message).error if is_open else attempt.cause,
        "created_at": rfc3339(attempt.created_at),
        "ended_at": rfc3339(attempt.ended_at) if attempt.ended_at else "",
    }
