"""Which waiting messages share a payment. No input, no output."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from messaging import envelope
from messaging.models import Message
from protos import envelope_pb2


@dataclass(kw_only=True)
class Load:
    """Messages of one service to one node that travel in one record."""

    pubkey: str
    service: str
    messages: list[Message] = field(default_factory=list)
    items: list[envelope_pb2.Item] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def amount_msat(self) -> int:
        return sum(message.amount_msat for message in self.messages)

    def add(self, message: Message, item: envelope_pb2.Item, size_bytes: int) -> None:
        self.messages.append(message)
        self.items.append(item)
        self.size_bytes += size_bytes


def pack(messages: Iterable[Message], *, safe_room_bytes: int) -> list[Load]:
    """Loads in the messages' order. What is joined fits `safe_room_bytes`; what is larger than that travels alone."""
    loads: list[Load] = []
    open_loads: dict[tuple[str, str], Load] = {}
    for message in messages:
        item = envelope.encode_item(_outgoing(message))
        size_bytes = item.ByteSize() + 3  # tag and length of a repeated field
        key = (message.pubkey, message.service)
        load = open_loads.get(key)
        if load is None or message.alone or envelope.HEADER_BYTES + load.size_bytes + size_bytes > safe_room_bytes:
            load = Load(pubkey=message.pubkey, service=message.service)
            loads.append(load)
            if not message.alone:
                open_loads[key] = load
        load.add(message, item, size_bytes)
    return loads


def _outgoing(message: Message) -> envelope.Item:
    return envelope.Item(
        id=message.message_id,
        reply_to=message.reply_to,
        body=bytes(message.body),
        amount_msat=message.amount_msat,
        sent_at_ms=int(message.created_at.timestamp() * 1000),
    )
