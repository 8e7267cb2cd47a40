"""Who is let in: Host and Origin, API keys and scopes, and nobody from outside without a key."""

import json

import grpc
import pytest
from websockets.exceptions import InvalidStatus

from protos import messaging_pb2
from tests.support.nodes import Node
from tests.support.streams import LineStream, WebsocketStream, grpc_stream, messaging, send

KEY = "a-key-with-more-than-20-characters"
READER = "reader-key-with-enough-characters"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost.evil.example", "file://"]
)
def test_foreign_origin_is_refused(alice, bob, origin):
    body = {"msg": "aGVsbG8=", "pubkey": bob.pubkey}
    reply = alice.post("/v1/message/send", body, {"Origin": origin})
    assert (reply.status, reply.json["code"]) == (403, 7)
    assert alice.get("/v1/subscribe", {"Origin": origin}).status == 403
    with pytest.raises(InvalidStatus) as refused:
        WebsocketStream(alice, origin=origin)
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8000"])
def test_loopback_origin_gets_cors(alice, origin):
    reply = alice.get("/v1/node", {"Origin": origin})
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, origin)
    preflight = alice.request("OPTIONS", "/v1/message/send", headers={"Origin": origin})
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8882", "localhost.evil.example", ""])
def test_foreign_host_is_refused(alice, host):
    assert alice.get("/v1/node", {"Host": host}).status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8882", "[::1]:8882"])
def test_loopback_host(alice, host):
    assert alice.get("/v1/node", {"Host": host}).status == 200


@pytest.fixture(scope="module")
def guarded(network, tmp_path_factory):
    """carol's node with two keys, an origin and a host of its own."""
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "reader.key").write_text(READER + "\n")
    server = {
        "api_keys": [{"name": "reader", "key_file": "reader.key", "scopes": ["read"]}],
        "allowed_origins": ["https://app.example"],
        "allowed_hosts": ["node.example"],
    }
    environ = {"IMPD_SERVER__API_KEY": KEY}
    with Node(network.nodes["carol"], directory, extra={"server": server}, environ=environ) as node:
        yield node


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong-key-of-enough-characters"}, 401),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"Authorization": f"Bearer {KEY}x"}, 401),
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"Grpc-Metadata-X-API-KEY": KEY}, 200),
        ({"Authorization": f"Bearer {READER}"}, 200),
    ],
)
def test_key_at_rest_and_stream(guarded, headers, status):
    assert guarded.get("/v1/node", headers).status == status
    with LineStream(guarded, headers=headers) as lines:
        assert lines.response.status == status


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ((), grpc.StatusCode.UNAUTHENTICATED),
        ((("x-api-key", "wrong-key-of-enough-characters"),), grpc.StatusCode.UNAUTHENTICATED),
        ((("x-api-key", KEY),), None),
        ((("authorization", f"Bearer {KEY}"),), None),
    ],
)
def test_key_at_grpc(guarded, metadata, code):
    with messaging(guarded) as stub:
        if code is None:
            stub.ListMessages(messaging_pb2.ListMessagesRequest(), metadata=metadata)
            with grpc_stream(guarded, metadata=metadata):
                return
        with pytest.raises(grpc.RpcError) as refused:
            stub.ListMessages(messaging_pb2.ListMessagesRequest(), metadata=metadata)
        assert refused.value.code() is code
    with pytest.raises(grpc.RpcError) as refused, grpc_stream(guarded, metadata=metadata) as call:
        next(call)
    assert refused.value.code() is code


def test_scope_is_asked_for(guarded, bob):
    body = {"msg": "aGVsbG8=", "pubkey": bob.pubkey}
    reply = guarded.post("/v1/message/send", body, {"Authorization": f"Bearer {READER}"})
    assert (reply.status, reply.json["code"]) == (403, 7)
    assert "send" in reply.json["message"]
    assert guarded.post("/v1/message/send", body, {"Authorization": f"Bearer {KEY}"}).status == 200


def test_key_at_the_websocket(guarded, bob):
    with pytest.raises(InvalidStatus):
        WebsocketStream(guarded)
    with pytest.raises(InvalidStatus):
        WebsocketStream(guarded, subprotocols=["Bearer", "wrong-key-of-enough-characters"])
    with WebsocketStream(guarded, subprotocols=["Bearer", KEY]) as browser:
        assert browser.connection.subprotocol == "Bearer"
        with WebsocketStream(guarded, additional_headers={"Authorization": f"Bearer {KEY}"}) as program:
            message_id = send(bob, guarded)
            for stream in (browser, program):
                stream.until(lambda event: event["id"] == message_id)


def test_configured_origin_and_host(guarded):
    headers = {"Authorization": f"Bearer {KEY}", "Host": "node.example", "Origin": "https://app.example"}
    reply = guarded.get("/v1/node", headers)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "https://app.example")


def test_keys_are_in_no_log(guarded):
    guarded.get("/v1/node", {"Authorization": f"Bearer {KEY}"})
    guarded.get("/v1/node", {"Authorization": "Bearer wrong-key-of-enough-characters"})
    assert not any(secret in guarded.log for secret in (KEY, READER, "wrong-key-of-enough-characters"))


def test_beyond_loopback_needs_a_key(network, tmp_path):
    node = Node(network.nodes["carol"], tmp_path / "open")
    node.config_path.write_text(node.config_path.read_text().replace(node.http, f"0.0.0.0:{node.http_port}"))
    last = [json.loads(line) for line in node.refused_start().splitlines()][-1]
    assert (last["level"], last["message"]) == ("CRITICAL", "the node cannot start, or go on")
    assert "IMPD_SERVER__API_KEY" in last["error"]
    assert "server.http_addr" in last["error"]


ELSEWHERE = "203.0.113.5"


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ([ELSEWHERE], 401),
        ([f"127.0.0.1, {ELSEWHERE}:4711"], 401),
        # A proxy may add a line of its own behind what its client has invented.
        (["127.0.0.1", ELSEWHERE], 401),
        (["[2001:db8::1]:4711"], 401),
        # A web developer's server on the same machine.
        (["127.0.0.1"], 200),
        (["::ffff:127.0.0.1, ::1"], 200),
    ],
)
def test_an_open_node_serves_nobody_whom_a_proxy_brings_from_elsewhere(alice, told, status):
    """It listens on loopback only; a proxy in front of it must not make it the world's."""
    connection = alice.http_connection()
    connection.putrequest("GET", "/v1/node")
    for value in told:
        connection.putheader("X-Forwarded-For", value)
    connection.endheaders()
    assert connection.getresponse().status == status
    connection.close()
    with messaging(alice) as stub:
        call = stub.ListMessages.with_call
        metadata = [("x-forwarded-for", value) for value in told]
        if status == 200:
            call(messaging_pb2.ListMessagesRequest(), metadata=metadata)
            return
        with pytest.raises(grpc.RpcError) as refused:
            call(messaging_pb2.ListMessagesRequest(), metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
