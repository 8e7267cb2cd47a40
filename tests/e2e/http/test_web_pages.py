"""What a web page of an allowed origin gets to read: refusals of websockets, and every answer over HTTP."""

import gzip
import json
import socket
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.support.nodes import GUARD_SECONDS, Node

READER, SENDER, BUSY = (f"key-of-{name}-with-enough-characters" for name in ("reader", "sender", "busy"))
APP, TAURI, EVIL = "https://app.example", "tauri://localhost", "https://evil.example"
SCOPES = {
    "reader": (READER, ["read", "send"], {}),
    "sender": (SENDER, ["send"], {}),
    "busy": (BUSY, ["read"], {"calls_per_minute": 1}),
}


@pytest.fixture(scope="module")
def node(network, tmp_path_factory):
    directory = tmp_path_factory.mktemp("pages")
    keys = []
    for name, (key, scopes, limits) in SCOPES.items():
        (directory / name).write_text(key)
        keys.append({"name": name, "key_file": str(directory / name), "scopes": scopes, **limits})
    server = {"api_keys": keys, "allowed_origins": [APP, TAURI]}
    extra = {"server": server, "message": {"max_bytes": 100_000}}
    with Node(network.nodes["carol"], directory, extra=extra) as running:
        yield running


def stream(node: Node, key: str | None, origin: str | None = APP, path: str = "/v1/subscribe"):
    protocols = ["Bearer", key] if key else None
    return connect(
        f"ws://{node.http}{path}", origin=origin, subprotocols=protocols, open_timeout=GUARD_SECONDS
    )


def closed(node: Node, key: str | None, origin: str = APP) -> tuple[int, str]:
    with stream(node, key, origin) as websocket, pytest.raises(ConnectionClosed) as error:
        websocket.recv(timeout=GUARD_SECONDS)
    return error.value.rcvd.code, error.value.rcvd.reason


def status(node: Node, *args, **options) -> int:
    with pytest.raises(InvalidStatus) as error:
        stream(node, *args, **options)
    return error.value.response.status_code


@pytest.mark.parametrize("origin", [APP, TAURI, "http://localhost:3000"])
def test_page_reads_why_its_websocket_is_refused(node, origin):
    assert closed(node, "no-key-of-this-node-at-all", origin) == (1008, "the API key is not known")
    assert closed(node, SENDER, origin) == (1008, "the API key 'sender' lacks the scope 'read'")
    code, reason = closed(node, None, origin)
    assert (code, reason.partition(":")[0]) == (1008, "an API key is needed")


def test_page_reads_that_it_comes_too_often(node):
    """One of two that come at once, within the same minute or at the change of one."""
    while True:
        with stream(node, BUSY), stream(node, BUSY) as second:
            try:
                second.recv(timeout=1)
            except TimeoutError:
                continue
            except ConnectionClosed as error:
                code, reason = error.rcvd.code, error.rcvd.reason
                break
    assert code == 1008
    assert "a minute" in reason


def test_other_origins_and_programs_get_a_status(node):
    assert status(node, "no-key-of-this-node-at-all", EVIL) == 403
    assert status(node, READER, EVIL) == 403
    assert status(node, READER, "null") == 403
    assert status(node, "no-key-of-this-node-at-all", None) == 401


@pytest.mark.parametrize("origin", [APP, None])
@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/subscribe/", "/", "/admin/"])
def test_websocket_to_an_unknown_path(node, path, origin):
    assert status(node, READER, origin, path=path) == 404


def test_frame_that_is_too_large(node):
    with stream(node, READER, None) as websocket:
        with pytest.raises(ConnectionClosed) as error:
            websocket.send(b"x" * (2 * 2**20))
            websocket.recv(timeout=GUARD_SECONDS)
        assert error.value.rcvd.code == 1009


@pytest.mark.parametrize("path", ["/v1/message/send", "/v1/nothing", "/v1", "/metrics", "/docs/", "/nowhere"])
def test_preflight_whatever_the_path(node, path):
    wants = {
        "Origin": TAURI,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key,content-type",
        "Access-Control-Request-Private-Network": "true",
    }
    reply = node.request("OPTIONS", path, None, wants)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == TAURI
    assert "x-api-key" in reply.headers["access-control-allow-headers"].split(", ")
    assert reply.headers["access-control-allow-private-network"] == "true"
    refused = node.request("OPTIONS", path, None, wants | {"Origin": EVIL})
    assert not [name for name in refused.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path", ["/v1/node", "/v1/nothing", "/metrics", "/health/live", "/docs/x", "/admin/login/"]
)
def test_page_may_read_every_answer(node, path):
    for key in ({"X-API-KEY": READER}, {}):
        reply = node.get(path, key | {"Origin": TAURI})
        assert reply.headers["access-control-allow-origin"] == TAURI, reply.status
        assert "access-control-allow-origin" not in node.get(path, key | {"Origin": EVIL}).headers


