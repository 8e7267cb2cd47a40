"""Which waiting messages share a payment, and how a message that is too long for one is divided. No input, no output."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast
from uuid import UUID

from lightning.hints import HopHint
from messaging import envelope
from messaging.models import Division, Message, Part, State
from protos import envelope_pb2

# Tag and length of an item in its packet.
ITEM_FRAME_BYTES = 3
MIN_AMOUNT_MSAT = 1_000


@dataclass(kw_only=True)
class Load:
    """Whole messages of one service to one node, or one part of a message, that travel in one record."""

    pubkey: str
    service: str
    carried: list[Message | Part] = field(default_factory=list)
    items: list[envelope_pb2.Item] = field(default_factory=list)
    size_bytes: int = envelope.HEADER_BYTES

    @property
    def amount_msat(self) -> int:
        return sum(one.amount_msat for one in self.carried)

    def add(self, carried: Message | Part, item: envelope_pb2.Item, size_bytes: int) -> None:
        self.carried.append(carried)
        self.items.append(item)
        self.size_bytes += size_bytes


def pack(
    messages: Iterable[Message | Part],
    *,
    safe_room_bytes: int,
    room_to: Callable[[str], int] = lambda _: 0,
    hints: tuple[HopHint, ...] = (),
) -> list[Load]:
    """Loads in their order. What is joined fits `safe_room_bytes`, or the room that there is known to be to its node, with
    the hints. A message that does not fit `safe_room_bytes` by itself, and a part, travels alone.
    """
    hint_bytes = len(envelope.encode_packet((), hints))
    loads: list[Load] = []
    open_loads: dict[tuple[str, str], Load] = {}
    for message in messages:
        item = _item(message)
        size_bytes = item.ByteSize() + ITEM_FRAME_BYTES
        key = (message.pubkey, message.service)
        large = envelope.HEADER_BYTES + hint_bytes + size_bytes > safe_room_bytes
        if large:
            # What comes behind it does not overtake it.
            open_loads.pop(key, None)
        lonely = isinstance(message, Part) or message.alone or large
        room_bytes = max(safe_room_bytes, room_to(message.pubkey))
        load = open_loads.get(key)
        if load is None or lonely or load.size_bytes + size_bytes > room_bytes:
            load = Load(pubkey=message.pubkey, service=message.service)
            load.size_bytes += hint_bytes
            loads.append(load)
            if not lonely:
                open_loads[key] = load
        load.add(message, item, size_bytes)
    return loads


class Undividable(Exception):
    """The room of a record is too small for even a part of the message."""


def part_bytes(message: Message, *, size_bytes: int, room_bytes: int, hints: tuple[HopHint, ...] = ()) -> int:
    """How many bytes of a whole of `size_bytes` each part may have, in records of `room_bytes`. Raises Undividable."""
    largest = envelope.encode_part(
        envelope.ItemPart(
            id=message.message_id,
            reply_to=message.reply_to,
            body=bytes(room_bytes),
            amount_msat=message.amount_msat + MIN_AMOUNT_MSAT,
            sent_at_ms=_sent_at_ms(message),
            compression=envelope_pb2.DEFLATE,
            index=size_bytes,
            count=size_bytes,
            size=size_bytes,
            sha256=bytes(32),
        )
    )
    around = largest.ByteSize() - room_bytes + ITEM_FRAME_BYTES
    room = room_bytes - envelope.HEADER_BYTES - len(envelope.encode_packet((), hints)) - around
    if room < 1:
        raise Undividable
    return room


def divide(
    message: Message, *, room_bytes: int, hints: tuple[HopHint, ...] = ()
) -> tuple[Division, list[Part]]:
    """A message's division for records of `room_bytes`, and its parts, not stored yet. Raises Undividable.

    The parts share the amount; each takes at least 1 sat, so that the message may cost more than its own amount.
    """
    body, compression = envelope.compress(bytes(message.body))
    each = part_bytes(message, size_bytes=len(body), room_bytes=room_bytes, hints=hints)
    count = -(-len(body) // each)
    division = Division(
        message=message,
        body=body,
        compression=compression,
        sha256=hashlib.sha256(body).digest(),
        part_bytes=each,
    )
    share_msat, rest_msat = divmod(max(message.amount_msat, count * MIN_AMOUNT_MSAT), count)
    parts = [
        Part(
            message=message,
            index=index,
            state=State.QUEUED,
            amount_msat=share_msat + (rest_msat if index == 0 else 0),
            secret_number=None if message.secret_number is None else 0,
        )
        for index in range(count)
    ]
    return division, parts


def record_bytes(message: Message, *, hints: tuple[HopHint, ...] = ()) -> int:
    """The size of the record that carries a message whole."""
    (load,) = pack([message], safe_room_bytes=0, hints=hints)
    return load.size_bytes


def most_record_bytes(size_bytes: int) -> int:
    """The size of the record that carries a message of so many bytes whole, if it cannot be compressed."""
    return envelope.HEADER_BYTES + _AROUND_BODY_BYTES + size_bytes


def most_parts(size_bytes: int, *, amount_msat: int, safe_room_bytes: int) -> int:
    """How many payments a message of so many bytes takes at most, however far away its recipient is."""
    if most_record_bytes(size_bytes) <= safe_room_bytes:
        return 1
    most_msat = max(amount_msat, size_bytes * MIN_AMOUNT_MSAT)
    sample = Message(message_id=UUID(int=0), reply_to=UUID(int=0), amount_msat=most_msat)
    return -(-size_bytes // part_bytes(sample, size_bytes=size_bytes, room_bytes=safe_room_bytes))


# What surrounds the body of a whole message at most: id, reply_to, amount, compression, time; tags and lengths.
_AROUND_BODY_BYTES = 18 + 18 + 11 + 2 + 11 + 5 + ITEM_FRAME_BYTES


def _item(carried: Message | Part) -> envelope_pb2.Item:
    return (
        envelope.encode_part(_outgoing_part(carried))
        if isinstance(carried, Part)
        else envelope.encode_item(_outgoing(carried))
    )


def _outgoing(message: Message) -> envelope.Item:
    return envelope.Item(
        id=message.message_id,
        reply_to=message.reply_to,
        body=bytes(message.body),
        amount_msat=message.amount_msat,
        sent_at_ms=_sent_at_ms(message),
    )


def _outgoing_part(part: Part) -> envelope.ItemPart:
    message, division = part.message, part.message.division
    start = part.index * division.part_bytes
    return envelope.ItemPart(
        id=message.message_id,
        reply_to=message.reply_to,
        body=bytes(division.body[start : start + division.part_bytes]),
        amount_msat=part.amount_msat,
        sent_at_ms=_sent_at_ms(message),
        compression=cast("envelope_pb2.Compression", division.compression),
        index=part.index,
        count=message.parts,
        size=len(division.body),
        sha256=bytes(division.sha256),
    )


def _sent_at_ms(message: Message) -> int:
    return int(message.created_at.timestamp() * 1000)
