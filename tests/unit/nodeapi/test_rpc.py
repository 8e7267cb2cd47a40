"""gRPC's servicers, called as the server calls them: the same doors as REST, with the same refusals."""

import asyncio
import dataclasses
from functools import partial
from types import SimpleNamespace
from uuid import uuid4

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from messaging import events
from messaging.models import Event
from nodeapi import rpc
from nodeapi.auth import Visit
from nodeapi.doors import Doors
from nodeapi.errors import ApiError
from nodeapi.forward import credentials_of
from nodeapi.operations import OPERATIONS
from nodeapi.rpc_rooms import MIN_MESSAGE_BYTES, Rooms
from nodeapi.stream import Hub
from protos import messaging_pb2, websocket_pb2
from tests.support.doors import (
    ADDRESS,
    ENGINE,
    LIST_MESSAGES,
    PUBKEY,
    SEND_MESSAGE,
    caller,
    make_doors,
    secret_of,
    visit,
)
from tests.support.waiting import until_in_loop

CODE = grpc.StatusCode
SUBSCRIBE = "websocket.Websocket/Subscribe"
KEY = ("x-api-key", secret_of("app"))
REQUEST = messaging_pb2.SendMessageRequest(msg=b"x", pubkey=PUBKEY)


class Aborted(Exception):
    """What `abort` raises, as gRPC's does."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: tuple):
        super().__init__(details)
        self.code, self.details, self.trailing = code, details, trailing


class Context:
    """What of a gRPC servicer's context is used."""

    def __init__(
        self, *metadata: tuple[str, str | bytes], raw: bytes | None = None, peer: str = f"ipv4:{ADDRESS}:4711"
    ):
        self._metadata, self._raw, self._peer = metadata, raw, peer
        self.initial: tuple | None = None
        self.was_read = False

    async def read(self):
        self.was_read = True
        return grpc.aio.EOF if self._raw is None else self._raw

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self):
        return self._metadata

    async def send_initial_metadata(self, metadata) -> None:
        self.initial = metadata

    async def abort(self, code, details, trailing=()):
        raise Aborted(code, details, trailing)


class Doing:
    """An operation's function that remembers what it was asked."""

    def __init__(self, reply: dict | None = None, error: Exception | None = None):
        self._reply, self._error = reply or {}, error
        self.asked: list[dict] = []

    async def __call__(self, doors, **fields):
        self.asked.append(fields)
        if self._error:
            raise self._error
        return self._reply


@pytest.fixture
async def doors(database) -> Doors:
    callers = (
        caller("app", "read", "send"),
        caller("sender", "send"),
        caller("often", "read", calls_per_minute=1),
    )
    hub = Hub(database, poll_seconds=600)
    await database.write(partial(events.append, [new_event()], published=lambda told: None))
    await hub.start()
    return make_doors(database, *callers, engine=ENGINE, hub=hub)


def new_event() -> Event:
    return Event(message_id=uuid4(), data=b"hello", service_type="message", amount_sat=1)


def rooms(streams: int = 10) -> Rooms:
    return Rooms(received_bytes=MIN_MESSAGE_BYTES, streams=streams)


def handler(doors: Doors, monkeypatch, name: str, function: Doing | None = None) -> grpc.RpcMethodHandler:
    """As the server finds it."""
    service, method = name.split("/")
    if function:
        table = [
            dataclasses.replace(row, function=function) if row.rpc_path == f"/{name}" else row
            for row in OPERATIONS
        ]
        monkeypatch.setattr(rpc, "OPERATIONS", table)
    found = rpc.handlers_for(service, doors, rooms()).service(SimpleNamespace(method=f"/{service}/{method}"))
    assert found is not None
    return found


async def call(found: grpc.RpcMethodHandler, context: Context):
    """To the bytes of the answer."""
    return found.response_serializer(await found.stream_unary(None, context))


