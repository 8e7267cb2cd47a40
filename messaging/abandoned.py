"""Messages that are given up by hand, whatever lnd says of their payments. Steps in the caller's transaction.

What waits simply fails. What has a payment under way fails too, so that its sender need not wait any longer, but lnd may
still pay it: it is abandoned. Its payment is followed on, nothing more is sent for it, and what it may cost stays reserved
until lnd tells the end. It is settled then, or it has cost nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from messaging import clock, deliveries, divided, events
from messaging.models import UNFINISHED, Direction, Message, State, named

BY_OPERATOR = "given up by the operator"


class NotPossibleError(Exception):
    """Why a message cannot be given up."""


class UnknownMessageError(NotPossibleError):
    """No message was sent under this id."""


@dataclass(frozen=True)
class GivenUp:
    """A message, and what lnd may still pay for it: 0 if no payment is under way."""

    key: int
    may_be_paid_msat: int


def give_up(
    message_id: UUID,
    *,
    published: events.Published,
    then: Callable[[GivenUp], None] | None = None,
) -> GivenUp:
    """Gives up the message that was sent under this id, and tells so.

    Args:
        message_id: Of a message that was sent by this node.
        published: What the told events are given to.
        then: What else belongs to this transaction.

    Raises:
        NotPossibleError: There is no such message, or it has ended.
    """
    message = named(Direction.OUT, [message_id]).first()
    if message is None:
        raise UnknownMessageError(f"no message was sent under the id {message_id}")
    if message.state not in UNFINISHED:
        raise NotPossibleError(f"the message has ended: it is {State(message.state).value}")
    given_up = GivenUp(message.pk, _give_up(message, published))
    if then:
        then(given_up)
    return given_up


def _give_up(message: Message, published: events.Published) -> int:
    """What lnd may still pay for it, in msat."""
    now = clock.now()
    if message.parts > 1:
        if divided.give_up(message, now, cause=BY_OPERATOR, published=published):
            return 0
    elif message.state != State.IN_FLIGHT:
        message.cost_msat = 0
        deliveries.move([message], State.FAILED, now, cause=BY_OPERATOR, published=published)
        return 0
    Message.objects.filter(pk=message.pk).update(abandoned_at=now)
    message.abandoned_at = now
    may_cost_sat = message.cost_msat / 1000
    cause = f"given up by the operator while lnd had its payment under way, which may still cost {may_cost_sat:g} sat"
    deliveries.move([message], State.FAILED, now, cause=cause, published=published)
    return message.cost_msat
