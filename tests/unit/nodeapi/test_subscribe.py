"""The stream as websocket and as lines of HTTP, called without a server; what a subscription asks for, and how it ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from uuid import uuid4

import grpc
import pytest

from messaging import events
from messaging.models import Event
from nodeapi.doors import Doors
from nodeapi.errors import ApiError
from nodeapi.stream import Hub, Subscription
from nodeapi.subscribe import Window, bearer_from_subprotocol, request_from_query, subscribe
from nodeapi.web import ApiApplication, CrossOrigin
from protos import websocket_pb2
from tests.support.asgi import Client, scope_of
from tests.support.doors import caller, make_doors, secret_of
from tests.support.waiting import until_in_loop

PATH = "/v1/subscribe"
KEY = ("authorization", f"Bearer {secret_of('app')}")
REVOKED = ApiError(grpc.StatusCode.UNAUTHENTICATED, "the API key 'app' was revoked")


@pytest.fixture
async def doors(database) -> Doors:
    hub = Hub(database, poll_seconds=600)
    doors = make_doors(database, caller("app", "read"), caller("sender", "send"), hub=hub)
    # What follows on the newest event that the hub knows is handed out as soon as it is told.
    await database.write(partial(events.append, [new_event("message")], published=lambda told: None))
    await hub.start()
    return doors


def new_event(service: str) -> Event:
    return Event(message_id=uuid4(), data=b"hello", service_type=service, amount_sat=1)


async def publish(doors: Doors, *services: str) -> list[int]:
    """Events that are committed, and that the hub is told of; their places in the log."""
    told: list[Event] = []
    made = [new_event(service) for service in services]
    await doors.database.write(partial(events.append, made, published=told.extend))
    doors.hub.feed(told)
    return [event.seq for event in told]


def served(doors, kind: str):
    """The API as it is served: over HTTP behind what pages of other origins are told."""
    api = ApiApplication(doors)
    return CrossOrigin(api, doors.guard) if kind == "http" else api


@asynccontextmanager
async def connected(doors: Doors, scope: dict) -> AsyncIterator[Client]:
    client = Client(served(doors, scope["type"]), scope)
    try:
        yield client
    finally:
        kind = "http.disconnect" if scope["type"] == "http" else "websocket.disconnect"
        await client.send_input({"type": kind, "code": 1000})
        await client.wait()
        assert doors.hub.subscriptions == ()


# what is asked for


@pytest.mark.parametrize(
    ("query", "request_", "window"),
    [
        (b"", websocket_pb2.SubscribeRequest(), None),
        (b"after=5", websocket_pb2.SubscribeRequest(after=5), None),
        (b"after=0", websocket_pb2.SubscribeRequest(after=0), None),
        (b"service=a&service=b", websocket_pb2.SubscribeRequest(services=["a", "b"]), None),
        (b"ack=1", websocket_pb2.SubscribeRequest(), 1),
        (b"ack=1000&after=7", websocket_pb2.SubscribeRequest(after=7), 1_000),
    ],
)
def test_query(query, request_, window):
    assert request_from_query(query) == (request_, window)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (b"after=x", "after: must be a whole number of 64 bits, 0 or more"),
        (b"after=-1", "after: must be a whole number of 64 bits, 0 or more"),
        (b"ack=0", "ack: must be 1 to 1000"),
        (b"ack=1001", "ack: must be 1 to 1000"),
        (b"ack=x", "ack: must be 1 to 1000"),
        (b"ack=-1", "ack: must be 1 to 1000"),
        (b"&".join([b"ack=1"] * 101), "query: is not a query string"),
        (b"aftr=3", "aftr: is no parameter of this call; did you mean `after`? Allowed: ack, after, service"),
        (
            b"services=vpn",
            "services: is no parameter of this call; did you mean `service`? Allowed: ack, after, service",
        ),
    ],
)
def test_wrong_query(query, message):
    with pytest.raises(ApiError) as error:
        request_from_query(query)
    assert (error.value.code, error.value.message) == (grpc.StatusCode.INVALID_ARGUMENT, message)


async def test_subscription(doors):
    await publish(doors, "message", "message")
    live = subscribe(doors, websocket_pb2.SubscribeRequest(), "grpc")
    assert (live.position, live.is_behind, live.door) == (doors.hub.last_seq, False, "grpc")
    behind = subscribe(doors, websocket_pb2.SubscribeRequest(after=0, services=["sign"]), "http")
    assert (behind.position, behind.is_behind) == (0, True)
    with pytest.raises(ApiError) as error:
        subscribe(doors, websocket_pb2.SubscribeRequest(services=["message", "a\0"]), "grpc")
    assert error.value.message.startswith("service: must be one of delivery, federate, ")
    assert set(doors.hub.subscriptions) == {live, behind}


@pytest.mark.parametrize("service", ["delivery", "relay", "lightning", "log", "message", "of-this-node"])
async def test_services_that_there_are(doors, service):
    doors.services = (SimpleNamespace(service_type="of-this-node"),)
    doors.hub.unsubscribe(subscribe(doors, websocket_pb2.SubscribeRequest(services=[service]), "grpc"))


async def test_services_that_there_are_not(doors):
    with pytest.raises(ApiError) as error:
        subscribe(doors, websocket_pb2.SubscribeRequest(services=["mesage"]), "grpc")
    assert error.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.message == (
        "service: did you mean `message`? It must be one of delivery, federate, lightning, log, message, relay, sign, "
        "socket, vpn, websocket"
    )


@pytest.mark.parametrize(
    ("subprotocols", "authorization", "answered"),
    [
        (["Bearer", "k"], "Bearer k", "Bearer"),
        (["bearer", "k"], "Bearer k", "bearer"),
        ([], "of before", None),
        (["k"], "of before", None),
        (["Bearer", "k", "x"], "of before", None),
        (["Basic", "k"], "of before", None),
    ],
)
def test_key_of_a_browser(subprotocols, authorization, answered):
    headers, subprotocol = bearer_from_subprotocol({"authorization": "of before"}, subprotocols)
    assert (headers["authorization"], subprotocol) == (authorization, answered)


# websocket


async def opened(client: Client) -> dict:
    await client.send_input({"type": "websocket.connect"})
    return await client.receive_output()


async def told(client: Client) -> dict:
    output = await client.receive_output()
    assert output["type"] == "websocket.send", output
    return json.loads(output["text"])["result"]


async def test_websocket(doors):
    async with connected(doors, scope_of("websocket", PATH, headers=[KEY])) as client:
        assert (await opened(client))["type"] == "websocket.accept"
        (seq,) = await publish(doors, "message")
        event = await told(client)
    assert (event["seq"], event["data"], event["serviceType"]) == (str(seq), "aGVsbG8=", "message")


async def test_websocket_from_the_log_on(doors):
    seqs = await publish(doors, "message", "sign", "message")
    path = f"{PATH}?after={seqs[0] - 1}&service=message"
    async with connected(doors, scope_of("websocket", path, headers=[KEY])) as client:
        await opened(client)
        last = await publish(doors, "sign", "message")
        got = [int((await told(client))["seq"]) for _ in range(3)]
    assert got == [seqs[0], seqs[2], last[1]]


@pytest.mark.parametrize(
    ("path", "headers", "subprotocols"),
    [
        (PATH, [], []),
        (PATH, [], ["Bearer", "wrong"]),
        (PATH, [("x-api-key", secret_of("sender"))], []),
        (PATH, [KEY, ("origin", "http://evil.example")], []),
        (PATH, [("origin", "http://evil.example")], ["Bearer", "wrong"]),
        (PATH, [KEY, ("host", "evil.example")], []),
        (PATH, [KEY, ("host", "evil.example"), ("origin", "https://app.example")], []),
        (f"{PATH}?after=x", [KEY], []),
        (f"{PATH}?ack=0", [KEY], []),
        ("/v1/nothing", [KEY], []),
        ("/v1/nothing", [KEY, ("origin", "https://app.example")], []),
    ],
)
async def test_websocket_that_is_refused(doors, path, headers, subprotocols):
    scope = scope_of("websocket", path, headers=headers, subprotocols=subprotocols)
    client = Client(ApiApplication(doors), scope)
    assert (await opened(client))["type"] == "websocket.close"
    await client.send_input({"type": "websocket.disconnect", "code": 1006})
    await client.wait()
    assert doors.hub.subscriptions == ()


@pytest.mark.parametrize(
    ("path", "headers", "subprotocols", "reason"),
    [
        (PATH, [], ["Bearer", "wrong"], "the API key is not known"),
        (PATH, [], ["Bearer", secret_of("sender")], "the API key 'sender' lacks the scope 'read'"),
        (PATH, [], [], "an API key is needed: Authorization: Bearer KEY (or X-API-KEY)"),
        (f"{PATH}?after=x", [KEY], [], "after: must be a whole number of 64 bits, 0 or more"),
    ],
)
async def test_page_is_told_why_its_websocket_is_refused(doors, path, headers, subprotocols, reason):
    """It reads nothing of a handshake that fails."""
    origin = ("origin", "https://app.example")
    scope = scope_of("websocket", path, headers=[*headers, origin], subprotocols=subprotocols)
    client = Client(ApiApplication(doors), scope)
    accepted, closed = await opened(client), await client.receive_output()
    assert (accepted["type"], closed["type"], closed["code"]) == ("websocket.accept", "websocket.close", 1008)
    # Without the subprotocol that it has offered, a browser would end the connection itself.
    assert accepted["subprotocol"] == (subprotocols[0] if subprotocols else None)
    assert closed["reason"] == reason
    await client.send_input({"type": "websocket.disconnect", "code": 1008})
    await client.wait()
    assert doors.hub.subscriptions == ()


async def test_browser_gives_its_key_as_a_subprotocol(doors):
    scope = scope_of("websocket", PATH, subprotocols=["Bearer", secret_of("app")])
    async with connected(doors, scope) as client:
        accepted = await opened(client)
        assert (accepted["type"], accepted["subprotocol"]) == ("websocket.accept", "Bearer")


class Watching:
    """What ends the streams of a key, in the place of the keys' own watch."""

    def __init__(self, doors: Doors, monkeypatch):
        self.ends: list = []
        monkeypatch.setattr(doors.keys, "watch", self._watch)

    def _watch(self, caller, end):
        self.ends.append(end)
        return lambda: self.ends.remove(end)


