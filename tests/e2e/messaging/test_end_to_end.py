"""A message from one node to another, through all doors, and what becomes of it when something breaks."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import grpc
import pytest

from protos import messaging_pb2, node_pb2, node_pb2_grpc
from tests.support.databases import execute
from tests.support.nodes import Node
from tests.support.strangers import STRANGER
from tests.support.streams import (
    LineStream,
    WebsocketStream,
    data_of,
    delivery_of,
    grpc_stream,
    is_end,
    messaging,
    send,
    settle_down,
)

pytestmark = pytest.mark.sql


def received_ids(node: Node) -> list[str]:
    return [message["id"] for message in node.get("/v1/messages?direction=in&limit=1000").json["messages"]]


def test_sent_by_rest_seen_at_all_three_doors_alike(alice, bob):
    with WebsocketStream(bob) as socket, LineStream(bob) as lines, grpc_stream(bob) as call:
        message_id = send(alice, bob, b"to all doors", amount="21")
        event = socket.until(lambda event: event["id"] == message_id)[-1]
        line = next(line for line in iter(lines.text, "") if message_id in line)
        message = next(message for message in call if message.id == message_id)
    assert UUID(message_id).version == 4
    with WebsocketStream(bob, f"?after={message.seq - 1}") as replayed:
        text = replayed.text()
    assert line == text + "\n"
    assert json.loads(text)["result"] == event
    assert (message.id, message.from_pubkey, message.data) == (message_id, alice.pubkey, b"to all doors")
    assert (message.service_type, message.amount, message.reply_to_id) == ("message", 21, "")


def test_sent_by_grpc(alice, bob):
    question = str(uuid4())
    with WebsocketStream(bob) as stream, messaging(alice) as stub:
        request = messaging_pb2.SendMessageRequest(msg=b"by gRPC", pubkey=bob.pubkey, reply_to_id=question)
        message_id = stub.SendMessage(request).id
        event = stream.until(lambda event: event["id"] == message_id)[-1]
    assert (event["id"], data_of(event), event["replyToId"]) == (message_id, b"by gRPC", question)
    assert event["amount"] == "1"


def test_sender_is_told_of_the_delivery(alice, bob):
    with WebsocketStream(alice) as stream:
        message_id = send(alice, bob, amount=3)
        event = stream.until(is_end(message_id))[-1]
    assert event["fromPubkey"] == ""
    assert delivery_of(event) == {
        "state": "settled",
        "service": "message",
        "pubkey": bob.pubkey,
        "attempts": 1,
        "parts": 1,
        "amount": "3",
        "feeMsat": "0",
        "error": "",
    }


def test_fee_of_a_longer_route_is_told(alice, network):
    """carol is behind bob; her lnd takes the payment, whether or not a node listens there."""
    body = {"msg": "aGVsbG8=", "pubkey": network.nodes["carol"].pubkey}
    message_id = alice.post("/v1/message/send", body).json["id"]
    message = alice.ended(message_id)
    assert message["state"] == "settled"
    assert int(message["feeMsat"]) > 0


def test_stream_ignores_what_clients_say(alice, bob):
    with WebsocketStream(bob) as stream:
        stream.connection.send("something")
        stream.connection.send(b"\x00\xff")
        message_id = send(alice, bob)
        stream.until(lambda event: event["id"] == message_id)


def test_subscription_answers_before_the_first_event(alice):
    with LineStream(alice) as lines:
        assert lines.response.status == 200
    with grpc_stream(alice):
        pass


def test_replay_goes_over_into_live_without_gap_or_repetition(alice, bob):
    first = [send(alice, bob) for _ in range(5)]
    bob.wait_until(lambda: set(first) <= set(received_ids(bob)))
    with (
        WebsocketStream(bob, "?after=0&service=message") as stream,
        WebsocketStream(bob, "?after=0") as whole,
    ):
        last = send(alice, bob)
        events = stream.until(lambda event: event["id"] == last)
        everything = whole.until(lambda event: event["id"] == last)
    seqs = [int(event["seq"]) for event in events]
    assert seqs == sorted(set(seqs))
    assert {event["serviceType"] for event in events} == {"message"}
    assert [event["id"] for event in events if event["id"] in first] != []
    stored = execute(
        bob.database_url, f"SELECT seq FROM messaging_event WHERE seq <= {seqs[-1]} ORDER BY seq"
    )
    assert [int(event["seq"]) for event in everything] == [seq for (seq,) in stored]


def test_service_filter(alice, bob):
    with WebsocketStream(alice, "?service=message&service=vpn") as stream:
        told_elsewhere = send(alice, bob)
        alice.ended(told_elsewhere)
        answer = send(bob, alice)
        events = stream.until(lambda event: event["id"] == answer)
    assert {event["serviceType"] for event in events} <= {"message", "vpn"}
    assert told_elsewhere not in {event["id"] for event in events}


def test_ack_holds_back(alice, bob):
    settle_down(alice)
    query = f"?service=message&after={bob.get('/v1/node').json['lastSeq']}"
    with WebsocketStream(bob, query + "&ack=2") as held, WebsocketStream(bob, query) as free:
        ids = {send(alice, bob) for _ in range(5)}
        seqs = [int(free.event()["seq"]) for _ in range(5)]
        assert [int(held.event()["seq"]) for _ in range(2)] == seqs[:2]
        with pytest.raises(TimeoutError):
            held.connection.recv(timeout=0.5)
        held.connection.send(f'{{"ack":{seqs[1]}}}')
        assert [int(held.event()["seq"]) for _ in range(2)] == seqs[2:4]
    assert len(ids) == 5


def test_history(alice, bob):
    ids = [send(alice, bob, bytes([65 + number])) for number in range(4)]
    for message_id in ids:
        alice.ended(message_id)
    path = f"/v1/messages?pubkey={bob.pubkey}&direction=out&service=message&state=settled"
    newest = alice.get(path + "&limit=3").json["messages"]
    assert [message["id"] for message in newest] == ids[:0:-1]
    older = alice.get(path + f"&limit=1&before={ids[1]}").json["messages"]
    assert [message["id"] for message in older] == ids[:1]
    with messaging(alice) as stub:
        request = messaging_pb2.ListMessagesRequest(limit=4, direction="out", service="message")
        listed = stub.ListMessages(request).messages
        assert [message.id for message in listed] == ids[::-1]
        one = stub.GetMessage(messaging_pb2.GetMessageRequest(id=ids[0])).message
    assert (one.msg, one.pubkey, one.state, one.attempts) == (b"A", bob.pubkey, "settled", 1)
    assert base64.b64decode(alice.message(ids[0])["msg"]) == b"A"
    assert alice.get(f"/v1/message/{uuid4()}").status == 404


def test_node_info(alice, network):
    info = alice.get("/v1/node").json
    assert info["pubkey"] == network.nodes["alice"].pubkey
    assert (info["network"], info["lndReachable"], info["synced"], info["keysend"]) == (
        "simulated",
        True,
        True,
        True,
    )
    assert int(info["spendableSat"]) > 0
    assert int(info["receivableSat"]) > 0
    services = {service["serviceType"]: service for service in info["services"]}
    assert services["message"]["state"] == "running"
    assert services["message"]["customRecordNumber"] == "400000"
    with grpc.insecure_channel(alice.grpc) as channel:
        assert node_pb2_grpc.NodeStub(channel).GetInfo(node_pb2.GetInfoRequest()).pubkey == info["pubkey"]


def test_unknown_node_fails_at_once_with_a_cause(alice):
    reply = alice.post("/v1/message/send", {"msg": "aGVsbG8=", "pubkey": STRANGER})
    assert reply.status == 200
    message = alice.ended(reply.json["id"])
    assert message["state"] == "failed"
    assert "does not know this node" in message["error"]


def test_long_text_that_compresses_arrives(alice, bob):
    text = b"All of this says the same thing. " * 100
    with WebsocketStream(bob) as stream:
        message_id = send(alice, bob, text)
        event = stream.until(lambda event: event["id"] == message_id)[-1]
    assert data_of(event) == text


def test_many_at_once_arrive_once_each(alice, bob):
    with ThreadPoolExecutor(24) as pool:
        ids = list(pool.map(lambda number: send(alice, bob, b"%d" % number), range(240)))
    bob.wait_until(lambda: set(ids) <= set(received_ids(bob)))
    got = [message_id for message_id in received_ids(bob) if message_id in set(ids)]
    assert sorted(got) == sorted(ids)


def test_lnd_that_fails_payments_is_tried_again(alice, bob, network):
    settle_down(alice, bob)
    network.command("fail", count=1, reason="NO_ROUTE", node="bob")
    with WebsocketStream(alice) as stream:
        message_id = send(alice, bob)
        events = stream.until(is_end(message_id))
    states = [delivery_of(event)["state"] for event in events if event["id"] == message_id]
    assert states == ["retrying", "settled"]
    assert alice.message(message_id)["attempts"] == "2"


def test_far_lnd_that_is_away_gets_it_later(alice, bob, network):
    network.command("down", node="carol")
    try:
        body = {"msg": "bGF0ZXI=", "pubkey": network.nodes["carol"].pubkey}
        message_id = alice.post("/v1/message/send", body).json["id"]
        alice.wait_until(lambda: alice.message(message_id)["state"] in ("retrying", "in_flight"))
        assert alice.ended(send(alice, bob))["state"] == "settled"
    finally:
        network.command("up", node="carol")
    assert alice.ended(message_id)["state"] == "settled"


def test_own_lnd_that_is_away_delays_and_loses_nothing(alice, bob, network):
    network.command("down", node="alice")
    try:
        ids = [send(alice, bob) for _ in range(3)]
    finally:
        network.command("up", node="alice")
    bob.wait_until(lambda: set(ids) <= set(received_ids(bob)))
    assert {alice.ended(message_id)["state"] for message_id in ids} == {"settled"}
    alice.wait_until(lambda: alice.get("/v1/node").json["lndReachable"])


def test_kill_9_of_the_sender_neither_loses_nor_repeats(alice, bob, network):
    network.command("latency", ms=150)
    try:
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda _: send(alice, bob), range(60)))
            alice.kill()
    finally:
        network.command("latency", ms=0)
    alice.start()
    bob.wait_until(lambda: set(ids) <= set(received_ids(bob)))
    for message_id in ids:
        assert alice.ended(message_id)["state"] == "settled"
    got = [message_id for message_id in received_ids(bob) if message_id in set(ids)]
    assert sorted(got) == sorted(ids)


def test_foreign_record_is_shown_as_it_is(bob, network):
    text = b"from lncli " + uuid4().hex.encode()
    with WebsocketStream(bob) as stream:
        network.pay("alice", "bob", {400000: text}, amount_msat=2000)
        event = stream.until(lambda event: data_of(event) == text)[-1]
    assert (event["serviceType"], event["fromPubkey"], event["amount"]) == ("message", "", "2")


def test_second_engine_on_the_same_database_is_refused(alice):
    other = Node(alice.lnd, alice.directory.parent / "second", database_url=alice.database_url)
    assert f"process {alice.process.pid}" in other.refused_start()


def test_taken_port_is_told(alice, network, tmp_path):
    other = Node(network.nodes["carol"], tmp_path / "other")
    other.config_path.write_text(other.config_path.read_text().replace(other.http, alice.http))
    log = other.refused_start()
    assert "server.http_addr" in log
    assert alice.http in log


def test_sigterm_ends_it_cleanly(network, tmp_path):
    with Node(network.nodes["carol"], tmp_path / "carol") as node:
        assert node.stop() == 0
    assert "Traceback" not in node.log