def test_page_may_read_that_its_body_is_too_large(node):
    reply = node.post("/v1/message/send", b" " * 300_000, {"X-API-KEY": READER, "Origin": APP})
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (400, APP)
    assert reply.json["message"].startswith("body: is larger than")


def raw(node: Node, request: bytes) -> tuple[int, bytes]:
    """The status and the whole of one answer."""
    with socket.create_connection(("127.0.0.1", node.http_port), timeout=GUARD_SECONDS) as client:
        client.sendall(request)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    return int(answer.split(b" ", 2)[1]), answer


def test_page_may_read_the_413_of_an_endless_body(node):
    head = b"POST /v1/message/send HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\n"
    with socket.create_connection(("127.0.0.1", node.http_port), timeout=GUARD_SECONDS) as client:
        client.sendall(head + b"Content-Length: 1000000000\r\n\r\n")
        answer = b""
        client.setblocking(False)
        chunk, until = b" " * 2**20, time.monotonic() + GUARD_SECONDS
        while not answer and time.monotonic() < until:
            try:
                client.send(chunk)
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                pass
            try:
                answer = client.recv(65536)
            except BlockingIOError:
                continue
    assert answer.startswith(b"HTTP/1.1 413 Content Too Large\r\n")
    assert b"\r\naccess-control-allow-origin: https://app.example\r\n" in answer


ABSOLUTE = (
    b"GET http://%s HTTP/1.1\r\nHost: %s\r\nX-API-KEY: " + READER.encode() + b"\r\nConnection: close\r\n\r\n"
)


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        (b"127.0.0.1:1/v1/messages?limit=1", b"127.0.0.1", 200),
        (b"localhost/v1/openapi.json", b"localhost", 200),
        (b"localhost", b"localhost", 302),
        (b"localhost/v1/messages?aftr=1", b"localhost", 400),
        # RFC 9112, 3.2.2: the target names the host, whatever the header says.
        (b"evil.example/v1/messages", b"localhost", 403),
        (b"localhost/v1/messages", b"evil.example", 200),
    ],
)
def test_request_target_in_absolute_form(node, target, host, expected):
    assert raw(node, ABSOLUTE % (target, host))[0] == expected


def test_websocket_with_a_target_in_absolute_form(node):
    head = (
        f"GET ws://localhost/v1/subscribe HTTP/1.1\r\nHost: localhost\r\nX-API-KEY: {READER}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", node.http_port), timeout=GUARD_SECONDS) as client:
        client.sendall(head.encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "path",
    ["/v1/node", "/v1/messages", "/v1/subscribe", "/v1/openapi.json", "/health/live", "/metrics", "/docs/"],
)
def test_head_wherever_get_is(node, path):
    reply = node.request("HEAD", path, None, {"X-API-KEY": READER})
    assert (reply.status, reply.body) == (200 if path != "/docs/" else reply.status, b"")
    assert reply.status not in (405, 501)


def test_compressed_bodies(node):
    body = json.dumps({"msg": "aGVs\nbG8=", "pubkey": "02" + "ff" * 32}).encode()
    headers = {"X-API-KEY": READER, "Content-Encoding": "gzip"}
    reply = node.post("/v1/message/send", gzip.compress(body), headers)
    # It was read: what is wrong is within.
    assert reply.json["message"] == "pubkey: is not a public key: no such point on the curve"
    bomb = node.post("/v1/message/send", gzip.compress(bytes(10**8)), headers)
    assert (bomb.status, bomb.json["message"].partition(" than")[0]) == (400, "body: is larger")
    other = node.post("/v1/message/send", body, headers | {"Content-Encoding": "br"})
    assert (other.status, other.headers["accept-encoding"]) == (415, "gzip")


def test_words_that_are_not_known(node):
    key = {"X-API-KEY": READER}
    misspelled = node.post("/v1/lightning/generateinvoice", {"amuont": "21"}, key)
    assert (misspelled.status, misspelled.json["message"]) == (
        400,
        "amuont: is not known; did you mean `amount`?",
    )
    for path, message in [
        ("/v1/subscribe?aftr=3", "aftr: is no parameter of this call; did you mean `after`?"),
        ("/v1/subscribe?service=mesage", "service: did you mean `message`?"),
        ("/v1/messages?service=bogus", "service: must be one of federate, "),
        ("/v1/node?x=1", "x: is no parameter of this call."),
    ]:
        reply = node.get(path, key)
        assert (reply.status, reply.json["code"]) == (400, 3)
        assert reply.json["message"].startswith(message)
    assert status(node, READER, None, path="/v1/subscribe?aftr=3") == 400
    assert status(node, READER, None, path="/v1/subscribe?service=bogus") == 400