async def test_websocket_ends_with_its_key(doors, monkeypatch):
    watching = Watching(doors, monkeypatch)
    async with connected(doors, scope_of("websocket", PATH, headers=[KEY])) as client:
        await opened(client)
        watching.ends[0](REVOKED)
        closed = await client.receive_output()
        assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
        assert closed["reason"] == "the API key 'app' was revoked"
        await until_in_loop(lambda: not doors.hub.subscriptions)
    assert watching.ends == []


async def failing(subscription: Subscription) -> None:
    raise ValueError("secret")


async def test_websocket_whose_stream_fails(doors, monkeypatch, caplog):
    monkeypatch.setattr(Subscription, "next", failing)
    async with connected(doors, scope_of("websocket", PATH, headers=[KEY])) as client:
        await opened(client)
        closed = await client.receive_output()
        assert (closed["code"], closed["reason"]) == (1011, "the stream failed; the node's log tells more")
    assert "stream to a websocket client failed" in caplog.messages


async def test_flow_control_by_acknowledgement(doors):
    path = f"{PATH}?ack=2"
    async with connected(doors, scope_of("websocket", path, headers=[KEY])) as client:
        await opened(client)
        seqs = await publish(doors, *["message"] * 4)
        got = [int((await told(client))["seq"]) for _ in range(2)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert client.output_queue.empty()
        # What is no acknowledgement is ignored.
        for text in ("hello", "x" * 300, json.dumps({"ack": seqs[1]}).ljust(250)):
            await client.send_input({"type": "websocket.receive", "text": text})
        await client.send_input({"type": "websocket.receive", "bytes": json.dumps({"ack": seqs[1]}).encode()})
        for _ in range(5):
            await asyncio.sleep(0)
        assert client.output_queue.empty()
        await client.send_input({"type": "websocket.receive", "text": json.dumps({"ack": seqs[1]})})
        got += [int((await told(client))["seq"]) for _ in range(2)]
    assert got == seqs


async def room(window: Window, seq: int) -> bool:
    """Whether there is room at once."""
    waiting = asyncio.ensure_future(window.room_for(seq))
    for _ in range(3):
        await asyncio.sleep(0)
    has_room = waiting.done()
    waiting.cancel()
    return has_room


@pytest.mark.parametrize(
    ("text", "has_room"),
    [
        ('{"ack":1}', True),
        ('{"ack":"2"}', True),
        ('{"ack":99}', True),
        ('{"ack":0}', False),
        ('{"ack":-1}', False),
        ('{"ack":null}', False),
        ('{"ack":[1]}', False),
        ('{"ack":"x"}', False),
        ('{"ack":1e999}', False),
        ('{"other":1}', False),
        ("[]", False),
        ("1", False),
        ("no JSON", False),
        ("[" * 100_000, False),
    ],
)
async def test_acknowledgement(text, has_room):
    window = Window(2)
    assert await room(window, 1)
    assert await room(window, 2)
    assert not await room(window, 3)
    window.acknowledge(text)
    assert await room(window, 3) is has_room


# lines of HTTP


async def begun(client: Client) -> dict[bytes, bytes]:
    """The headers, which leave with a first body that is empty."""
    await client.send_input({"type": "http.request", "body": b""})
    start = await client.receive_output()
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    first = await client.receive_output()
    assert (first["body"], first["more_body"]) == (b"", True)
    return dict(start["headers"])


async def test_lines(doors):
    scope = scope_of("http", PATH, headers=[KEY, ("origin", "https://app.example")])
    async with connected(doors, scope) as client:
        headers = await begun(client)
        seqs = await publish(doors, "message", "sign")
        lines = [(await client.receive_output())["body"] for _ in seqs]
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"access-control-allow-origin"] == b"https://app.example"
    assert b"content-length" not in headers
    assert [json.loads(line)["result"]["seq"] for line in lines] == [str(seq) for seq in seqs]
    assert all(line.endswith(b"}}\n") for line in lines)


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        (PATH, [], 401, 16),
        (PATH, [("x-api-key", secret_of("sender"))], 403, 7),
        (f"{PATH}?after=x", [KEY], 400, 3),
        (f"{PATH}?service=%00", [KEY], 400, 3),
    ],
)
async def test_lines_that_are_refused(doors, path, headers, status, code):
    client = Client(ApiApplication(doors), scope_of("http", path, headers=headers))
    await client.send_input({"type": "http.request", "body": b""})
    start, body = await client.receive_output(), await client.receive_output()
    await client.wait()
    assert (start["status"], json.loads(body["body"])["code"]) == (status, code)
    assert doors.hub.subscriptions == ()


async def test_lines_end_with_their_key(doors, monkeypatch):
    """As grpc-gateway ends a stream that fails."""
    watching = Watching(doors, monkeypatch)
    client = Client(ApiApplication(doors), scope_of("http", PATH, headers=[KEY]))
    await begun(client)
    watching.ends[0](REVOKED)
    last = await client.receive_output()
    await client.wait()
    assert last["more_body"] is False
    assert json.loads(last["body"]) == {"error": REVOKED.as_json()}
    assert watching.ends == list(doors.hub.subscriptions) == []


async def test_lines_that_fail(doors, monkeypatch, caplog):
    monkeypatch.setattr(Subscription, "next", failing)
    client = Client(ApiApplication(doors), scope_of("http", PATH, headers=[KEY]))
    await begun(client)
    last = await client.receive_output()
    await client.wait()
    error = json.loads(last["body"])["error"]
    assert (error["code"], error["message"]) == (13, "the stream failed; the node's log tells more")
    assert "stream to an HTTP client failed" in caplog.messages
    assert doors.hub.subscriptions == ()
