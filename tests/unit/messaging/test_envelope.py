import zlib
from uuid import UUID, uuid4

import pytest
from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from messaging import envelope
from messaging.envelope import EnvelopeError, Item
from protos import envelope_pb2
from tests.support.examples import examples
from tests.support.records import RECORD_NUMBER, compact_signature, deflated, item, packet, sealed

ALICE, BOB, CAROL = PrivateKey(b"\x01" * 32), PrivateKey(b"\x02" * 32), PrivateKey(b"\x03" * 32)
ALICE_KEY, BOB_KEY, CAROL_KEY = (key.public_key.format() for key in (ALICE, BOB, CAROL))
MAX_BYTES = 1_048_576

bodies = st.binary(min_size=1, max_size=3_000) | st.builds(
    lambda unit, count: unit * count, st.binary(min_size=1, max_size=8), st.integers(1, 2_000)
)
outgoing_items = st.builds(
    Item,
    id=st.uuids(),
    reply_to=st.none() | st.uuids(),
    body=bodies,
    amount_msat=st.integers(0, 2**62),
    sent_at_ms=st.integers(-(2**63), 2**63 - 1),
)


def opened(
    record: bytes, *, recipient=BOB_KEY, record_number=RECORD_NUMBER, paid_msat=10**6, max_bytes=MAX_BYTES
):
    return envelope.decode_record(
        record, recipient=recipient, record_number=record_number, paid_msat=paid_msat, max_bytes=max_bytes
    )


def opened_items(*items: envelope_pb2.Item, **arguments):
    return opened(sealed(ALICE, packet(*items), recipient=BOB_KEY), **arguments)


def reason(record: bytes, **arguments) -> str:
    with pytest.raises(EnvelopeError) as caught:
        opened(record, **arguments)
    return caught.value.reason


@settings(deadline=None)
@given(st.lists(outgoing_items, min_size=1, max_size=6))
def test_what_is_sent_is_received(items):
    raw = envelope.encode_packet(envelope.encode_item(item) for item in items)
    message = envelope.signed_bytes(recipient=BOB_KEY, record_number=RECORD_NUMBER, packet=raw)
    record = envelope.encode_record(
        sender=ALICE_KEY, compact_signature=compact_signature(ALICE, message), packet=raw
    )
    received = opened(record, paid_msat=sum(item.amount_msat for item in items))
    assert received.sender == ALICE_KEY
    assert (received.dropped, received.shares_disbelieved) == ({}, False)
    fields = ("id", "reply_to", "body", "amount_msat", "sent_at_ms")
    assert [[getattr(item, name) for name in fields] for item in received.items] == [
        [getattr(item, name) for name in fields] for item in items
    ]


def test_header():
    record = envelope.encode_record(sender=ALICE_KEY, compact_signature=b"s" * 64, packet=b"packet")
    assert record == b"IMP\x01" + ALICE_KEY + b"s" * 64 + b"packet"
    assert envelope.HEADER_BYTES == 101
    assert envelope.is_ours(record)


@pytest.mark.parametrize("record", [b"", b"IM", b"imp\x01", b"hello", b"\x00IMP"])
def test_foreign_records(record):
    assert not envelope.is_ours(record)


def test_signed_bytes():
    signed = envelope.signed_bytes(recipient=BOB_KEY, record_number=400000, packet=b"packet")
    assert signed == b"impervious packet 1" + BOB_KEY + bytes.fromhex("0000000000061a80") + b"packet"


def test_signed_for_another_recipient():
    record = sealed(ALICE, packet(item()), recipient=CAROL_KEY)
    assert reason(record) == "signature"
    assert len(opened(record, recipient=CAROL_KEY).items) == 1


def test_signed_for_another_service():
    record = sealed(ALICE, packet(item()), recipient=BOB_KEY, record_number=RECORD_NUMBER)
    assert reason(record, record_number=300000) == "signature"


