"""Handlers of received messages that this app brings."""

from messaging.models import Event, Message
from messaging.registry import Reaction


def publish(message: Message) -> Reaction:
    """The message as it is, under the id that its sender gave it."""
    event = Event(
        message_id=message.message_id,
        reply_to=message.reply_to,
        from_pubkey=message.pubkey,
        data=message.body,
        service_type=message.service,
        amount_sat=message.amount_msat // 1000,
    )
    return Reaction(events=[event])
