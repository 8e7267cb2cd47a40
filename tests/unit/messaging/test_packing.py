import hashlib
import os
from uuid import uuid4

from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning.hints import HopHint
from lightning.keysend import SAFE_ROOM_BYTES
from messaging import envelope
from messaging.models import Direction, Message, State
from messaging.packing import Undividable, divide, most_parts, most_record_bytes, pack, record_bytes

BOB, CAROL = "02" + "bb" * 32, "02" + "cc" * 32


def message(size: int = 50, *, pubkey=BOB, service="message", alone=False, amount_msat=1_000) -> Message:
    return Message(
        message_id=uuid4(),
        direction=Direction.OUT,
        pubkey=pubkey,
        service=service,
        body=os.urandom(size),
        amount_msat=amount_msat,
        state=State.QUEUED,
        alone=alone,
    )


def packed(*messages: Message) -> list[list[Message]]:
    return [load.carried for load in pack(messages, safe_room_bytes=SAFE_ROOM_BYTES)]


def test_nothing():
    assert packed() == []


def test_small_messages_to_one_node_and_service_share_a_payment():
    first, second = message(amount_msat=1_000), message(amount_msat=5_000)
    (load,) = pack([first, second], safe_room_bytes=SAFE_ROOM_BYTES)
    assert (load.pubkey, load.service, load.amount_msat) == (BOB, "message", 6_000)
    assert load.carried == [first, second]
    assert [item.id for item in load.items] == [first.message_id.bytes, second.message_id.bytes]
    assert [item.amount_msat for item in load.items] == [1_000, 5_000]


def test_nodes_and_services_are_kept_apart():
    a, b, c, d = message(), message(pubkey=CAROL), message(service="websocket"), message()
    assert packed(a, b, c, d) == [[a, d], [b], [c]]


def test_what_is_larger_than_the_room_travels_alone():
    small, large, other = message(), message(5_000), message()
    assert packed(large) == [[large]]
    assert packed(small, large, other) == [[small], [large], [other]]


def test_where_the_room_is_known_it_is_filled():
    near, far = [message(100) for _ in range(7)], [message(100, pubkey=CAROL) for _ in range(7)]
    loads = pack(near + far, safe_room_bytes=SAFE_ROOM_BYTES, room_to={BOB: 1_102, CAROL: 300}.get)
    assert [load.carried for load in loads] == [near, far[:4], far[4:]]
    assert SAFE_ROOM_BYTES < loads[0].size_bytes <= 1_102
    for load in loads:
        assert load.size_bytes == envelope.HEADER_BYTES + len(envelope.encode_packet(load.items, ()))


def test_a_message_that_needs_more_than_the_safe_room_is_alone_wherever_it_goes():
    small, large, other = message(), message(800), message()
    loads = pack([small, large, other], safe_room_bytes=SAFE_ROOM_BYTES, room_to=lambda _: 1_102)
    assert [load.carried for load in loads] == [[small], [large], [other]]


def test_what_failed_in_company_travels_alone():
    a, lonely, b = message(), message(alone=True), message()
    assert [len(load) for load in packed(a, lonely, b)].count(1) == 1
    assert [lonely] in packed(a, lonely, b)
    other = message(alone=True)
    assert packed(lonely, other) == [[lonely], [other]]


def test_replies_name_what_they_answer():
    answer = message()
    answer.reply_to = uuid4()
    (load,) = pack([answer], safe_room_bytes=SAFE_ROOM_BYTES)
    assert load.items[0].reply_to == answer.reply_to.bytes


def sealed_bytes(load, hints=()) -> int:
    return envelope.HEADER_BYTES + len(envelope.encode_packet(load.items, hints))


def hint(chan_id: int = 2**63) -> HopHint:
    key = PrivateKey(b"\x07" * 32).public_key.format()
    return HopHint(
        node_id=key, chan_id=chan_id, fee_base_msat=2**32 - 1, fee_ppm=2**32 - 1, cltv_delta=2**16 - 1
    )


@settings(deadline=None)
@given(
    st.integers(1, 6_000),
    st.booleans(),
    st.integers(300, 1206),
    st.integers(0, 2),
    st.integers(1, 10**9),
    st.booleans(),
)
def test_parts_fit_and_join_to_what_was_divided(size, text, room_bytes, hint_count, amount_msat, is_reply):
    hints = (hint(),) * hint_count
    original = message(size, amount_msat=amount_msat)
    original.reply_to = uuid4() if is_reply else None
    original.body = (b"All work and no play. " * size)[:size] if text else original.body
    try:
        division, parts = divide(original, room_bytes=room_bytes, hints=hints)
    except Undividable:
        assert room_bytes < 450
        return
    original.parts, original.division = len(parts), division
    loads = pack(parts, safe_room_bytes=SAFE_ROOM_BYTES, hints=hints)
    assert all(sealed_bytes(load, hints) <= room_bytes for load in loads)
    assert all(part.amount_msat >= 1_000 for part in parts)
    assert sum(part.amount_msat for part in parts) == max(amount_msat, 1_000 * len(parts))
    items = [item for load in loads for item in load.items]
    assert [item.part.index for item in items] == list(range(len(parts)))
    whole = b"".join(item.body for item in items)
    assert {(item.part.count, item.part.size, item.part.sha256) for item in items} == {
        (len(parts), len(whole), hashlib.sha256(whole).digest())
    }
    assert envelope.decompress(whole, items[0].compression, size) == original.body
    if not hints and record_bytes(original) > room_bytes:
        safe_room_bytes = min(room_bytes, SAFE_ROOM_BYTES)
        assert len(parts) <= most_parts(size, amount_msat=amount_msat, safe_room_bytes=safe_room_bytes)


@given(st.integers(1, 3_000))
def test_sizes_are_known_before(size):
    original = message(size, amount_msat=2**60)
    original.reply_to = uuid4()
    (load,) = pack([original], safe_room_bytes=0)
    assert record_bytes(original) == load.size_bytes
    assert sealed_bytes(load) <= load.size_bytes <= most_record_bytes(size)


messages = st.builds(
    message,
    st.integers(1, 900),
    pubkey=st.sampled_from([BOB, CAROL]),
    service=st.sampled_from(["message", "websocket"]),
    alone=st.booleans(),
)


@settings(deadline=None)
@given(st.lists(messages, max_size=30))
def test_rules(waiting):
    loads = pack(waiting, safe_room_bytes=SAFE_ROOM_BYTES)
    assert sorted(id(m) for load in loads for m in load.carried) == sorted(id(m) for m in waiting)
    for load in loads:
        assert {(m.pubkey, m.service) for m in load.carried} == {(load.pubkey, load.service)}
        assert len(load.carried) == 1 or not any(m.alone for m in load.carried)
        record = envelope.HEADER_BYTES + len(envelope.encode_packet(load.items))
        assert len(load.carried) == 1 or record <= SAFE_ROOM_BYTES
    for pubkey in (BOB, CAROL):
        for service in ("message", "websocket"):
            in_company = [m for m in waiting if (m.pubkey, m.service, m.alone) == (pubkey, service, False)]
            in_loads = [
                m
                for load in loads
                for m in load.carried
                if (m.pubkey, m.service, m.alone) == (pubkey, service, False)
            ]
            assert in_loads == in_company
