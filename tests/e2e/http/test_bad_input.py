"""What is refused: with the right status, the field's name, and nothing on any stream; the node goes on."""

import http.client
import json
import socket
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest
from coincurve import PrivateKey
from websockets.exceptions import ConnectionClosed

from tests.support.records import deflated, item, packet, sealed
from tests.support.streams import (
    GUARD_SECONDS,
    SEND,
    WebsocketStream,
    b64,
    data_of,
    grpc_stream,
    nothing_told,
)

HUNDRED_MB = 100 * 2**20
GROWTH_KB = 64 * 1024
STRANGER = PrivateKey(b"\x07" * 32)


def resident_kb(node) -> int:
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


BAD_FIELDS = [
    ("pubkey", "pubkey", ""),
    ("pubkey", "pubkey", "02"),
    ("pubkey", "pubkey", "0" * 65),
    ("pubkey", "pubkey", "zz" * 33),
    ("pubkey", "pubkey", "02" + "ff" * 32),
    ("pubkey", "pubkey", "04" + "11" * 32),
    ("pubkey", "pubkey", " ".join(["02"] * 33)),
    ("pubkey", "pubkey", 5),
    ("amount", "amount", -1),
    ("amount", "amount", "-1"),
    ("amount", "amount", 2**63 - 1),
    ("amount", "amount", 2**63),
    ("amount", "amount", 10**30),
    ("amount", "amount", 1.5),
    ("amount", "amount", "many"),
    ("amount", "amount", [1]),
    ("amount", "amount", 20_000_000),
    ("msg", "msg", ""),
    ("msg", "msg", 5),
    ("msg", "msg", "not base64!"),
    ("msg", "msg", "aGVsbG8=="[:5]),
    ("msg", "msg", b64(bytes(2**20 + 1))),
    ("reply_to_id", "replyToId", "no uuid"),
    ("reply_to_id", "reply_to_id", "no uuid"),
    ("reply_to_id", "replyToId", 7),
]


@pytest.mark.parametrize(("named", "field", "value"), BAD_FIELDS, ids=lambda value: str(value)[:30])
def test_fields(alice, bob, named, field, value):
    body = {"msg": b64(b"hello"), "pubkey": bob.pubkey, field: value}
    with nothing_told(alice, bob):
        reply = alice.post(SEND, body)
        assert reply.status == 400, reply.body
        assert reply.json["code"] in (3, 9)
        camel = "replyToId" if named == "reply_to_id" else named
        assert named in reply.json["message"] or camel in reply.json["message"], reply.json


