"""The HTTP and websocket door of /v1 as an ASGI application: checks Host and Origin, bounds the body, picks the view.

It stands in front of Django's own handler, so that an API call passes no session, CSRF or other middleware of web pages.
"""

from collections.abc import Sequence

import grpc

from nodeapi import codec
from nodeapi.auth import headers_of, visit_of
from nodeapi.doors import Doors
from nodeapi.errors import ApiError
from nodeapi.openapi import describe
from nodeapi.operations import OPERATIONS
from nodeapi.rest import ApiRequest, Routes
from nodeapi.subscribe import StreamConsumer, stream_lines

SUBSCRIBE_PATH = "/v1/subscribe"
# Open to all: it says nothing of this node but its version.
OPENAPI_PATH = "/v1/openapi.json"
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
        if scope["path"] != SUBSCRIBE_PATH:
            await receive()
            await send({"type": "websocket.close"})
            return
        await StreamConsumer(self._doors)(scope, receive, send)

    async def _http(self, scope, receive, send) -> None:
        headers = headers_of(scope)
        origin = headers.get("origin", "")
        try:
            self._doors.guard.check(headers)
        except ApiError as error:
            await respond_error(send, error)
            return
        extra = cors_headers(origin) if origin else []
        try:
            if scope["method"] == "OPTIONS" and origin:
                await self._preflight(scope, send, extra)
            elif scope["path"] == OPENAPI_PATH and scope["method"] == "GET":
                await respond(send, 200, self._description, extra)
            elif scope["path"] == SUBSCRIBE_PATH and scope["method"] == "GET":
                await stream_lines(self._doors, scope, headers, receive, send, extra)
            else:
                await self._operation(scope, headers, receive, send, extra)
        except ApiError as error:
            await respond_error(send, error, extra)

    async def _operation(self, scope, headers, receive, send, extra) -> None:
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
        await respond(send, response.status_code, response.content, extra, named)

    async def _preflight(self, scope, send, extra) -> None:
        methods = self._routes.methods(scope["path"]) or (["GET"] if scope["path"] == SUBSCRIBE_PATH else [])
        if not methods:
            raise ApiError(grpc.StatusCode.NOT_FOUND, "Not Found")
        allow = [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (
                b"access-control-allow-headers",
                b"authorization, content-type, grpc-metadata-x-api-key, idempotency-key",
            ),
            (b"access-control-max-age", b"600"),
        ]
        await respond(send, 204, b"", extra + allow)


def cors_headers(origin: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"retry-after"),
        (b"vary", b"Origin"),
    ]


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
