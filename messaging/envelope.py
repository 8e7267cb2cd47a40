"""The record that travels between nodes: encode, sign bytes, verify, decode. Pure: no input, no output.

    "IMP"  version 0x01  sender's key (33 bytes)  signature r ‖ s (64 bytes)  Packet (protobuf, to the end)

The signature binds the packet to its sender, its recipient and the service (record number), so that nobody can show a
packet to a third node, or to another service, as if it had been sent there.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from google.protobuf.message import DecodeError

from lightning import signature
from lightning.hints import MAX_HINTS, HopHint
from protos import envelope_pb2

MAGIC = b"IMP"
VERSION = 1
HEADER_BYTES = len(MAGIC) + 1 + signature.PUBKEY_BYTES + signature.COMPACT_BYTES
DOMAIN = b"impervious packet 1"

# A keysend has room for 1.2 kB and lnd's custom messages for 65,533 bytes: more than that is an attack.
MAX_RECORD_BYTES = 65_533
MAX_ITEMS = 1_024
# 1 sat must not make a receiver store a megabyte of zeros.
MAX_EXPANSION = 64


class EnvelopeError(Exception):
    """A record that is dropped. `reason` is a short word for the counters: never content."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Item:
    """One message as it travels, whole. `amount_msat` is its share of the payment; `sent_at_ms` is never trusted."""

    id: UUID
    reply_to: UUID | None
    body: bytes
    amount_msat: int
    sent_at_ms: int


@dataclass(frozen=True, kw_only=True)
class ItemPart:
    """One part of a message as it travels. `count`, `size` (bytes) and `sha256` are of the whole as it was sent."""

    id: UUID
    reply_to: UUID | None
    body: bytes
    amount_msat: int
    sent_at_ms: int
    compression: envelope_pb2.Compression
    index: int
    count: int
    size: int
    sha256: bytes


@dataclass(frozen=True, kw_only=True)
class ReceivedPacket:
    """A verified packet. `dropped` counts its broken items by reason; hints are ignored unless all of them make sense."""

    sender: bytes
    items: tuple[Item, ...]
    parts: tuple[ItemPart, ...]
    reply_hints: tuple[HopHint, ...]
    dropped: dict[str, int]
    shares_disbelieved: bool


def is_ours(record: bytes) -> bool:
    """Whether the record bears the magic bytes; others are foreign."""
    return record.startswith(MAGIC)


def encode_item(item: Item) -> envelope_pb2.Item:
    body, compression = compress(item.body)
    return envelope_pb2.Item(
        id=item.id.bytes,
        reply_to=item.reply_to.bytes if item.reply_to else b"",
        body=body,
        amount_msat=item.amount_msat,
        compression=compression,
        sent_at_ms=item.sent_at_ms,
    )


def encode_part(part: ItemPart) -> envelope_pb2.Item:
    return envelope_pb2.Item(
        id=part.id.bytes,
        reply_to=part.reply_to.bytes if part.reply_to else b"",
        body=part.body,
        amount_msat=part.amount_msat,
        compression=part.compression,
        part=envelope_pb2.Part(index=part.index, count=part.count, size=part.size, sha256=part.sha256),
        sent_at_ms=part.sent_at_ms,
    )


def encode_packet(items: Iterable[envelope_pb2.Item], reply_hints: Iterable[HopHint] = ()) -> bytes:
    hints = [
        envelope_pb2.HopHint(
            node_id=hint.node_id,
            chan_id=hint.chan_id,
            fee_base_msat=hint.fee_base_msat,
            fee_ppm=hint.fee_ppm,
            cltv_delta=hint.cltv_delta,
        )
        for hint in reply_hints
    ]
    return envelope_pb2.Packet(items=items, reply_hints=hints).SerializeToString()


def signed_bytes(*, recipient: bytes, record_number: int, packet: bytes) -> bytes:
    """What the sender's node key signs."""
    return DOMAIN + recipient + record_number.to_bytes(8, "big") + packet


def encode_record(*, sender: bytes, compact_signature: bytes, packet: bytes) -> bytes:
    return MAGIC + bytes([VERSION]) + sender + compact_signature + packet


def decode_record(
    record: bytes, *, recipient: bytes, record_number: int, paid_msat: int, max_bytes: int
) -> ReceivedPacket:
    """The verified packet of a record that came with `paid_msat`. EnvelopeError when it has to be dropped."""
    if len(record) > MAX_RECORD_BYTES:
        raise EnvelopeError("too_large")
    if len(record) <= HEADER_BYTES:
        raise EnvelopeError("truncated")
    if record[len(MAGIC)] != VERSION:
        raise EnvelopeError("version")
    sender, compact, packet = record[4:37], record[37:HEADER_BYTES], record[HEADER_BYTES:]
    if sender == recipient:
        raise EnvelopeError("own_key")
    message = signed_bytes(recipient=recipient, record_number=record_number, packet=packet)
    if not signature.verify(message=message, compact=compact, pubkey=sender):
        raise EnvelopeError("signature")
    return open_packet(sender, packet, paid_msat=paid_msat, max_bytes=max_bytes)


