"""What the vpn service makes of received messages, and of its own that could not be delivered."""

from messaging.json_bodies import Unreadable
from messaging.models import Event, Message
from messaging.peers import are_known
from messaging.registry import Reaction
from vpn import bodies, buying, selling
from vpn.settings import VpnSettings

_FROM_BUYERS = {
    bodies.QUOTE_REQUEST: selling.quote_requested,
    bodies.CONTRACT: selling.contract_received,
    bodies.REFRESH: selling.refresh_received,
    bodies.LEASE_REQUEST: selling.lease_requested,
}
_FROM_SELLERS = {
    bodies.QUOTE: buying.quote_received,
    bodies.INVOICE: buying.invoice_received,
    bodies.LEASE: buying.lease_received,
    bodies.REFUSAL: buying.refusal_received,
    bodies.EXPIRING: buying.expiring_received,
    bodies.ENDED: buying.ended_received,
}

_ANSWERS = {
    bodies.QUOTE_REQUEST: (bodies.QUOTE, bodies.REFUSAL),
    bodies.CONTRACT: (bodies.INVOICE, bodies.LEASE, bodies.REFUSAL),
    bodies.REFRESH: (bodies.INVOICE, bodies.LEASE, bodies.REFUSAL),
    bodies.LEASE_REQUEST: (bodies.LEASE, bodies.REFUSAL),
}


def handle(message: Message, *, settings: VpnSettings) -> Reaction:
    try:
        body = bodies.decode(bytes(message.body))
    except Unreadable as error:
        return Reaction(dropped=error.reason)
    if body["type"] in _FROM_SELLERS:
        return _FROM_SELLERS[body["type"]](message, body, settings)
    try:
        return _FROM_BUYERS[body["type"]](message, body, settings)
    except selling.Refused as refused:
        if refused.reason == selling.CLOSED and not are_known([message.pubkey]):
            # A shop that is not open says nothing to strangers: whatever they ask would only cost.
            return Reaction(dropped=selling.CLOSED)
        return selling.refusal(message, refused, settings)


def is_answer(asked: bytes, body: bytes | None) -> bool:
    """Whether a message is what one of ours asks for."""
    try:
        answers = _ANSWERS.get(bodies.decode(asked)["type"], ())
        return bool(answers) and (body is None or bodies.decode(body)["type"] in answers)
    except Unreadable:
        return False


def failed(message: Message, cause: str) -> list[Event]:
    """One of our messages will never be delivered."""
    return buying.undelivered(message, cause)
