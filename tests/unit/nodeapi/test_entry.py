"""Where calls enter a process: before its API is there, and from then on."""

import asyncio
from types import SimpleNamespace

import pytest
from django.db import OperationalError

from nodeapi.auth import Keys, WebGuard
from nodeapi.entry import WAITING_FOR_DATABASE, ApiEntry
from nodeapi.errors import StartError
from nodeapi.monitoring.health import Fault
from nodeapi.monitoring.pages import EarlyMetrics
from tests.support.asgi import Client, call, scope_of
from tests.support.doors import caller, make_doors, secret_of


class Application:
    """The API, which remembers what reaches it."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        self.paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"of the API"})


class Scraped:
    async def page(self, accept: str) -> tuple[str, bytes]:
        return "text/plain", b"up 1\n"


def installed(database) -> tuple[ApiEntry, Application]:
    entry, application = ApiEntry(), Application()
    entry.install(application, make_doors(database, caller("reader", "read")), Scraped())
    entry.health.phase = None
    return entry, application


async def test_calls_before_the_node_has_started():
    entry = ApiEntry()
    reply = await call(entry, "GET", "/v1/node")
    assert (reply.status, reply.json["code"], reply.json["message"]) == (503, 14, "the node is starting")
    entry.waiting_for = "the node waits for lnd at 127.0.0.1:10009"
    assert (await call(entry, "GET", "/metrics")).json["message"] == entry.waiting_for


async def test_websocket_before_the_node_has_started():
    client = Client(ApiEntry(), scope_of("websocket", "/v1/subscribe"))
    await client.send_input({"type": "websocket.connect"})
    closed = await client.receive_output()
    assert (closed["type"], closed["code"]) == ("websocket.close", 1013)


async def test_websocket_of_a_page_before_the_node_has_started():
    """A page reads why a websocket was closed, but nothing of a handshake that was refused."""
    headers = [("origin", "https://app.example")]
    client = Client(ApiEntry(), scope_of("websocket", "/v1/subscribe", headers=headers))
    await client.send_input({"type": "websocket.connect"})
    assert (await client.receive_output())["type"] == "websocket.accept"
    closed = await client.receive_output()
    assert (closed["code"], closed["reason"]) == (1013, "the node is starting")


async def test_api_that_cannot_be_made():
    entry = ApiEntry()

    async def make() -> None:
        raise StartError("database.url: the database was made by a newer version")

    entry.make_with(make)
    reply = await call(entry, "GET", "/v1/node")
    assert (reply.status, reply.json["message"]) == (
        503,
        "database.url: the database was made by a newer version",
    )


async def test_health_before_the_node_has_started():
    entry = ApiEntry()
    assert (await call(entry, "GET", "/health/live")).status == 200
    reply = await call(entry, "GET", "/health/ready")
    assert (reply.status, reply.json["reasons"]) == (503, [Fault("node", "starting").as_json()])


async def test_node_that_runs(database):
    entry, application = installed(database)
    assert (await call(entry, "GET", "/v1/node")).body == b"of the API"
    assert (await call(entry, "GET", "/health/ready")).json["status"] == "ready"
    headers = [("x-api-key", secret_of("reader"))]
    for path in ("/metrics", "/metrics/runimpd"):
        assert (await call(entry, "GET", path, headers=headers)).body == b"up 1\n"
    assert (await call(entry, "GET", "/metrics")).status == 401
    assert application.paths == ["/v1/node"]


@pytest.mark.parametrize("path", ["/v1/node", "/health/ready"])
async def test_process_beside_runimpd_makes_its_api_at_the_first_call(database, path):
    entry, made = ApiEntry(), []

    async def make() -> None:
        made.append(1)
        await asyncio.sleep(0)
        entry.install(Application(), make_doors(database), Scraped())
        entry.health.phase = None

    entry.make_with(make)
    assert (await call(entry, "GET", "/health/live")).status == 200
    assert not made
    replies = await asyncio.gather(*(call(entry, "GET", path) for _ in range(5)))
    assert [reply.status for reply in replies] == [200] * 5
    assert made == [1]


@pytest.mark.parametrize("open_on_loopback", [True, False])
@pytest.mark.parametrize(
    ("configured", "given", "address", "status"),
    [
        ((), None, "127.0.0.1", 200),
        ((), None, "203.0.113.5", 503),
        # It may be one of the database.
        ((), "another", "127.0.0.1", 200),
        (("reader",), "reader", "203.0.113.5", 200),
        (("reader",), None, "127.0.0.1", 503),
        (("reader",), "another", "127.0.0.1", 503),
        (("sender",), "sender", "127.0.0.1", 403),
    ],
)
async def test_metrics_before_the_database(configured, given, address, status, open_on_loopback):
    """By the keys of the configuration alone; with none of these whoever is on this machine, if nobody else is let in."""
    scopes = {"reader": "read", "sender": "send"}
    callers = [caller(name, scopes[name]) for name in configured]
    keys = Keys(callers, database=None, open_on_loopback=open_on_loopback, tells=False)
    keys.go_without_stored()
    entry, guard = ApiEntry(), WebGuard(allowed_hosts=[], allowed_origins=[], bound_hosts=[])
    entry.install_early(EarlyMetrics(keys, guard, Scraped()))
    scope = scope_of("http", "/metrics", headers=[("x-api-key", secret_of(given))] if given else ())
    client = Client(entry, scope | {"client": [address, 4711]})
    await client.send_input({"type": "http.request"})
    if not open_on_loopback and not configured:
        status = 503
    assert (await client.receive_output())["status"] == status
    if status == 200:
        assert (await client.receive_output())["body"] == b"up 1\n"


async def test_process_that_waits_for_the_database(database, caplog):
    """Whatever is asked, it says so, in the log once, and it tries again."""
    entry, trouble = ApiEntry(retry_seconds=0), SimpleNamespace(error=OperationalError("connection refused"))

    async def make() -> None:
        if trouble.error:
            raise trouble.error
        entry.install(Application(), make_doors(database), Scraped())
        entry.health.phase = None

    entry.make_with(make)
    reply = await call(entry, "GET", "/health/ready")
    assert (reply.status, reply.json["reasons"]) == (503, [Fault("database", "away").as_json()])
    for path in ("/v1/node", "/v1/subscribe", "/metrics"):
        reply = await call(entry, "GET", path)
        assert (reply.status, reply.json["message"]) == (503, WAITING_FOR_DATABASE)
    client = Client(entry, scope_of("websocket", "/v1/subscribe"))
    await client.send_input({"type": "websocket.connect"})
    assert (await client.receive_output())["reason"] == WAITING_FOR_DATABASE
    assert caplog.messages == [f"{WAITING_FOR_DATABASE}: connection refused"]
    trouble.error = None
    assert (await call(entry, "GET", "/v1/node")).status == 200
    assert (await call(entry, "GET", "/health/ready")).status == 200
