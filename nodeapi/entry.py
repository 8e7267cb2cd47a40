"""Where /v1, /health and /metrics enter a process: the API application once it is there, a clear Unavailable before."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import grpc
from django.db import Error as DatabaseError

from messaging.required import required
from nodeapi import codec
from nodeapi.auth import Keys
from nodeapi.doors import Doors
from nodeapi.errors import ApiError, StartError
from nodeapi.http_drain import HttpDrain
from nodeapi.monitoring import pages, paths
from nodeapi.monitoring.asking import Asked, NoAnswer
from nodeapi.monitoring.gauges import Scrape
from nodeapi.monitoring.health import Fault, Health, Report
from nodeapi.subscribe import refuse_early
from nodeapi.web import ApiApplication, respond

logger = logging.getLogger("nodeapi.entry")

# For answers to reach their clients, and clients to close their side.
LAST_SECONDS = 3.0


class ApiEntry:
    """An ASGI application. runimpd installs its API; any other process makes one of its own at the first call."""

    def __init__(self) -> None:
        self._application: ApiApplication | None = None
        self._make: Callable[[], Awaitable[None]] | None = None
        self._making = asyncio.Lock()
        self.waiting_for = "the node is starting"
        self.health = Health()
        self._begun = Asked(self._made, keep_seconds=1.0)
        self._doors: Doors | None = None
        self._scrape: Scrape | None = None
        self._http: HttpDrain | None = None

    def install(self, application: ApiApplication, doors: Doors, scrape: Scrape) -> None:
        self._application, self._doors, self._scrape = application, doors, scrape

    def make_with(self, make: Callable[[], Awaitable[None]]) -> None:
        """Called at the first call that comes before `install`, which it calls."""
        self._make = make

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and scope["path"] in paths.HEALTH_PATHS:
            await self._tell_health(scope, send)
            return
        await self._made()
        if self._application is not None:
            if scope["type"] == "http" and scope["path"] in paths.METRICS_PATHS:
                await pages.metrics_page(scope, send, required(self._doors), required(self._scrape))
            else:
                await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await refuse_early(scope, receive, send, self.waiting_for)
        else:
            error = ApiError(grpc.StatusCode.UNAVAILABLE, self.waiting_for)
            await respond(send, error.http_status, codec.dump(error.as_json()))

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

    async def _made(self) -> None:
        if self._application is None and self._make:
            async with self._making:
                if self._application is None:
                    try:
                        await self._make()
                    except StartError as error:
                        self.waiting_for = str(error)

    async def _tell_health(self, scope, send) -> None:
        if scope["path"] == paths.LIVE_PATH:
            await pages.live(scope, send)
            return
        try:
            if self._application is None:
                await self._begun.answer()
        except (DatabaseError, NoAnswer) as error:
            logger.warning("health: this process cannot begin: %s", type(error).__name__)
            await pages.tell(scope, send, Report((Fault("database", "away"),)))
        else:
            await pages.ready(scope, send, self.health)


api_entry = ApiEntry()
