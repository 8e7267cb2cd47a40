"""Where /v1 enters a process: the API application once it is there, a clear Unavailable before."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc

from nodeapi import codec
from nodeapi.errors import ApiError
from nodeapi.web import ApiApplication, respond


class ApiEntry:
    """An ASGI application. runimpd installs its API; any other process makes one of its own at the first call."""

    def __init__(self) -> None:
        self._application: ApiApplication | None = None
        self._make: Callable[[], Awaitable[ApiApplication]] | None = None
        self._making = asyncio.Lock()
        self.waiting_for = "the node is starting"

    def install(self, application: ApiApplication) -> None:
        self._application = application

    def make_with(self, make: Callable[[], Awaitable[ApiApplication]]) -> None:
        """Called once, at the first call that comes before `install`."""
        self._make = make

    async def __call__(self, scope, receive, send) -> None:
        if self._application is None and self._make:
            async with self._making:
                if self._application is None:
                    self._application = await self._make()
        if self._application is not None:
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1013})
        else:
            error = ApiError(grpc.StatusCode.UNAVAILABLE, self.waiting_for)
            await respond(send, error.http_status, codec.dump(error.as_json()))


api_entry = ApiEntry()
