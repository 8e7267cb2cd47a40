"""What web pages of allowed origins may read, by the Fetch standard and Private Network Access. Pure ASGI."""

from collections.abc import Iterable, Mapping
from typing import Any

from nodeapi.changed_send import ChangedSend, Event

Headers = list[tuple[bytes, bytes]]
# Besides those that every page may send.
REQUEST_HEADERS = (
    "authorization",
    "content-encoding",
    "content-type",
    "grpc-metadata-x-api-key",
    "idempotency-key",
    "x-api-key",
)
MAX_AGE_SECONDS = 600
# Of a path that is not served: the call itself then says so, which its page can read.
ANY_METHODS = ("GET", "POST")


def is_preflight(scope, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks what a page may send."""
    return scope["method"] == "OPTIONS" and "origin" in headers


def origin_headers(origin: str) -> Headers:
    """For every answer to a page of an allowed origin."""
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"retry-after"),
        (b"vary", b"Origin"),
    ]


def preflight_headers(headers: Mapping[str, str], methods: Iterable[str]) -> Headers:
    """For the answer to a preflight, besides those of `origin_headers`."""
    allowed = [
        (b"access-control-allow-methods", ", ".join(methods).encode()),
        (b"access-control-allow-headers", ", ".join(REQUEST_HEADERS).encode()),
        (b"access-control-max-age", str(MAX_AGE_SECONDS).encode()),
    ]
    if headers.get("access-control-request-private-network", "").lower() == "true":
        allowed.append((b"access-control-allow-private-network", b"true"))
    return allowed


def readable_by(origin: str, send: Any) -> ChangedSend:
    """An ASGI `send` whose answer a page of this origin may read."""

    def readable(event: Event) -> Event:
        if event["type"] != "http.response.start":
            return event
        return {**event, "headers": [*event.get("headers", ()), *origin_headers(origin)]}

    return ChangedSend(send, readable)