async def test_call(doors, monkeypatch):
    doing = Doing({"id": "y"})
    found = handler(doors, monkeypatch, SEND_MESSAGE, doing)
    request = REQUEST.SerializeToString()
    raw = await call(found, Context(KEY, ("idempotency-key", "k"), raw=request))
    assert messaging_pb2.SendMessageResponse.FromString(raw).id == "y"
    assert doing.asked[0]["msg"] == b"x"
    assert doing.asked[0]["claim"].key == "k"


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.rpc_path)
async def test_each_operation_asks_for_a_key(doors, monkeypatch, row):
    found = handler(doors, monkeypatch, row.rpc_path.strip("/"))
    context = Context(raw=b"")
    with pytest.raises(Aborted) as error:
        await call(found, context)
    assert error.value.code is CODE.UNAUTHENTICATED
    assert not context.was_read


@pytest.mark.parametrize(
    ("raw", "metadata", "code", "details"),
    [
        (b"", [KEY], CODE.INVALID_ARGUMENT, "msg: is missing or empty"),
        (None, [KEY], CODE.INVALID_ARGUMENT, "request: is missing"),
        (
            b"\xff\xff",
            [KEY],
            CODE.INVALID_ARGUMENT,
            "request: these bytes are no messaging.SendMessageRequest",
        ),
        # Who may call is asked before the bytes are looked at.
        (b"\xff\xff", [("x-api-key", "x")], CODE.UNAUTHENTICATED, "the API key is not known"),
        (b"", [("x-api-key", secret_of("often"))], CODE.PERMISSION_DENIED, None),
    ],
)
async def test_refusals(doors, monkeypatch, raw, metadata, code, details):
    doing = Doing()
    with pytest.raises(Aborted) as error:
        await call(handler(doors, monkeypatch, SEND_MESSAGE, doing), Context(*metadata, raw=raw))
    assert error.value.code is code
    assert details in (None, error.value.details)
    assert error.value.trailing == ()
    assert not doing.asked


async def test_retry_after(doors, monkeypatch):
    found = handler(doors, monkeypatch, LIST_MESSAGES, Doing({"messages": []}))
    context = Context(("authorization", f"Bearer {secret_of('often')}"), raw=b"")
    await call(found, context)
    with pytest.raises(Aborted) as error:
        await call(found, context)
    assert error.value.code is CODE.RESOURCE_EXHAUSTED
    ((name, seconds),) = error.value.trailing
    assert name == "retry-after"
    assert 1 <= int(seconds) <= 60


async def test_unexpected_error(doors, monkeypatch):
    found = handler(doors, monkeypatch, SEND_MESSAGE, Doing(error=ValueError("secret")))
    with pytest.raises(Aborted) as error:
        await call(found, Context(KEY, raw=REQUEST.SerializeToString()))
    assert error.value.code is CODE.INTERNAL
    assert error.value.details == "internal error; the node's log tells more"


def test_no_handler_is_given_a_request_that_was_read_for_it(doors):
    """gRPC reads the request of any other kind before it asks the handler, whoever calls."""
    handlers = (*rpc.api_handlers(doors, rooms(), scrape=None), *rpc.open_handlers(rooms(), None))
    services = (
        *health_pb2.DESCRIPTOR.services_by_name.values(),
        *reflection_pb2.DESCRIPTOR.services_by_name.values(),
    )
    others = [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]
    own = [*(row.rpc_path for row in OPERATIONS), f"/{SUBSCRIBE}", "/monitoring.Monitoring/Scrape"]
    found = 0
    for path in (*own, *others):
        for each in handlers:
            if handler := each.service(SimpleNamespace(method=path)):
                assert handler.request_streaming, path
                found += 1
    # Check, Watch and reflection of what is not our own.
    assert found == len(own) + 3


async def test_streams_have_a_limit(doors):
    made = rooms(streams=1)
    found = rpc.handlers_for("websocket.Websocket", doors, made).service(
        SimpleNamespace(method=f"/{SUBSCRIBE}")
    )
    context = Context(KEY, raw=b"")
    first = asyncio.ensure_future(anext(found.stream_stream(None, context)))
    await until_in_loop(lambda: context.initial is not None)
    with pytest.raises(Aborted) as error:
        await anext(found.stream_stream(None, Context(KEY, raw=b"")))
    assert error.value.code is CODE.RESOURCE_EXHAUSTED
    assert "server.max_grpc_connections" in error.value.details
    first.cancel()
    await asyncio.wait({first})
    assert doors.hub.subscriptions == ()


