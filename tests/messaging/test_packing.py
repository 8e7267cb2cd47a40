import os
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from lightning.keysend import SAFE_ROOM_BYTES
from messaging import envelope
from messaging.models import Direction, Message, State
from messaging.packing import pack

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
    return [load.messages for load in pack(messages, safe_room_bytes=SAFE_ROOM_BYTES)]


def test_nothing():
    assert packed() == []


def test_small_messages_to_one_node_and_service_share_a_payment():
    first, second = message(amount_msat=1_000), message(amount_msat=5_000)
    (load,) = pack([first, second], safe_room_bytes=SAFE_ROOM_BYTES)
    assert (load.pubkey, load.service, load.amount_msat) == (BOB, "message", 6_000)
    assert load.messages == [first, second]
    assert [item.id for item in load.items] == [first.message_id.bytes, second.message_id.bytes]
    assert [item.amount_msat for item in load.items] == [1_000, 5_000]


def test_nodes_and_services_are_kept_apart():
    a, b, c, d = message(), message(pubkey=CAROL), message(service="websocket"), message()
    assert packed(a, b, c, d) == [[a, d], [b], [c]]


def test_what_is_larger_than_the_room_travels_alone():
    small, large, other = message(), message(5_000), message()
    assert packed(large) == [[large]]
    assert packed(small, large, other) == [[small], [large], [other]]


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
    assert sorted(id(m) for load in loads for m in load.messages) == sorted(id(m) for m in waiting)
    for load in loads:
        assert {(m.pubkey, m.service) for m in load.messages} == {(load.pubkey, load.service)}
        assert len(load.messages) == 1 or not any(m.alone for m in load.messages)
        record_bytes = envelope.HEADER_BYTES + len(envelope.encode_packet(load.items))
        assert len(load.messages) == 1 or record_bytes <= SAFE_ROOM_BYTES
    for pubkey in (BOB, CAROL):
        for service in ("message", "websocket"):
            in_company = [m for m in waiting if (m.pubkey, m.service, m.alone) == (pubkey, service, False)]
            in_loads = [m for load in loads for m in load.messages if (m.pubkey, m.service, m.alone) == (pubkey, service, False)]
            assert in_loads == in_company
