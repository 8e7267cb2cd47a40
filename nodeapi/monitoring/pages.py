"""/health/live, /health/ready, /metrics and /metrics/runimpd, beside the API, on each process that serves HTTP.

/health/… asks for no key and takes any Host: a container's or a proxy's check gives an address as the name, and what is told
there is no secret. Other web pages than those of allowed origins cannot read it. /metrics passes the same checks as the API's reading calls.
"""

from dataclasses import dataclass

import grpc

from nodeapi import codec
from nodeapi.auth import (
    Keys,
    Visit,
    WebGuard,
    headers_of,
    may_be_of_this_machine,
    offered_key,
    visit_of,
)
from nodeapi.doors import Doors
from nodeapi.errors import ApiError
from nodeapi.keys import hash_of
from nodeapi.monitoring import rpc_scrape
from nodeapi.monitoring.gauges import Scrape
from nodeapi.monitoring.health import Health, Report
from nodeapi.monitoring.paths import RUNIMPD_PATH
from nodeapi.web import JSON_HEADERS, Headers, respond

SCOPE = "read"
NO_STORE = [(b"cache-control", b"no-store")]
NOT_ALLOWED = {"code": grpc.StatusCode.UNIMPLEMENTED.value[0], "message": "Method Not Allowed", "details": []}


async def live(scope, send) -> None:
    """This process serves: that is all it says."""
    await _answer(scope, send, 200, codec.dump({"status": "live"}))


async def ready(scope, send, health: Health) -> None:
    await tell(scope, send, await health.look())


async def tell(scope, send, report: Report) -> None:
    await _answer(scope, send, 200 if report.ready else 503, codec.dump(report.as_json()))


async def metrics_page(scope, send, doors: Doors, scrape: Scrape) -> None:
    headers = headers_of(scope)
    try:
        doors.guard.check(headers)
        visit = visit_of(scope, headers)
        doors.admit(visit, SCOPE, scope["path"])
        if scope["path"] == RUNIMPD_PATH and doors.forwarder:
            content_type, body = await rpc_scrape.ask(doors.forwarder, visit)
        else:
            content_type, body = await scrape.page(headers.get("accept", ""))
    except ApiError as error:
        await _answer(scope, send, error.http_status, codec.dump(error.as_json()))
        return
    await _answer(scope, send, 200, body, [(b"content-type", content_type.encode())])


@dataclass(frozen=True)
class EarlyMetrics:
    """/metrics before the database can be used. Its API keys are not known then: whoever brings one of the configuration may
    read, and on a node without any, and that nobody else reaches, whoever is on this machine. What is shown is little more
    than the health. Others are told to wait: `keys` cannot say whether theirs is valid.
    """

    keys: Keys
    guard: WebGuard
    scrape: Scrape

    async def page(self, scope, send, waiting_for: str) -> None:
        headers = headers_of(scope)
        try:
            self.guard.check(headers)
            self._admit(visit_of(scope, headers), waiting_for)
            if scope["path"] == RUNIMPD_PATH and not self.scrape.of_runimpd:
                raise ApiError(grpc.StatusCode.UNAVAILABLE, waiting_for)
            content_type, body = await self.scrape.page(headers.get("accept", ""))
        except ApiError as error:
            await _answer(scope, send, error.http_status, codec.dump(error.as_json()))
            return
        await _answer(scope, send, 200, body, [(b"content-type", content_type.encode())])

    def _admit(self, visit: Visit, waiting_for: str) -> None:
        offered = offered_key(visit.metadata)
        is_known = bool(offered) and hash_of(offered) in {caller.hash for caller in self.keys.callers}
        if not is_known and not (self.keys.is_open and may_be_of_this_machine(visit)):
            raise ApiError(grpc.StatusCode.UNAVAILABLE, waiting_for)
        self.keys.admit(visit, SCOPE)


async def _answer(scope, send, status: int, body: bytes, named: Headers = JSON_HEADERS) -> None:
    if scope["method"] not in ("GET", "HEAD"):
        status, body, named = 501, codec.dump(NOT_ALLOWED), JSON_HEADERS
    await respond(send, status, b"" if scope["method"] == "HEAD" else body, NO_STORE, named)
