"""Every path and method of every door, with no key, a wrong, an expired, a revoked, a too weak one, and one that just will do."""

import re
from uuid import uuid4

import grpc
import pytest
from google.protobuf import message_factory

from protos import websocket_pb2, websocket_pb2_grpc
from tests.support.grpc_methods import PATHS
from tests.support.keys import bearer, end_key, store_key
from tests.support.nodes import Node
from tests.support.streams import GUARD_SECONDS, LineStream

SCOPES = ("read", "send", "pay", "admin")
UNKNOWN = "never-made-by-this-node-0123456789"
REFUSED = {
    "none": (401, 16),
    "wrong": (401, 16),
    "expired": (401, 16),
    "revoked": (401, 16),
    "weak": (403, 7),
}
OPEN = ("/health/live", "/health/ready", "/docs/", "/docs/api", "/v1/openapi.json")
STREAM = "/v1/subscribe"


@pytest.fixture(scope="module")
def node(network, tmp_path_factory):
    with Node(network.nodes["carol"], tmp_path_factory.mktemp("doors")) as node:
        store_key(node, "first", ["admin"])
        node.wait_until(lambda: node.get("/v1/node").status == 401)
        yield node


@pytest.fixture(scope="module")
def keys(node) -> dict[str, str]:
    """By name: one that has expired, one that was revoked, one for each scope, and one for each that has all others."""
    keys = {name: store_key(node, name, list(SCOPES)) for name in ("expired", "revoked")}
    for scope in SCOPES:
        keys[scope] = store_key(node, scope, [scope])
        keys[f"weak {scope}"] = store_key(
            node, f"weak {scope}", [other for other in SCOPES if other != scope]
        )
    end_key(node, "expired", "expires_at")
    end_key(node, "revoked", "revoked_at")
    for name in ("expired", "revoked"):
        node.wait_until(lambda: node.get("/v1/node", bearer(keys[name])).status == 401)
    return keys


@pytest.fixture(scope="module")
def operations(node) -> list[tuple[str, str, str, str]]:
    """HTTP method, path, gRPC path, scope: what the node says of itself."""
    found = []
    for path, methods in node.get("/v1/openapi.json").json["paths"].items():
        for method, told in methods.items():
            rpc, scope = re.search(
                r"gRPC: `([^`]+)`.*?[Ss]cope of the key: `(\w+)`", told["description"], re.DOTALL
            ).groups()
            found.append((method.upper(), path, rpc, scope))
    assert len(found) > 20
    return found


def credentials(keys: dict[str, str], scope: str) -> dict[str, str | None]:
    weak = keys[f"weak {scope}"]
    return {
        "none": None,
        "wrong": UNKNOWN,
        "expired": keys["expired"],
        "revoked": keys["revoked"],
        "weak": weak,
    }


def test_rest(node, keys, operations):
    for method, path, _, scope in operations:
        if path == STREAM:
            continue
        address, body = path.replace("{id}", str(uuid4())), {} if method == "POST" else None
        for name, key in credentials(keys, scope).items():
            reply = node.request(method, address, body, bearer(key) if key else {})
            assert (reply.status, reply.json["code"]) == REFUSED[name], (method, path, name)
        reply = node.request(method, address, body, bearer(keys[scope]))
        assert reply.status not in (401, 403, 500), (method, path, reply.body)


def test_grpc(node, keys, operations):
    assert {rpc for _, path, rpc, _ in operations if path != STREAM} == set(PATHS)
    with grpc.insecure_channel(node.grpc) as channel:
        for _, path, rpc, scope in operations:
            if path == STREAM:
                continue
            for name, key in credentials(keys, scope).items():
                assert code_of(channel, rpc, key).value[0] == REFUSED[name][1], (rpc, name)
            assert code_of(channel, rpc, keys[scope]).value[0] not in (16, 7, 13, 2), rpc


def code_of(channel: grpc.Channel, rpc: str, key: str | None) -> grpc.StatusCode:
    reply_class = message_factory.GetMessageClass(PATHS[rpc].output_type)
    call = channel.unary_unary(rpc, request_serializer=bytes, response_deserializer=reply_class.FromString)
    try:
        call(b"", metadata=(("x-api-key", key),) if key else (), timeout=GUARD_SECONDS)
        return grpc.StatusCode.OK
    except grpc.RpcError as error:
        return error.code()


def test_streams(node, keys, operations):
    scope = next(scope for _, path, _, scope in operations if path == STREAM)
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    for name, key in credentials(keys, scope).items():
        headers = bearer(key) if key else {}
        assert node.get(STREAM, headers).status == REFUSED[name][0], name
        assert node.get(STREAM, headers | upgrade).status == REFUSED[name][0], name
        assert subscribe_code(node, key).value[0] == REFUSED[name][1], name
    with LineStream(node, headers=bearer(keys[scope])) as stream:
        assert stream.response.status == 200


def subscribe_code(node: Node, key: str | None) -> grpc.StatusCode:
    with grpc.insecure_channel(node.grpc) as channel:
        stub = websocket_pb2_grpc.WebsocketStub(channel)
        call = stub.Subscribe(
            websocket_pb2.SubscribeRequest(),
            metadata=(("x-api-key", key),) if key else (),
            timeout=GUARD_SECONDS,
        )
        try:
            next(iter(call))
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


def test_pages(node, keys):
    for path in OPEN:
        # A node whose database has answered too late is not ready for a moment.
        node.wait_until(lambda: node.get(path).status == 200)
    for name, key in credentials(keys, "read").items():
        assert node.get("/metrics", bearer(key) if key else {}).status == REFUSED[name][0], name
    assert node.get("/metrics", bearer(keys["read"])).status == 200
    for path in ("/admin/", "/admin/nodeapi/apikey/", "/admin/messaging/message/"):
        reply = node.get(path, bearer(keys["admin"]))
        assert reply.status == 302, path
        assert "/admin/login/" in reply.headers["location"], path
