"""The HTTP and websocket door of /v1 as an ASGI application: checks Host and Origin, bounds the body, picks the view.

It stands in front of Django's own handler, so that an API call passes no session, CSRF or other middleware of web pages.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc

from nodeapi import codec, cors
from nodeapi.auth import WebGuard, headers_of, visit_of
from nodeapi.changed_send import ChangedSend, Event
from nodeapi.doors import Doors
from nodeapi.errors import ApiError
from nodeapi.openapi import describe
from nodeapi.operations import OPERATIONS
from nodeapi.rest import ApiRequest, Parameters, Routes, query_fields
from nodeapi.subscribe import StreamConsumer, refuse_websocket, stream_head, stream_lines

SUBSCRIBE_PATH = "/v1/subscribe"
# Open to all: it says nothing of this node but its version.
OPENAPI_PATH = "/v1/openapi.json"
NO_PARAMETERS = Parameters(known=(), told=())
Headers = Sequence[tuple[bytes, bytes]]
JSON_HEADERS: Headers = [(b"content-type", b"application/json")]


class ApiApplication:
    """`/v1/…` over HTTP, and the stream over a websocket."""

    def __init__(self, doors: Doors):
        self._doors = doors
        self._routes = Routes(doors)
        self._description = codec.dump(describe(OPERATIONS, version=doors.version))

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _websocket(self, scope, receive, send) -> None:
        if scope["path"] == SUBSCRIBE_PATH:
            await StreamConsumer(self._doors)(scope, receive, send)
        else:
            await refuse_websocket(self._doors, scope, receive, send)

    async def _http(self, scope, receive, send) -> None:
        headers = headers_of(scope)
        serve_stream = stream_lines
        if scope["method"] == "HEAD":
            serve_stream = stream_head
            scope, send = {**scope, "method": "GET"}, without_body(send)
        try:
            self._doors.guard.check(headers)
            if cors.is_preflight(scope, headers):
                await respond_preflight(send, headers, self._methods(scope["path"]))
            elif scope["path"] == OPENAPI_PATH and scope["method"] == "GET":
                query_fields(scope["query_string"].decode("latin-1"), NO_PARAMETERS)
                await respond(send, 200, self._description)
            elif scope["path"] == SUBSCRIBE_PATH and scope["method"] == "GET":
                await serve_stream(self._doors, scope, headers, receive, send)
            else:
                await self._operation(scope, headers, receive, send)
        except ApiError as error:
            await respond_error(send, error)

    async def _operation(self, scope, headers, receive, send) -> None:
        if scope["path"] == SUBSCRIBE_PATH:
            raise ApiError(grpc.StatusCode.UNIMPLEMENTED, "Method Not Allowed")
        view, fields = self._routes.find(scope["path"], scope["method"])
        body = await read_body(receive)
        if body is None:
            return
        request = ApiRequest(scope, headers, body)
        response = await view(request, visit=visit_of(scope, headers), **fields)
        response.render()
        named = [
            (name.lower().encode(), value.encode()) for name, value in response.items() if name != "Allow"
        ]
        await respond(send, response.status_code, response.content, named=named)

    def _methods(self, path: str) -> Sequence[str]:
        only_read = path in (SUBSCRIBE_PATH, OPENAPI_PATH)
        return ["GET"] if only_read else self._routes.methods(path) or cors.ANY_METHODS


class CrossOrigin:
    """An ASGI application in front of all that is served: pages of allowed origins may read every answer."""

    def __init__(self, application: Any, guard: WebGuard):
        self._application = application
        self._guard = guard

    async def __call__(self, scope, receive, send) -> None:
        headers = headers_of(scope)
        if origin := self._guard.allowed_origin(headers):
            send = cors.readable_by(origin, send)
            # The API answers its own.
            if cors.is_preflight(scope, headers) and not is_api_path(scope["path"]):
                await self._preflight(headers, send)
                return
        await self._application(scope, receive, send)

    async def _preflight(self, headers: Mapping[str, str], send) -> None:
        try:
            self._guard.check(headers)
        except ApiError as error:
            await respond_error(send, error)
            return
        await respond_preflight(send, headers, cors.ANY_METHODS)


def is_api_path(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def without_body(send) -> ChangedSend:
    """An ASGI `send` for HEAD (RFC 9110, 9.3.2)."""

    def headers_only(event: Event) -> Event:
        return {**event, "body": b""} if event["type"] == "http.response.body" else event

    return ChangedSend(send, headers_only)


async def respond_preflight(send, headers: Mapping[str, str], methods: Iterable[str]) -> None:
    """Whatever the path: a page cannot read why a preflight was refused, but can read why its call was."""
    await respond(send, 204, b"", cors.preflight_headers(headers, methods))


async def read_body(receive) -> bytes | None:
    """The whole body, whose size the server bounds; None when the client left."""
    chunks = []
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        chunks.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(chunks)


async def respond_error(send, error: ApiError, extra: Headers = ()) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in error.http_headers.items()]
    await respond(send, error.http_status, codec.dump(error.as_json()), [*extra, *headers])


async def respond(
    send,
    status: int,
    body: bytes,
    extra: Headers = (),
    named: Headers = JSON_HEADERS,
) -> None:
    """`named` are the headers that say what the body is."""
    headers = [*named, (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