def test_someone_elses_name():
    record = sealed(CAROL, packet(item()), recipient=BOB_KEY)
    assert reason(record[:4] + ALICE_KEY + record[37:]) == "signature"


@pytest.mark.parametrize("sender", [bytes(33), b"\x02" + b"\xff" * 32, b"\x04" + ALICE_KEY[1:], b"\x05" * 33])
def test_sender_that_is_no_key(sender):
    record = sealed(ALICE, packet(item()), recipient=BOB_KEY)
    assert reason(record[:4] + sender + record[37:]) == "signature"


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64, b"\x01" * 64])
def test_signature_that_is_none(signature):
    record = sealed(ALICE, packet(item()), recipient=BOB_KEY)
    assert reason(record[:37] + signature + record[101:]) == "signature"


def test_every_bit_of_the_sender_the_signature_and_the_packet_is_bound():
    record = sealed(ALICE, packet(item()), recipient=BOB_KEY)
    for position in range(4, len(record)):
        broken = bytearray(record)
        broken[position] ^= 1 << (position % 8)
        assert reason(bytes(broken)) == "signature"


def test_truncated_at_every_byte():
    record = sealed(ALICE, packet(item()), recipient=BOB_KEY)
    for length in range(len(record)):
        assert reason(record[:length]) == ("truncated" if length <= 101 else "signature")


def test_packets_truncated_at_every_byte_before_they_are_signed():
    """A sender who signs half a packet: nothing but whole items ever comes out."""
    whole = packet(item(b"first"), item(b"second"))
    for length in range(1, len(whole)):
        try:
            received = opened(sealed(ALICE, whole[:length], recipient=BOB_KEY))
        except EnvelopeError as error:
            assert error.reason in ("packet", "no_items")
        else:
            assert [item.body for item in received.items] == [b"first"]


def test_own_key():
    assert reason(sealed(BOB, packet(item()), recipient=BOB_KEY)) == "own_key"


@pytest.mark.parametrize("version", [0, 2, 255])
def test_other_versions(version):
    assert reason(sealed(ALICE, packet(item()), recipient=BOB_KEY, version=version)) == "version"


def test_without_items():
    hints = envelope_pb2.Packet(reply_hints=[envelope_pb2.HopHint(node_id=ALICE_KEY)]).SerializeToString()
    assert reason(sealed(ALICE, hints, recipient=BOB_KEY)) == "no_items"


def test_as_many_items_as_are_allowed():
    items = [item(b"x", amount_msat=0) for _ in range(envelope.MAX_ITEMS)]
    assert len(opened_items(*items).items) == envelope.MAX_ITEMS
    assert (
        reason(sealed(ALICE, packet(*items, item(b"x", amount_msat=0)), recipient=BOB_KEY))
        == "too_many_items"
    )


def test_a_million_items():
    million = b"\x0a\x00" * 10**6
    assert len(envelope_pb2.Packet.FromString(million).items) == 10**6
    assert reason(sealed(ALICE, million, recipient=BOB_KEY)) == "too_large"
    as_many_as_fit = million[: envelope.MAX_RECORD_BYTES - 101 & ~1]
    assert reason(sealed(ALICE, as_many_as_fit, recipient=BOB_KEY)) == "too_many_items"


