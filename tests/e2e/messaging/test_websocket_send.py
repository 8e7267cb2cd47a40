"""Raw bytes to another node's stream."""

import grpc
import pytest

from protos import websocket_pb2, websocket_pb2_grpc
from tests.support.nodes import SERVICES, Node
from tests.support.streams import GUARD_SECONDS, WebsocketStream, b64, data_of, delivery_of, is_end

SEND = "/v1/websocket/send"


@pytest.mark.parametrize(
    "data", [b"\x00\xff raw", b"IMP\x01 looks like ours", bytes(range(256)) * 20], ids=len
)
def test_bytes_are_told_by_the_far_stream(alice, bob, data):
    with WebsocketStream(alice) as own, WebsocketStream(bob) as far:
        reply = alice.post(SEND, {"pubkey": bob.pubkey, "data": b64(data), "amount": "25"})
        assert reply.status == 200, reply.body
        event = far.until(lambda event: event["id"] == reply.json["id"])[-1]
        delivery = delivery_of(own.until(is_end(reply.json["id"]))[-1])
    assert (event["serviceType"], event["fromPubkey"], event["amount"]) == ("websocket", alice.pubkey, "25")
    assert data_of(event) == data
    assert (delivery["service"], delivery["state"]) == ("websocket", "settled")


def test_grpc_and_subscribe_stand_side_by_side(alice, bob):
    with grpc.insecure_channel(alice.grpc) as own, grpc.insecure_channel(bob.grpc) as far:
        stream = websocket_pb2_grpc.WebsocketStub(far).Subscribe(
            websocket_pb2.SubscribeRequest(services=["websocket"]), timeout=GUARD_SECONDS
        )
        stream.initial_metadata()
        request = websocket_pb2.SendRequest(pubkey=bob.pubkey, data=b"hello")
        sent = websocket_pb2_grpc.WebsocketStub(own).Send(request, timeout=GUARD_SECONDS)
        event = next(event for event in stream if event.id == sent.id)
        stream.cancel()
    assert (event.data, event.service_type, event.amount) == (b"hello", "websocket", 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": ""}, "data: is missing or empty"),
        ({"data": b64(bytes(2**20 + 1))}, "data: 1048577 bytes"),
        ({"data": "no base64!"}, "data: is not base64"),
        ({"pubkey": "02"}, "pubkey: must be 66"),
        ({"amount": -1}, "amount: must not be negative"),
    ],
    ids=str,
)
def test_what_is_refused(alice, bob, change, words):
    reply = alice.post(SEND, {"pubkey": bob.pubkey, "data": "aGk=", **change})
    assert (reply.status, reply.json["code"]) == (400, 3)
    assert reply.json["message"].startswith(words)


def test_own_key_and_the_same_key_twice(alice, bob):
    body = {"pubkey": bob.pubkey, "data": "aGk="}
    assert "own key" in alice.post(SEND, body | {"pubkey": alice.pubkey}).json["message"]
    key = {"Idempotency-Key": "raw-bytes-once"}
    first = alice.post(SEND, body, key)
    bob.wait_until(lambda: bob.get(f"/v1/message/{first.json['id']}").status == 200)
    assert alice.post(SEND, body, key).json == first.json
    assert alice.post(SEND, body | {"amount": 2}, key).json["code"] == 6
    # The same key stands for one call of one method.
    assert alice.post("/v1/message/send", {"pubkey": bob.pubkey, "msg": "aGk="}, key).json["code"] == 6


def test_service_that_is_off(network, bob, tmp_path):
    rows = [
        {"service_type": name, "active": name != "websocket", "custom_record_number": number}
        for name, number in SERVICES.items()
    ]
    with Node(network.nodes["carol"], tmp_path / "carol", extra={"service_list": rows}) as carol:
        reply = carol.post(SEND, {"pubkey": bob.pubkey, "data": "aGk="})
        assert (reply.status, reply.json["code"]) == (400, 9)
        assert "websocket is off" in reply.json["message"]