WRONG_TYPES = [
    ("pubkey", 5, "pubkey: must be text"),
    ("pubkey", {"a": 1}, "pubkey: must be text"),
    ("replyToId", ["x"], "replyToId: must be text"),
    ("amount", "many", "amount: must be a whole number of 64 bits"),
    ("amount", 1.5, "amount: must be a whole number of 64 bits"),
    ("amount", True, "amount: must be a whole number of 64 bits"),
    ("amount", {}, "amount: must be a whole number of 64 bits"),
    ("amount", "1_0", "amount: must be a whole number of 64 bits"),
    ("amount", "\u0663", "amount: must be a whole number of 64 bits"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG_TYPES, ids=lambda value: str(value)[:30])
def test_wrong_types_are_told_in_no_language_of_ours(alice, bob, field, value, message):
    reply = alice.post(SEND, {"msg": b64(b"hello"), "pubkey": bob.pubkey, field: value})
    assert (reply.status, reply.json["message"]) == (400, message)


def test_wrong_types_in_a_query(alice):
    assert alice.get("/v1/messages?limit=x").json["message"] == "limit: must be a whole number of 64 bits"
    assert (
        alice.get("/v1/subscribe?after=x").json["message"]
        == "after: must be a whole number of 64 bits, 0 or more"
    )


def test_ones_own_pubkey(alice, bob):
    with nothing_told(alice, bob):
        reply = alice.post(SEND, {"msg": b64(b"hello"), "pubkey": alice.pubkey})
    assert (reply.status, reply.json["code"]) == (400, 3)
    assert reply.json["message"].startswith("pubkey:")


def test_msg_too_long_says_how_long_it_may_be(alice, bob):
    reply = alice.post(SEND, {"msg": b64(bytes(2**20 + 1)), "pubkey": bob.pubkey})
    assert reply.json["message"].startswith("msg:")
    assert "1048576" in reply.json["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nothing",
        b"[]",
        b'"text"',
        b"5",
        b"null",
        b"{'msg': 1}",
        b'{"msg": "h\xe9llo"}',
        b"\x00",
        b"\xff\xfe{\x00}\x00",
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_bodies(alice, bob, body):
    with nothing_told(alice, bob):
        reply = alice.post(SEND, body)
        assert (reply.status, reply.json["code"]) == (400, 3), reply.body
        assert reply.json["message"].startswith("body:"), reply.json


def test_a_body_of_100_mb(alice, bob):
    before = resident_kb(alice)
    with nothing_told(alice, bob):
        connection = http.client.HTTPConnection("127.0.0.1", alice.http_port, timeout=GUARD_SECONDS)
        chunk = b"a" * 2**20
        try:
            connection.request("POST", SEND, (chunk for _ in range(100)), {"Content-Length": str(HUNDRED_MB)})
            response = connection.getresponse()
            assert response.status == 400
            assert json.loads(response.read())["message"].startswith("body:")
        finally:
            connection.close()
    assert resident_kb(alice) - before < GROWTH_KB


@pytest.mark.parametrize("fragments", [1, 100])
def test_a_websocket_client_that_sends_100_mb(alice, bob, fragments):
    before = resident_kb(alice)
    with nothing_told(alice, bob), WebsocketStream(alice) as stream:
        part = b"a" * (HUNDRED_MB // fragments)
        try:
            stream.connection.send(part if fragments == 1 else iter([part] * fragments))
        except ConnectionClosed:
            pass  # the node may well hang up on it
    assert resident_kb(alice) - before < GROWTH_KB


@pytest.mark.parametrize(
    "raw",
    [b"\xff" * 50, b"\x0a\xff", b"\x08", b"\x12\x02\xff\xfe", b"\x07" * 9],
    ids=["garbage", "length beyond the end", "no value", "text that is not UTF-8", "group that never ends"],
)
@pytest.mark.parametrize("method", ["/messaging.Messaging/SendMessage", "/messaging.Messaging/ListMessages"])
def test_grpc_bytes_that_are_no_message(alice, bob, method, raw):
    with nothing_told(alice, bob), grpc.insecure_channel(alice.grpc) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(raw, timeout=GUARD_SECONDS)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_grpc_fields_of_the_wrong_wire_type(alice, bob):
    """msg as a number, pubkey as a number, amount as text: the fields are not there then."""
    with nothing_told(alice, bob), grpc.insecure_channel(alice.grpc) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/messaging.Messaging/SendMessage")(
                b"\x08\x05\x10\x05\x1a\x01a", timeout=GUARD_SECONDS
            )
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith("msg:")


@pytest.mark.parametrize("path", ["/messaging.Messaging/Nothing", "/nobody.Nothing/SendMessage"])
def test_grpc_methods_that_do_not_exist(alice, path):
    with grpc.insecure_channel(alice.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"", timeout=GUARD_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("query", ["after=-1", "after=x", "after=18446744073709551616"])
def test_bad_places_in_the_log(alice, query):
    reply = alice.get(f"/v1/subscribe?{query}")
    assert (reply.status, reply.json["code"]) == (400, 3)
    assert "after" in reply.json["message"]


def test_a_websocket_that_is_refused_repeats_nothing_of_its_address(alice):
    """What is wrong stands in the status line: a line break in it would begin a header."""
    with socket.create_connection(("127.0.0.1", alice.http_port), timeout=GUARD_SECONDS) as client:
        client.sendall(
            b"GET /v1/subscribe?after=%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 after: must be a whole number")
    assert b"Cookie" not in answer


MISPLACED = "a secret in the wrong place"


@pytest.mark.parametrize(
    ("field", "value", "must"),
    [
        ("amount", f" {MISPLACED}", "a whole number of 64 bits"),
        ("amount", [MISPLACED], "a whole number of 64 bits"),
        ("pubkey", [MISPLACED], "text"),
        ("msg", [MISPLACED], "base64 text"),
    ],
)
def test_a_value_of_the_wrong_type_is_not_repeated(alice, field, value, must):
    reply = alice.post(SEND, {field: value})
    assert (reply.status, reply.json["message"]) == (400, f"{field}: must be {must}")


@pytest.mark.parametrize(
    "query", ["limit=0x", "limit=-1", "limit=1001", "before=x", "direction=up", "state=gone", "pubkey=02"]
)
def test_bad_filters(alice, query):
    reply = alice.get(f"/v1/messages?{query}")
    assert (reply.status, reply.json["code"]) == (400, 3)
    assert reply.json["message"].startswith(query.partition("=")[0] + ":")


@pytest.mark.parametrize("path", ["/v1/messages?service=a%00b", "/v1/subscribe?service=a%00b"])
def test_nul_in_a_filter(alice, path):
    reply = alice.get(path)
    assert (reply.status, reply.json["code"]) == (400, 3)
    assert reply.json["message"].startswith("service:")


def test_nul_in_a_filter_of_grpc(alice):
    with pytest.raises(grpc.RpcError) as caught, grpc_stream(alice, services=["a\0b"]) as call:
        next(call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("service:")


def test_bytes_that_are_no_http(alice, bob):
    with (
        nothing_told(alice, bob),
        socket.create_connection(("127.0.0.1", alice.http_port), timeout=GUARD_SECONDS) as connection,
    ):
        connection.sendall(b"\x00\xff\x16\x03" * 1_000 + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while connection.recv(4096):
                pass


def broken_records(recipient: bytes) -> dict[str, bytes]:
    good = sealed(STRANGER, packet(item()), recipient=recipient)
    return {
        "header alone": good[:101],
        "truncated": good[:-1],
        "magic alone": b"IMP",
        "forged": good[:-1] + bytes([good[-1] ^ 1]),
        "for another node": sealed(STRANGER, packet(item()), recipient=STRANGER.public_key.format()),
        "for another service": sealed(STRANGER, packet(item()), recipient=recipient, record_number=300000),
        "another version": sealed(STRANGER, packet(item()), recipient=recipient, version=2),
        "no packet": sealed(STRANGER, b"\xff\xff", recipient=recipient),
        "many items": sealed(STRANGER, b"\x0a\x00" * 500, recipient=recipient),
        "bomb": sealed(STRANGER, packet(item(deflated(bytes(2**19)), compression=1)), recipient=recipient),
    }


@pytest.mark.parametrize("name", list(broken_records(STRANGER.public_key.format())))
def test_broken_records_from_the_network(network, alice, bob, name):
    record = broken_records(bytes.fromhex(bob.pubkey))[name]
    with nothing_told(alice, bob):
        assert network.pay("alice", "bob", {400000: record})["status"] == "SUCCEEDED"


def test_good_items_beside_broken_ones(network, bob):
    good = item(b"good")
    record = sealed(STRANGER, packet(item(id=b"short"), good), recipient=bytes.fromhex(bob.pubkey))
    with WebsocketStream(bob) as stream:
        network.pay("alice", "bob", {400000: record}, amount_msat=2_000)
        assert data_of(stream.of(str(UUID(bytes=good.id)))) == b"good"


def test_foreign_record_is_published_as_it_is(network, bob):
    text = uuid4().hex.encode()
    with WebsocketStream(bob) as stream:
        network.pay("alice", "bob", {400000: text}, amount_msat=7_000)
        event = stream.until(lambda event: data_of(event) == text)[-1]
    assert (event["fromPubkey"], event["serviceType"], event["amount"]) == ("", "message", "7")


def test_foreign_record_of_another_service_is_dropped(network, alice, bob):
    with nothing_told(alice, bob):
        network.pay("alice", "bob", {800000: b"plain text"})
