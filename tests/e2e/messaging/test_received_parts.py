"""Parts as strangers send them: in any order, mixed, repeated, contradicting, without end. Records are made by hand."""

import os
from uuid import UUID

import pytest
from coincurve import PrivateKey

from tests.support.databases import execute
from tests.support.nodes import Node
from tests.support.records import RECORD_NUMBER, deflated
from tests.support.strangers import LongMessage
from tests.support.streams import WebsocketStream, data_of, send

pytestmark = pytest.mark.sql


@pytest.fixture
def carol(network, tmp_path):
    bounds = {
        "message": {
            "incomplete_per_peer": 3,
            "incomplete": 8,
            "incomplete_bytes": 20_000,
            "max_bytes": 12_000,
        }
    }
    with Node(network.nodes["carol"], tmp_path / "carol", extra=bounds) as node:
        yield node


@pytest.fixture
def pay(network, carol):
    def pay(message: LongMessage, index: int, **wrong) -> dict:
        return pay_part(network, carol, message, index, **wrong)

    return pay


def pay_part(network, node: Node, message: LongMessage, index: int, **wrong) -> dict:
    """Until it is stored: what comes while the node starts is found a little later than what comes live."""
    known = payments(node)
    record = message.record(node.pubkey, index, **wrong)
    end = network.pay("bob", node.pubkey, {RECORD_NUMBER: record})
    assert end["status"] == "SUCCEEDED", end
    node.wait_until(lambda: payments(node) > known)
    return end


def payments(node: Node) -> int:
    return execute(node.database_url, "SELECT count(*) FROM messaging_receivedhtlc")[0][0]


def received(node: Node, alice: Node, *expected: LongMessage) -> dict[str, bytes]:
    """All messages of strangers that the node's stream told, once each. Waits for those that are expected: what comes
    while the node starts is found a little later than what comes live.
    """
    node.wait_until(
        lambda: {str(message.id) for message in expected} <= {found["id"] for found in stored(node)}
    )
    last = send(alice, node)
    with WebsocketStream(node, "?after=0&service=message") as stream:
        events = stream.until(lambda event: event["id"] == last)[:-1]
    told = {event["id"]: data_of(event) for event in events if event["fromPubkey"] != alice.pubkey}
    assert len(told) == sum(event["fromPubkey"] != alice.pubkey for event in events)
    return told


def stored(node: Node) -> list[dict]:
    return node.get("/v1/messages?direction=in&limit=1000").json["messages"]


def test_any_order_interleaved_and_over_a_restart(carol, alice, pay):
    one, two = LongMessage(count=4), LongMessage(count=3)
    for message, index in ((one, 3), (two, 2), (one, 0), (two, 1), (one, 1)):
        pay(message, index)
    assert received(carol, alice) == {}
    carol.kill()
    carol.start()
    pay(two, 0)
    pay(one, 2)
    assert received(carol, alice, one, two) == {str(one.id): one.body, str(two.id): two.body}
    event = carol.message(one.id)
    assert (event["pubkey"], event["amount"]) == (one.key.public_key.format().hex(), "4")


def test_repeated_parts_change_nothing(carol, alice, pay):
    message = LongMessage(count=2)
    for index in (0, 0, 0, 1, 1, 0):
        pay(message, index)
    assert received(carol, alice, message) == {str(message.id): message.body}


def test_same_id_from_another_sender_is_another_message(carol, alice, pay):
    mine, theirs = LongMessage(count=2), LongMessage(count=2)
    theirs.id = mine.id
    for message, index in ((mine, 0), (theirs, 0), (theirs, 1), (mine, 1)):
        pay(message, index)
    carol.wait_until(lambda: len(stored(carol)) == 2)
    found = stored(carol)
    assert [UUID(message["id"]) for message in found] == [mine.id, mine.id]
    assert len({message["pubkey"] for message in found}) == 2


