"""server.message_encoding: text, for clients of v0.1.3: JSON carries `msg` and `data` as text, gRPC stays as it is."""

import pytest

from protos import messaging_pb2
from tests.support.nodes import Node
from tests.support.streams import (
    GUARD_SECONDS,
    SEND,
    LineStream,
    WebsocketStream,
    b64,
    data_of,
    grpc_stream,
    is_end,
    messaging,
    send,
)


@pytest.fixture(scope="module")
def carol(network, tmp_path_factory):
    extra = {"server": {"message_encoding": "text"}}
    with Node(network.nodes["carol"], tmp_path_factory.mktemp("carol"), extra=extra) as node:
        yield node


@pytest.mark.parametrize(
    "text", ["hello", "aGVsbG8=", 'grüße 😀 "quoted"\n', "NUL \0 too", "x" * 5_000], ids=len
)
def test_text_goes_out(carol, bob, text):
    with WebsocketStream(bob) as far:
        reply = carol.post(SEND, {"msg": text, "pubkey": bob.pubkey})
        assert reply.status == 200, reply.body
        message_id = reply.json["id"]
        assert data_of(far.until(lambda event: event["id"] == message_id)[-1]) == text.encode()
    assert carol.message(message_id)["msg"] == text
    assert text in [message["msg"] for message in carol.get("/v1/messages?direction=out").json["messages"]]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"hello", "hello"),
        ("grüße 😀".encode(), "grüße 😀"),
        (b"a\xffb\xe2\x82c", "a\ufffdb\ufffdc"),
        (b"\0", "\0"),
    ],
)
def test_bytes_come_in_as_text_over_websocket_and_http_and_as_they_are_over_grpc(carol, bob, body, text):
    with WebsocketStream(carol) as websocket, LineStream(carol) as lines, grpc_stream(carol) as call:
        message_id = send(bob, carol, body)
        # Ends of what other tests have sent may be told too.
        assert websocket.of(message_id)["data"] == text
        assert lines.of(message_id)["data"] == text
        assert next(event for event in call if event.id == message_id).data == body
    assert carol.message(message_id)["msg"] == text


def test_delivery_is_readable_json(carol, bob):
    with WebsocketStream(carol) as stream:
        with messaging(carol) as stub:
            request = messaging_pb2.SendMessageRequest(msg=b"\xff\xfe", pubkey=bob.pubkey)
            message_id = stub.SendMessage(request, timeout=GUARD_SECONDS).id
        event = stream.of(message_id)
    assert event["data"].startswith('{"state":"settled"')


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"msg":"\xff","pubkey":"%s"}', "body: is not UTF-8"),
        (b'{"msg":"\\ud800","pubkey":"%s"}', "body: is not JSON"),
        (b'{"msg":5,"pubkey":"%s"}', "msg: must be text"),
        (b'{"msg":"","pubkey":"%s"}', "msg: is missing or empty"),
    ],
)
def test_what_is_no_text_is_refused(carol, bob, body, words):
    reply = carol.post(SEND, body.replace(b"%s", bob.pubkey.encode()))
    assert (reply.status, reply.json["code"]) == (400, 3)
    assert reply.json["message"].startswith(words)


def test_raw_bytes_service_too(carol, bob):
    with WebsocketStream(bob) as far:
        reply = carol.post("/v1/websocket/send", {"data": "plain", "pubkey": bob.pubkey})
        assert data_of(far.until(lambda event: event["id"] == reply.json["id"])[-1]) == b"plain"


def test_length_counts_bytes(carol, bob):
    """Python's JSON takes six characters for each ü."""
    reply = carol.post(SEND, {"msg": "ü" * (2**19 + 1), "pubkey": bob.pubkey})
    assert reply.json["message"].startswith("msg: 1048578 bytes")


def test_base64_is_the_default(alice, bob):
    with WebsocketStream(alice) as stream:
        message_id = alice.post(SEND, {"msg": b64(b"hello"), "pubkey": bob.pubkey}).json["id"]
        stream.until(is_end(message_id))
    assert alice.message(message_id)["msg"] == "aGVsbG8="
    assert alice.post(SEND, {"msg": "no base64!", "pubkey": bob.pubkey}).status == 400