def open_packet(sender: bytes, packet: bytes, *, paid_msat: int, max_bytes: int) -> ReceivedPacket:
    try:
        parsed = envelope_pb2.Packet.FromString(packet)
    except DecodeError:
        raise EnvelopeError("packet") from None
    if not parsed.items:
        raise EnvelopeError("no_items")
    if len(parsed.items) > MAX_ITEMS:
        raise EnvelopeError("too_many_items")
    shares, believed = _shares([item.amount_msat for item in parsed.items], paid_msat)
    opened: list[Item | ItemPart] = []
    dropped: dict[str, int] = {}
    for item, share in zip(parsed.items, shares, strict=True):
        try:
            opened.append(_open_item(item, share, max_bytes))
        except EnvelopeError as error:
            dropped[error.reason] = dropped.get(error.reason, 0) + 1
    return ReceivedPacket(
        sender=sender,
        items=tuple(item for item in opened if isinstance(item, Item)),
        parts=tuple(item for item in opened if isinstance(item, ItemPart)),
        reply_hints=_open_hints(parsed.reply_hints),
        dropped=dropped,
        shares_disbelieved=not believed,
    )


def _open_item(item: envelope_pb2.Item, share_msat: int, max_bytes: int) -> Item | ItemPart:
    if len(item.id) != 16:
        raise EnvelopeError("item_id")
    if len(item.reply_to) not in (0, 16):
        raise EnvelopeError("item_reply_to")
    if not item.body:
        raise EnvelopeError("item_empty")
    if item.HasField("part"):
        return _open_part(item, share_msat, max_bytes)
    return Item(
        id=UUID(bytes=item.id),
        reply_to=_reply_to(item),
        body=decompress(item.body, item.compression, max_bytes),
        amount_msat=share_msat,
        sent_at_ms=item.sent_at_ms,
    )


def _open_part(item: envelope_pb2.Item, share_msat: int, max_bytes: int) -> ItemPart:
    part = item.part
    if item.compression not in envelope_pb2.Compression.values():
        raise EnvelopeError("item_compression")
    if part.size > max_bytes:
        raise EnvelopeError("item_too_large")
    # Each part has at least a byte, so there are at most as many as bytes.
    if not part.index < part.count <= part.size or len(item.body) > part.size or len(part.sha256) != 32:
        raise EnvelopeError("item_part")
    return ItemPart(
        id=UUID(bytes=item.id),
        reply_to=_reply_to(item),
        body=item.body,
        amount_msat=share_msat,
        sent_at_ms=item.sent_at_ms,
        compression=item.compression,
        index=part.index,
        count=part.count,
        size=part.size,
        sha256=part.sha256,
    )


def _reply_to(item: envelope_pb2.Item) -> UUID | None:
    return UUID(bytes=item.reply_to) if item.reply_to else None


def _open_hints(raw: Iterable[envelope_pb2.HopHint]) -> tuple[HopHint, ...]:
    """The first two; none of them when one makes no sense."""
    hints = tuple(
        HopHint(
            node_id=hint.node_id,
            chan_id=hint.chan_id,
            fee_base_msat=hint.fee_base_msat,
            fee_ppm=hint.fee_ppm,
            cltv_delta=hint.cltv_delta,
        )
        for hint in islice(raw, MAX_HINTS)
    )
    return hints if all(hint.is_sane for hint in hints) else ()


def _shares(claimed: list[int], paid_msat: int) -> tuple[list[int], bool]:
    """Shares are believed as far as they add up to at most what was paid; else the first item gets it all."""
    if sum(claimed) <= paid_msat:
        return claimed, True
    return [paid_msat] + [0] * (len(claimed) - 1), False


def compress(body: bytes) -> tuple[bytes, envelope_pb2.Compression]:
    """The body as it travels, compressed where that helps and a receiver takes it, and which compression that is."""
    compressor = zlib.compressobj(level=9, wbits=-15)
    small = compressor.compress(body) + compressor.flush()
    if len(small) < len(body) <= MAX_EXPANSION * len(small):
        return small, envelope_pb2.DEFLATE
    return body, envelope_pb2.NONE


def decompress(body: bytes, compression: int, max_bytes: int) -> bytes:
    """The body as it was. Raises EnvelopeError, before more than `max_bytes` or 64 times what came is in memory."""
    if compression == envelope_pb2.NONE:
        if len(body) > max_bytes:
            raise EnvelopeError("item_too_large")
        return body
    if compression != envelope_pb2.DEFLATE:
        raise EnvelopeError("item_compression")
    limit = min(max_bytes, MAX_EXPANSION * len(body))
    decompressor = zlib.decompressobj(wbits=-15)
    try:
        whole = decompressor.decompress(body, limit + 1)
    except zlib.error:
        raise EnvelopeError("item_compression") from None
    if len(whole) > limit:
        raise EnvelopeError("item_too_large")
    if not decompressor.eof or decompressor.unused_data or not whole:
        raise EnvelopeError("item_compression")
    return whole