@pytest.mark.parametrize(
    "wrong", [{"count": 3}, {"size": 101}, {"sha256": bytes(32)}, {"body": os.urandom(99)}]
)
def test_part_that_disagrees_is_dropped(carol, alice, pay, wrong):
    message = LongMessage(count=2)
    pay(message, 0)
    pay(message, 1, **wrong)
    assert received(carol, alice) == {}
    pay(message, 1)
    assert received(carol, alice, message) == {str(message.id): message.body}


def test_whole_that_is_not_what_was_said_is_gone(carol, alice, pay):
    message = LongMessage(count=2)
    pay(message, 0)
    pay(message, 1, body=bytes(50))
    assert received(carol, alice) == {}
    for index in range(2):
        pay(message, index)
    assert received(carol, alice, message) == {str(message.id): message.body}


def test_compressed_whole(carol, alice, pay):
    text = b" ".join(b"line %d of a text" % number for number in range(400))
    good = LongMessage(count=2, body=deflated(text), compression=1)
    bomb = LongMessage(count=2, body=deflated(bytes(11_000)), compression=1)
    garbage = LongMessage(count=2, compression=1)
    for message in (good, bomb, garbage):
        pay(message, 0)
        pay(message, 1)
    assert received(carol, alice, good) == {str(good.id): text}


def test_one_sender_has_room_for_so_many(carol, alice, pay):
    key = PrivateKey()
    messages = [LongMessage(count=2, key=key) for _ in range(4)]
    for message in messages:
        pay(message, 0)
    for message in messages:
        pay(message, 1)
    # The fourth was refused; its second part stands for a new beginning, which stays incomplete.
    assert set(received(carol, alice, *messages[:3])) == {str(message.id) for message in messages[:3]}
    carol.wait_until(lambda: "too_many_incomplete_from_one_peer" in carol.log)


def test_among_strangers_the_oldest_goes_and_known_peers_keep_their_room(carol, alice, bob, network, pay):
    friend = PrivateKey()
    reply = carol.post("/v1/message/send", {"msg": "aGk=", "pubkey": friend.public_key.format().hex()})
    assert reply.status == 200
    known = LongMessage(count=2, key=friend)
    pay(known, 0)
    strangers = [LongMessage(count=2) for _ in range(6)]
    for message in strangers:
        pay(message, 0)
    for message in [known, *strangers[2:]]:
        pay(message, 1)
    # Half of the room, four, is for strangers: the two oldest of six had to go.
    left = [known, *strangers[2:]]
    assert set(received(carol, alice, *left)) == {str(message.id) for message in left}
    carol.wait_until(lambda: "too_many_incomplete" in carol.log)


def test_bytes_count_as_they_come_not_as_they_are_declared(carol, alice, pay):
    declared = [LongMessage(count=20, body=os.urandom(11_000)) for _ in range(4)]
    for message in declared:
        pay(message, 0)
    small = LongMessage(count=2)
    for index in range(2):
        pay(small, index)
    assert set(received(carol, alice, small)) == {str(small.id)}
    large = LongMessage(count=12, body=os.urandom(9_000))
    for index in range(12):
        pay(large, index)
    assert set(received(carol, alice, large)) == {str(small.id), str(large.id)}
    too_large = LongMessage(count=20, body=os.urandom(11_000))
    for index in range(20):
        pay(too_large, index)
    # 10,000 bytes are for strangers: what was oldest made room, and one that alone is larger than that never gets it.
    assert set(received(carol, alice)) == {str(small.id), str(large.id)}
    carol.wait_until(lambda: "too_many_incomplete_bytes" in carol.log)


def test_what_stays_incomplete_is_forgotten(network, alice, tmp_path):
    message = LongMessage(count=2)
    with Node(network.nodes["carol"], tmp_path / "carol") as carol:
        pay_part(network, carol, message, 0)
        assert received(carol, alice) == {}
        carol.kill()
        execute(carol.database_url, "UPDATE messaging_assembly SET created_at = '2020-01-01 00:00:00'")
        carol.start()
        carol.wait_until(lambda: "incomplete_for_too_long" in carol.log)
        pay_part(network, carol, message, 1)
        assert received(carol, alice) == {}