# metadata


@pytest.mark.parametrize(
    ("given", "metadata"),
    [
        ((), {}),
        ((("x-api-key", "one"), ("x-api-key", "two")), {"x-api-key": "one"}),
        ((("x-forwarded-for", "a"), ("x-forwarded-for", "b")), {"x-forwarded-for": "a,b"}),
        ((("trace-bin", b"\xff"), ("a", "b")), {"a": "b"}),
        (
            (("idempotency-key-bin", b"zw\xf6lf"),),
            {"idempotency-key": "zw\N{LATIN SMALL LETTER O WITH DIAERESIS}lf"},
        ),
        ((("idempotency-key", "k"), ("idempotency-key-bin", b"other")), {"idempotency-key": "k"}),
    ],
)
def test_metadata(given, metadata):
    assert rpc.metadata_of(Context(*given)) == metadata


def test_metadata_that_is_missing():
    context = Context()
    context.invocation_metadata = lambda: None
    assert rpc.metadata_of(context) == {}


@pytest.mark.parametrize("key", ["k", "zwölf", "tab\t"])
def test_visit_that_a_daphne_passes_on_is_that_of_its_client(key):
    told = credentials_of(visit("app", idempotency_key=key))
    passed_on = rpc.visit_of(Context(*told, peer="ipv4:127.0.0.1:4711"))
    assert passed_on.address == ADDRESS
    assert passed_on.metadata["idempotency-key"] == key
    assert passed_on.metadata["authorization"] == f"Bearer {secret_of('app')}"


def test_visit_of_the_caller_itself():
    context = Context(("impd-client", "198.51.100.1"))
    assert rpc.visit_of(context) == Visit(metadata={"impd-client": "198.51.100.1"}, address=ADDRESS)


# the stream


async def test_stream(doors, monkeypatch):
    context = Context(KEY, raw=b"")
    stream = handler(doors, monkeypatch, SUBSCRIBE).stream_stream(None, context)
    first = asyncio.ensure_future(anext(stream))
    await until_in_loop(lambda: context.initial is not None)
    # From the headers on nothing is missed.
    told: list[Event] = []
    event = new_event()
    await doors.database.write(partial(events.append, [event], published=told.extend))
    doors.hub.feed(told)
    assert (await first).id == str(event.message_id)
    await stream.aclose()
    assert doors.hub.subscriptions == ()


@pytest.mark.parametrize(
    ("raw", "metadata", "code"),
    [
        (b"", [], CODE.UNAUTHENTICATED),
        (b"", [("x-api-key", secret_of("sender"))], CODE.PERMISSION_DENIED),
        (b"\xff\xff", [KEY], CODE.INVALID_ARGUMENT),
        (
            websocket_pb2.SubscribeRequest(services=["\0"]).SerializeToString(),
            [KEY],
            CODE.INVALID_ARGUMENT,
        ),
    ],
)
async def test_stream_that_is_refused(doors, monkeypatch, raw, metadata, code):
    found = handler(doors, monkeypatch, SUBSCRIBE)
    with pytest.raises(Aborted) as error:
        await anext(found.stream_stream(None, Context(*metadata, raw=raw)))
    assert error.value.code is code
    assert doors.hub.subscriptions == ()


async def test_stream_ends_with_its_key(doors, monkeypatch):
    watched, forgotten = [], []

    def watch(who, end):
        watched.append((who.name, end))
        return lambda: forgotten.append(who.name)

    monkeypatch.setattr(doors.keys, "watch", watch)
    context = Context(KEY, raw=b"")
    found = handler(doors, monkeypatch, SUBSCRIBE)
    first = asyncio.ensure_future(anext(found.stream_stream(None, context)))
    await until_in_loop(lambda: context.initial is not None)
    ((name, end),) = watched
    end(ApiError(CODE.UNAUTHENTICATED, "the API key 'app' was revoked"))
    with pytest.raises(Aborted) as error:
        await first
    assert (error.value.code, error.value.details) == (CODE.UNAUTHENTICATED, "the API key 'app' was revoked")
    assert forgotten == [name] == ["app"]
    assert doors.hub.subscriptions == ()
