"""Where /v1, /health and /metrics enter a process: the API application once it is there, a clear Unavailable before."""

import logging
from collections.abc import Awaitable, Callable

import grpc
from django.db import Error as DatabaseError

from messaging.required import required
from nodeapi.auth import Keys
from nodeapi.doors import STARTING, Doors
from nodeapi.errors import ApiError, StartError
from nodeapi.http_drain import HttpDrain
from nodeapi.monitoring import pages, paths
from nodeapi.monitoring.asking import Asked, NoAnswer
from nodeapi.monitoring.gauges import Scrape
from nodeapi.monitoring.health import Health
from nodeapi.monitoring.pages import EarlyMetrics
from nodeapi.subscribe import refuse_early
from nodeapi.web import ApiApplication, respond_error

logger = logging.getLogger("nodeapi.entry")

# For answers to reach their clients, and clients to close their side.
LAST_SECONDS = 3.0
WAITING_FOR_DATABASE = "the node waits for its database"


class ApiEntry:
    """An ASGI application. runimpd installs its API; any other process makes one of its own at the first call."""

    def __init__(self, *, retry_seconds: float = 1.0) -> None:
        self._application: ApiApplication | None = None
        self._make: Callable[[], Awaitable[None]] | None = None
        self.waiting_for = STARTING
        self.health = Health()
        self._begun = Asked(self._make_once, keep_seconds=retry_seconds)
        self._early_metrics: EarlyMetrics | None = None
        self._doors: Doors | None = None
        self._scrape: Scrape | None = None
        self._http: HttpDrain | None = None

    def install(self, application: ApiApplication, doors: Doors, scrape: Scrape) -> None:
        self._application, self._doors, self._scrape = application, doors, scrape

    def make_with(self, make: Callable[[], Awaitable[None]]) -> None:
        """Called at the first call that comes before `install`, which it calls."""
        self._make = make

    def install_early(self, metrics: EarlyMetrics) -> None:
        self._early_metrics = metrics

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and scope["path"] in paths.HEALTH_PATHS:
            await self._tell_health(scope, send)
            return
        asks_metrics = scope["type"] == "http" and scope["path"] in paths.METRICS_PATHS
        if await self.has_begun():
            if asks_metrics:
                await pages.metrics_page(scope, send, required(self._doors), required(self._scrape))
            else:
                await required(self._application)(scope, receive, send)
        elif scope["type"] == "websocket":
            await refuse_early(scope, receive, send, self.waiting_for)
        elif asks_metrics and self._early_metrics:
            await self._early_metrics.page(scope, send, self.waiting_for)
        else:
            await respond_error(send, ApiError(grpc.StatusCode.UNAVAILABLE, self.waiting_for))

    async def has_begun(self) -> bool:
        """Whether the API is there, after an attempt to make it where this process does so. If not, `waiting_for` says why."""
        if self._application is None and self._make:
            try:
                await self._begun.answer()
            except (DatabaseError, NoAnswer) as error:
                self._wait_for_database(error)
            else:
                self.health.wait_for_database(False)
        return self._application is not None

    def _wait_for_database(self, error: Exception) -> None:
        if self.waiting_for != WAITING_FOR_DATABASE:
            logger.warning("%s: %s", WAITING_FOR_DATABASE, " ".join(str(error).split()) or "no answer")
        self.waiting_for = WAITING_FOR_DATABASE
        self.health.wait_for_database(True)

    def drain_http_with(self, http: HttpDrain) -> None:
        """For a process that serves HTTP."""
        self._http = http

    async def drain(self, seconds: float) -> None:
        """Before the process ends."""
        if self._http:
            self._http.begin()
        if self._doors:
            await self._doors.drain(seconds)
        if self._http:
            await self._http.ended(LAST_SECONDS)

    @property
    def keys(self) -> Keys | None:
        return self._doors.keys if self._doors else None

    async def _make_once(self) -> None:
        try:
            await required(self._make)()
        except StartError as error:
            self.waiting_for = str(error)

    async def _tell_health(self, scope, send) -> None:
        if scope["path"] == paths.LIVE_PATH:
            await pages.live(scope, send)
            return
        await self.has_begun()
        await pages.ready(scope, send, self.health)


api_entry = ApiEntry()
