"""/health and /metrics as ASGI pages: who may read them, and what they answer."""

from types import SimpleNamespace

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from nodeapi.doors import Doors
from nodeapi.monitoring import paths
from nodeapi.monitoring.health import Fault, Report
from nodeapi.monitoring.pages import live, metrics_page, ready
from tests.support.asgi import Reply, call
from tests.support.doors import caller, make_doors, secret_of

READER = ("x-api-key", secret_of("reader"))
FULL, AWAY = Fault("disk", "full"), Fault("redis", "away")


async def page(serve, path: str, *headers: tuple[str, str], method: str = "GET") -> Reply:
    async def application(scope, receive, send) -> None:
        await serve(scope, send)

    return await call(application, method, path, headers=headers)


def health(*faults: Fault):
    async def look() -> Report:
        return Report(faults)

    return SimpleNamespace(look=look)


class Scraped:
    """As nodeapi.monitoring.gauges.Scrape."""

    async def page(self, accept: str) -> tuple[str, bytes]:
        return "text/plain; version=0.0.4", f"accept {accept}\n".encode()


@pytest.fixture
def doors(database) -> Doors:
    return make_doors(database, caller("reader", "read"), caller("sender", "send"))


def metrics(doors: Doors):
    async def serve(scope, send) -> None:
        await metrics_page(scope, send, doors, Scraped())

    return serve


@pytest.mark.parametrize("host", ["localhost", "10.9.8.7:8882", "evil.example"])
async def test_process_that_serves(host):
    reply = await page(live, paths.LIVE_PATH, ("host", host), ("origin", "http://evil.example"))
    assert (reply.status, reply.json) == (200, {"status": "live"})
    assert reply.headers == {
        "content-type": "application/json",
        "content-length": "17",
        "cache-control": "no-store",
    }


@pytest.mark.parametrize(
    ("faults", "status", "word"),
    [
        ((), 200, "ready"),
        ((AWAY,), 200, "degraded"),
        ((FULL,), 503, "unready"),
        ((AWAY, FULL), 503, "unready"),
    ],
)
async def test_readiness(faults, status, word):
    async def serve(scope, send) -> None:
        await ready(scope, send, health(*faults))

    reply = await page(serve, paths.READY_PATH)
    assert (reply.status, reply.json["status"]) == (status, word)
    assert reply.json == Report(faults).as_json()


async def test_head_has_no_body():
    reply = await page(live, paths.LIVE_PATH, method="HEAD")
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_pages_are_read_only(method):
    reply = await page(live, paths.LIVE_PATH, method=method)
    assert (reply.status, reply.json["code"]) == (501, 12)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([], 401, 16),
        ([("x-api-key", secret_of("sender"))], 403, 7),
        ([READER, ("host", "evil.example")], 403, 7),
        ([READER, ("origin", "http://evil.example")], 403, 7),
        ([READER, ("accept", "x/y")], 200, None),
    ],
)
async def test_metrics_are_for_keys_that_read(doors, headers, status, code):
    reply = await page(metrics(doors), paths.METRICS_PATH, *headers)
    assert reply.status == status
    if code is None:
        assert (reply.headers["content-type"], reply.body) == ("text/plain; version=0.0.4", b"accept x/y\n")
    else:
        assert reply.json["code"] == code
    assert reply.headers["cache-control"] == "no-store"


async def test_runimpd_tells_of_itself(doors):
    reply = await page(metrics(doors), paths.RUNIMPD_PATH, READER)
    assert (reply.status, reply.body) == (200, b"accept \n")


class Asking:
    """A forwarder to a runimpd whose scrape ends so."""

    def __init__(self, answer: bytes | AioRpcError):
        self.channel = self
        self._answer = answer
        self.asked: list[tuple] = []

    def unary_unary(self, path):
        async def method(request, *, metadata, **options):
            self.asked.append((path, request, dict(metadata)))
            if isinstance(self._answer, AioRpcError):
                raise self._answer
            return self._answer

        return method


async def test_runimpd_is_scraped_through_a_daphne(doors):
    doors.forwarder = Asking(b"text/plain\nup 1\n# a second line\n")
    reply = await page(metrics(doors), paths.RUNIMPD_PATH, READER, ("accept", "x/y"))
    assert (reply.headers["content-type"], reply.body) == ("text/plain", b"up 1\n# a second line\n")
    ((path, request, metadata),) = doors.forwarder.asked
    assert (path, request) == ("/monitoring.Monitoring/Scrape", b"x/y")
    assert metadata["x-api-key"] == secret_of("reader")
    # A daphne tells of itself without it.
    await page(metrics(doors), paths.METRICS_PATH, READER)
    assert len(doors.forwarder.asked) == 1


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        (grpc.StatusCode.UNAVAILABLE, 503, "runimpd does not answer"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504, "runimpd does not answer"),
        (grpc.StatusCode.PERMISSION_DENIED, 403, "of runimpd"),
    ],
)
async def test_runimpd_that_cannot_be_scraped(doors, code, status, message):
    doors.forwarder = Asking(AioRpcError(code, Metadata(), Metadata(), "of runimpd"))
    reply = await page(metrics(doors), paths.RUNIMPD_PATH, READER)
    assert (reply.status, reply.json["message"]) == (status, message)
