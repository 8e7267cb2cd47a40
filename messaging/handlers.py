"""Handlers of received messages that this app brings."""

from messaging import socket_offer
from messaging.models import Event, Message
from messaging.registry import Reaction


def publish(message: Message) -> Reaction:
    """The message as it is, under the id that its sender gave it."""
    return _published(message, bytes(message.body))


def publish_socket(message: Message) -> Reaction:
    """Where a relay is: what is known of it, and nothing else that a stranger may have put there."""
    try:
        return _published(message, socket_offer.decode(bytes(message.body)).encode())
    except socket_offer.NoOffer:
        return Reaction(dropped="no_socket_offer")


def _published(message: Message, data: bytes) -> Reaction:
    event = Event(
        message_id=message.message_id,
        reply_to=message.reply_to,
        from_pubkey=message.pubkey,
        data=data,
        service_type=message.service,
        amount_sat=message.amount_msat // 1000,
    )
    return Reaction(events=[event])