@pytest.mark.parametrize(
    ("why", "broken"),
    [
        ("item_id", item(id=b"")),
        ("item_id", item(id=b"\x01" * 15)),
        ("item_id", item(id=b"\x01" * 17)),
        ("item_reply_to", item(reply_to=b"\x01" * 15)),
        ("item_reply_to", item(reply_to=b"\x01" * 17)),
        ("item_empty", item(b"")),
        ("item_compression", item(compression=2)),
        ("item_compression", item(compression=-1)),
        ("item_compression", item(b"\xff\xff\xff", compression=envelope_pb2.DEFLATE)),
        ("item_compression", item(deflated(b""), compression=envelope_pb2.DEFLATE)),
        ("item_compression", item(deflated(b"abc" * 20) + b"trailing", compression=envelope_pb2.DEFLATE)),
        ("item_compression", item(deflated(b"abcdefgh" * 20)[:-1], compression=envelope_pb2.DEFLATE)),
        ("item_compression", item(zlib.compress(b"abcdefgh" * 20), compression=envelope_pb2.DEFLATE)),
        ("item_too_large", item(deflated(bytes(2**26)), compression=envelope_pb2.DEFLATE)),
        ("item_too_large", item(deflated(bytes(100_000)), compression=envelope_pb2.DEFLATE)),
    ],
)
def test_broken_items_are_dropped_and_the_others_are_kept(why, broken):
    first, last = item(b"first"), item(b"last")
    if len(broken.body) > 60_000:  # a larger bomb than a record may hold
        broken.body = broken.body[:60_000]
    received = opened_items(first, broken, last)
    assert [item.body for item in received.items] == [b"first", b"last"]
    assert received.dropped == {why: 1}


def test_larger_than_is_taken():
    plain = item(b"x" * 1_001)
    packed = item(deflated(bytes(range(256)) * 4), compression=envelope_pb2.DEFLATE)
    assert len(packed.body) < 1_000
    received = opened_items(item(b"y" * 1_000), plain, packed, max_bytes=1_000)
    assert [len(item.body) for item in received.items] == [1_000]
    assert received.dropped == {"item_too_large": 2}


def test_decompression_stops_at_64_times_what_came():
    """Around the size where the ratio is passed, whatever zlib makes of it."""
    verdicts = set()
    for size in range(500, 20_000, 250):
        body = b"a" * size
        small = deflated(body)
        received = opened_items(item(small, compression=envelope_pb2.DEFLATE))
        taken = [item.body for item in received.items]
        if size <= envelope.MAX_EXPANSION * len(small):
            assert taken == [body]
        else:
            assert (taken, received.dropped) == ([], {"item_too_large": 1})
        verdicts.add(len(taken))
    assert verdicts == {0, 1}


def test_shares_are_believed_up_to_what_was_paid():
    exact = opened_items(item(amount_msat=600), item(amount_msat=400), paid_msat=1_000)
    assert [item.amount_msat for item in exact.items] == [600, 400]
    assert not exact.shares_disbelieved
    less = opened_items(item(amount_msat=1), item(amount_msat=2), paid_msat=1_000)
    assert [item.amount_msat for item in less.items] == [1, 2]
    assert not less.shares_disbelieved


@pytest.mark.parametrize("claims", [(600, 401), (0, 1_001), (2**64 - 1, 2**64 - 1)])
def test_shares_beyond_what_was_paid_are_not_believed(claims):
    received = opened_items(*(item(amount_msat=claim) for claim in claims), paid_msat=1_000)
    assert [item.amount_msat for item in received.items] == [1_000, 0]
    assert received.shares_disbelieved


def test_compression_only_where_it_helps():
    helped = envelope.encode_item(_outgoing(b"All work and no play. " * 40))
    assert helped.compression == envelope_pb2.DEFLATE
    assert len(helped.body) < 100
    not_helped = envelope.encode_item(_outgoing(bytes(range(256))))
    assert (not_helped.compression, not_helped.body) == (envelope_pb2.NONE, bytes(range(256)))


def test_no_compression_beyond_what_a_receiver_takes():
    zeros = bytes(100_000)
    assert len(zeros) > envelope.MAX_EXPANSION * len(deflated(zeros))
    assert envelope.encode_item(_outgoing(zeros)).body == zeros


@settings(deadline=None)
@given(bodies)
def test_compressed_bodies_stay_within_the_ratio(body):
    encoded = envelope.encode_item(_outgoing(body))
    assert len(encoded.body) <= len(body) <= envelope.MAX_EXPANSION * len(encoded.body)


