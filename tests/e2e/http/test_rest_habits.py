"""The JSON habits that clients of 2021 rely on (api.md), one by one."""

import base64
import json
from uuid import UUID, uuid4

import pytest

from tests.support.streams import SEND, WebsocketStream, b64, data_of, send

FIELDS = ["id", "replyToId", "fromPubkey", "data", "serviceType", "amount", "seq"]


def received(alice, bob, body, headers=None) -> dict:
    """What bob's stream tells of a request to alice."""
    with WebsocketStream(bob) as stream:
        reply = alice.post(SEND, body, headers)
        assert reply.status == 200, reply.body
        return stream.until(lambda event: event["id"] == reply.json["id"])[-1]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
    ],
)
def test_any_content_type_or_none(alice, bob, content_type):
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert data_of(received(alice, bob, {"msg": b64(b"hello"), "pubkey": bob.pubkey}, headers)) == b"hello"


@pytest.mark.parametrize("name", ["replyToId", "reply_to_id"])
def test_camel_and_snake_case(alice, bob, name):
    other = str(uuid4())
    assert received(alice, bob, {"msg": "aGk=", "pubkey": bob.pubkey, name: other})["replyToId"] == other


@pytest.mark.parametrize("given", [10, "10"])
def test_int64_as_number_or_text(alice, bob, given):
    assert received(alice, bob, {"msg": "aGk=", "pubkey": bob.pubkey, "amount": given})["amount"] == "10"


@pytest.mark.parametrize("body", [b"\xfb\xff\xfe\x3e\x3f", b"\xfb\xff", b"\xfb", b"\xff\xff\xff"])
def test_base64_in_either_alphabet_padded_or_not(alice, bob, body):
    for encoded in {base64.b64encode(body), base64.urlsafe_b64encode(body)}:
        for text in {encoded.decode(), encoded.decode().rstrip("=")}:
            event = received(alice, bob, {"msg": text, "pubkey": bob.pubkey})
            assert event["data"] == base64.b64encode(body).decode()


def test_unknown_fields_are_ignored(alice, bob):
    received(alice, bob, {"msg": "aGk=", "pubkey": bob.pubkey, "nobody": {"knows": [1]}})


def test_null_is_absent(alice, bob):
    event = received(alice, bob, {"msg": "aGk=", "pubkey": bob.pubkey, "amount": None, "replyToId": None})
    assert (event["amount"], event["replyToId"]) == ("1", "")


@pytest.mark.parametrize("body", [None, b"", b" \n", b"{}"])
def test_no_body_is_an_empty_object(alice, body):
    reply = alice.post(SEND, body)
    assert reply.status == 400
    assert reply.json["code"] == 3
    assert reply.json["message"].startswith("msg:")


def test_replies_carry_every_field(alice, bob):
    event = received(alice, bob, {"msg": "aGk=", "pubkey": bob.pubkey})
    assert list(event) == FIELDS
    assert (event["replyToId"], event["amount"], event["serviceType"]) == ("", "1", "message")
    assert UUID(event["id"]).version == 4
    assert event["seq"].isdecimal()
    message = bob.get(f"/v1/message/{event['id']}").json["message"]
    assert message["replyToId"] == message["error"] == ""
    assert message["feeMsat"] == "0"
    assert message["msg"] == "aGk="


def test_replies_are_json(alice, bob):
    reply = alice.post(SEND, {"msg": "aGk=", "pubkey": bob.pubkey}, {"Accept": "text/html"})
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json) == ["id"]


@pytest.mark.parametrize(("method", "path"), [("POST", SEND), ("GET", "/v1/node"), ("GET", "/v1/messages")])
def test_slash_at_the_end_is_unknown(alice, method, path):
    reply = alice.request(method, path + "/")
    assert (reply.status, reply.json) == (404, {"code": 5, "message": "Not Found", "details": []})


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/nothing", "/v1/message", "/v1/message/a/b", "/v1/Node"])
def test_unknown_paths(alice, path):
    assert (alice.get(path).status, alice.get(path).json["code"]) == (404, 5)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", SEND.replace("send", "")),
        ("PUT", SEND),
        ("DELETE", SEND),
        ("PATCH", "/v1/node"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/subscribe"),
        ("BREW", "/v1/node"),
    ],
)
def test_wrong_methods(alice, method, path):
    reply = alice.request(method, path)
    if path.endswith("/"):
        assert (reply.status, reply.json["code"]) == (404, 5)
    else:
        assert (reply.status, reply.json["code"], reply.json["details"]) == (501, 12, [])


def test_an_error_has_the_form_of_grpc_gateway(alice):
    reply = alice.get(f"/v1/message/{uuid4()}")
    assert reply.status == 404
    assert list(reply.json) == ["code", "message", "details"]
    assert (reply.json["code"], reply.json["details"]) == (5, [])


def test_streams_speak_the_same_form(alice, bob):
    with WebsocketStream(bob) as stream:
        send(alice, bob)
        text = stream.text()
    assert list(json.loads(text)) == ["result"]
    assert text.startswith('{"result":{"id":"')
