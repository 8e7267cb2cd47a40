"""What the vpn service makes of received messages, and of its own that could not be delivered."""

from messaging.json_bodies import Unreadable
from messaging.models import Event, Message
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
        return selling.refusal(message, refused, settings)


def failed(message: Message, cause: str) -> list[Event]:
    """One of our messages will never be delivered."""
    return buying.undelivered(message, cause)