def hints_of(*hints: envelope_pb2.HopHint):
    raw = envelope_pb2.Packet(items=[item(b"whole")], reply_hints=hints).SerializeToString()
    received = opened(sealed(ALICE, raw, recipient=BOB_KEY))
    assert [item.body for item in received.items] == [b"whole"]
    return received.reply_hints


def test_two_hints_and_no_more():
    given = [
        envelope_pb2.HopHint(node_id=CAROL_KEY, chan_id=n, fee_base_msat=1, cltv_delta=80)
        for n in range(1, 6)
    ]
    assert [(hint.node_id, hint.chan_id) for hint in hints_of(*given)] == [(CAROL_KEY, 1), (CAROL_KEY, 2)]


@pytest.mark.parametrize(
    "broken", [{"node_id": b"\x05" * 33}, {"node_id": CAROL_KEY[:-1]}, {"chan_id": 0}, {"cltv_delta": 2**31}]
)
def test_hints_that_make_no_sense_never_hurt(broken):
    good = {"node_id": CAROL_KEY, "chan_id": 1}
    assert hints_of(envelope_pb2.HopHint(**good), envelope_pb2.HopHint(**good | broken)) == ()


def part(**fields) -> envelope_pb2.Part:
    return envelope_pb2.Part(**{"index": 0, "count": 2, "size": 9, "sha256": bytes(32)} | fields)


def test_parts_are_told_apart():
    received = opened_items(item(b"whole"), item(b"half", part=part(index=1)))
    assert [item.body for item in received.items] == [b"whole"]
    (half,) = received.parts
    assert (half.body, half.index, half.count, half.size, half.sha256) == (b"half", 1, 2, 9, bytes(32))


@pytest.mark.parametrize(
    ("why", "broken"),
    [
        ("item_part", part(index=2)),
        ("item_part", part(count=0)),
        ("item_part", part(count=10)),
        ("item_part", part(count=2**32 - 1)),
        ("item_part", part(size=3)),
        ("item_part", part(size=0)),
        ("item_part", part(sha256=bytes(31))),
        ("item_part", part(sha256=b"")),
        ("item_too_large", part(size=MAX_BYTES + 1)),
        ("item_too_large", part(size=2**64 - 1)),
    ],
)
def test_broken_parts_are_dropped(why, broken):
    received = opened_items(item(b"whole"), item(b"half", part=broken))
    assert (len(received.items), received.parts, received.dropped) == (1, (), {why: 1})


def test_part_of_unknown_compression():
    assert opened_items(item(b"half", part=part(), compression=7)).dropped == {"item_compression": 1}


@settings(max_examples=examples(300), deadline=None)
@given(st.binary(max_size=300))
def test_random_records_raise_nothing_else(record):
    for candidate in (record, b"IMP\x01" + record, b"IMP\x01" + ALICE_KEY + record):
        with pytest.raises(EnvelopeError):
            opened(candidate)


@settings(max_examples=examples(300), deadline=None)
@given(
    st.binary(max_size=200) | st.lists(st.binary(max_size=40)).map(lambda raws: packet(*map(_lenient, raws)))
)
def test_random_packets_that_are_signed_raise_nothing_else(raw):
    try:
        received = opened(sealed(ALICE, raw, recipient=BOB_KEY))
    except EnvelopeError:
        return
    assert sum(item.amount_msat for item in received.items) <= 10**6
    assert all(isinstance(item.id, UUID) and item.body for item in received.items)


def _lenient(raw: bytes) -> envelope_pb2.Item:
    try:
        return envelope_pb2.Item.FromString(raw)
    except Exception:
        return item(raw, compression=envelope_pb2.DEFLATE)


def _outgoing(body: bytes) -> Item:
    return Item(id=uuid4(), reply_to=None, body=body, amount_msat=1_000, sent_at_ms=0)
