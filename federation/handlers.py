"""What the federate service makes of received messages, and of its own that could not be delivered."""

from federation import bodies, steps
from federation.settings import FederationSettings
from messaging.json_bodies import Unreadable
from messaging.models import Event, Message
from messaging.registry import Reaction

_STEPS = {
    bodies.REQUEST: steps.request_received,
    bodies.ACCEPT: steps.accept_received,
    bodies.REFUSE: steps.refuse_received,
    bodies.LEAVE: steps.leave_received,
}
_FAILED_STEPS = {bodies.REQUEST: steps.request_failed, bodies.ACCEPT: steps.accept_failed}


def handle(message: Message, *, settings: FederationSettings) -> Reaction:
    try:
        body = bodies.decode(bytes(message.body))
    except Unreadable as error:
        return Reaction(dropped=error.reason)
    return _STEPS[body.type](message, body, settings)


def is_answer(asked: bytes, body: bytes | None) -> bool:
    """Whether a message is what one of ours asks for."""
    try:
        if bodies.decode(asked).type != bodies.REQUEST:
            return False
        return body is None or bodies.decode(body).type in (bodies.ACCEPT, bodies.REFUSE)
    except Unreadable:
        return False


def failed(message: Message, cause: str) -> list[Event]:
    """One of our messages will never be delivered."""
    try:
        body = bodies.decode(bytes(message.body))
    except Unreadable:
        # The end of a payment must be stored, whatever stands in its message.
        return []
    step = _FAILED_STEPS.get(body.type)
    return step(message, cause) if step else []
