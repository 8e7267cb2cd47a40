"""What HTTP and websocket clients may take of this node: connections, time and memory. All of it knows Daphne and
Twisted.

Daphne reads a request to its end before an application sees it, waits for as long as bytes come in, and takes every
connection there is. Its hooks are used here: its factory, Twisted's channel (a connection) and request, its websocket
protocol.
"""

import asyncio
import io
import ipaddress
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import daphne.server  # (installs Twisted's asyncio reactor, which has to come first)
import grpc
from daphne import http_protocol, ws_protocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.web import http

from nodeapi import codec, cors
from nodeapi.addresses import ip_of, site_of
from nodeapi.errors import ApiError, invalid
from nodeapi.monitoring.paths import HEALTH_PATHS

logger = logging.getLogger("nodeapi.http_limits")

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

DEFAULT_PER_ADDRESS = 256
# Beside all others, for whoever asks whether the process lives.
SPARE_CONNECTIONS = 8
# Of a body that is too large so much is read, and forgotten at once, so that its client comes to read why it is
# refused.
READ_IN_VAIN_BYTES = 128 * 2**20
LOG_SECONDS = 60.0
_ABSOLUTE_TARGET = re.compile(rb"(?:http|ws)s?://(?P<authority>[^/?#@]+)(?P<rest>(?:[/?].*)?)", re.IGNORECASE)
# grpc-gateway's status of a call that its client has given up; no standard has a name for it.
CLIENT_CLOSED_REQUEST = 499


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """Bytes of one body and of all bodies that are here at a time; connections in all and from one address (None:
    256, and no limit for loopback), of which `trusted` proxies are free. Seconds: for the headers of a request, from its
    first byte on; for its body, besides what its bytes take at the slowest rate; for a connection that asks for nothing.
    """

    body_bytes: int
    all_bodies_bytes: int
    connections: int
    per_address: int | None = None
    trusted: Networks = ()
    header_seconds: float = 30.0
    body_seconds: float = 30.0
    body_bytes_per_second: int = 8_192
    idle_seconds: float = 60.0


def _no_origin(_: str) -> bool:
    return False


def install(limits: HttpLimits, origin_allowed: Callable[[str], bool] = _no_origin) -> None:
    """From now on a Daphne of this process keeps to these limits, and says what its statuses mean.

    Args:
        limits: What clients may take.
        origin_allowed: Whether pages of an origin may read what is answered here, before any application.
    """
    for status in HTTPStatus:
        http.RESPONSES.setdefault(status.value, status.phrase.encode())
    http.RESPONSES[CLIENT_CLOSED_REQUEST] = b"Client Closed Request"
    seats, room = Seats(limits), BodyRoom(limits.all_bodies_bytes)
    parts = {"limits": limits, "room": room, "origin_allowed": staticmethod(origin_allowed)}
    http_protocol.WebRequest = type("BoundedRequest", (BoundedRequest,), parts)
    daphne.server.HTTPFactory = type("BoundedFactory", (BoundedFactory,), {"limits": limits, "seats": seats})
    ws_protocol.WebSocketFactory.protocol = type("SeatedWebSocket", (SeatedWebSocket,), {"seats": seats})


def installed_seats() -> "Seats":
    """The connections of this process, after `install`."""
    seats: Seats = daphne.server.HTTPFactory.seats
    return seats


class Seats:
    """The open connections. When all seats are taken, the connection that has waited longest without a whole request
    gives its own up, so that clients who keep connections open lock nobody out. Where none does, because all are at work, a
    few more may ask for the health: a supervisor that hears nothing would end a node that is well.
    """

    def __init__(self, limits: HttpLimits):
        # Each connection then ends with the answer that it waits for.
        self.closing = False
        self.empty = asyncio.Event()
        self.empty.set()
        self._limits = limits
        self._address_of: dict[Any, str] = {}
        self._taken: dict[str, int] = {}
        self._waiting: dict[Any, None] = {}
        self._spare: set[Any] = set()
        self._refused = 0
        self._told_at = -LOG_SECONDS

    def __len__(self) -> int:
        return len(self._address_of)

    def has_room(self, host: str) -> bool:
        if self._taken.get(site_of(host), 0) >= self._most_from(host):
            self._tell(f"{host} has as many connections as one address may have")
            return False
        if not self.is_full or self._free_one() or len(self) < self._limits.connections + SPARE_CONNECTIONS:
            return True
        self._tell(f"all {self._limits.connections} connections are in use")
        return False

    @property
    def idle(self) -> list[Any]:
        """The connections on which no request has begun."""
        return [channel for channel in self._waiting if not channel.is_asking]

    @property
    def arriving(self) -> list[Any]:
        """The connections on which a request has begun, and is not here yet."""
        return [channel for channel in self._waiting if channel.is_asking]

    @property
    def is_full(self) -> bool:
        return len(self) >= self._limits.connections

    def is_spare(self, transport) -> bool:
        """Whether this connection may only ask for the health, because all other places are taken."""
        return transport in self._spare and len(self) > self._limits.connections

    def take(self, transport, host: str) -> None:
        if self.is_full:
            self._spare.add(transport)
        site = site_of(host)
        self._address_of[transport] = site
        self.empty.clear()
        self._taken[site] = self._taken.get(site, 0) + 1

    def release(self, transport) -> None:
        self._spare.discard(transport)
        site = self._address_of.pop(transport, None)
        if site is None:
            return
        self._taken[site] -= 1
        if not self._taken[site]:
            del self._taken[site]
        if not self._address_of:
            self.empty.set()

    def waits(self, channel) -> None:
        """This connection has no whole request now."""
        self._waiting[channel] = None

    def works(self, channel) -> None:
        self._waiting.pop(channel, None)

    def _most_from(self, host: str) -> float:
        ip = ip_of(host)
        if ip is None or any(ip in network for network in self._limits.trusted):
            return float("inf")
        if self._limits.per_address is not None:
            return self._limits.per_address
        return float("inf") if ip.is_loopback else DEFAULT_PER_ADDRESS

    def _free_one(self) -> bool:
        channel = next(iter(self._waiting), None)
        if channel is None:
            return False
        self.works(channel)
        # Twisted tells the loss of an aborted connection only later.
        self.release(channel.transport)
        channel.transport.abortConnection()
        return True

    def _tell(self, why: str) -> None:
        self._refused += 1
        if time.monotonic() - self._told_at >= LOG_SECONDS:
            logger.warning("HTTP connections refused: %s", why, extra={"refused": self._refused})
            self._told_at, self._refused = time.monotonic(), 0


class Refused(Protocol):
    """A connection beyond the limits. Under TLS a factory has to give a protocol."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.abortConnection()


class BoundedFactory(http_protocol.HTTPFactory):
    limits: HttpLimits
    seats: Seats

    def __init__(self, server):
        super().__init__(server)
        self.timeOut = self.limits.idle_seconds
        self.protocol = BoundedChannel

    def buildProtocol(self, addr):
        if not self.seats.has_room(getattr(addr, "host", "")):
            return Refused()
        return super().buildProtocol(addr)

    def acceptableProtocols(self) -> list[bytes]:
        """Not HTTP/2, even where its package is installed: its channel is not bounded here."""
        return [b"http/1.1"]


class BoundedChannel(http.HTTPChannel):
    """An HTTP connection. Twisted would give it new time with each byte, and so a trickling client all the time there
    is.
    """

    maxHeaders = 100
    totalHeadersSize = 16_384
    transport: Any
    is_asking = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self.factory.seats.take(self.transport, getattr(self.transport.getPeer(), "host", ""))
        self.factory.seats.waits(self)

    def connectionLost(self, reason=connectionDone) -> None:
        self.factory.seats.works(self)
        self.factory.seats.release(self.transport)
        super().connectionLost(reason)

    def resetTimeout(self) -> None:
        """Called for whatever comes in."""
        if not self.is_asking:
            self.is_asking = True
            self.setTimeout(self.factory.limits.header_seconds)

    def allHeadersReceived(self) -> None:
        # The body's time is looked at by BoundedRequest.check_timeouts.
        self.setTimeout(None)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        self.factory.seats.works(self)
        super().allContentReceived()

    def writeHeaders(self, version, code, reason, headers) -> None:
        if self.factory.seats.closing:
            headers.setRawHeaders(b"connection", [b"close"])
        super().writeHeaders(version, code, reason, headers)

    def requestDone(self, request) -> None:
        self.is_asking = False
        self.persistent = self.persistent and not self.factory.seats.closing
        self._savedTimeOut = self.factory.limits.idle_seconds
        if self.persistent:
            self.factory.seats.waits(self)
        elif self._abortingCall is None:
            # It is closed when the client has read the answer, which it may never do.
            self._abortingCall = self.callLater(self.factory.limits.idle_seconds, self.forceAbortClient)
        super().requestDone(request)

    @property
    def is_spare(self) -> bool:
        return self.factory.seats.is_spare(self.transport)

    def refuse(self, status: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Answers in the middle of a request, and closes."""
        self.setTimeout(self.factory.limits.idle_seconds)
        lines = [b"HTTP/1.1 " + status, b"Connection: close", b"Content-Length: 0"]
        lines += [name + b": " + value for name, value in headers]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n")
        self.loseConnection()


class SeatedWebSocket(ws_protocol.WebSocketProtocol):
    """Takes over the connection, and with it the seat, of the HTTP request that asked for it."""

    seats: Seats
    # What breaks a rule, such as a frame that is too large, is told by a close frame.
    failByDrop = False

    def connectionLost(self, reason) -> None:
        self.seats.release(self.transport)
        super().connectionLost(reason)


def absolute_target(target: bytes) -> tuple[bytes, bytes] | None:
    """The authority and the path of a request target in absolute form; None for one in another form."""
    found = _ABSOLUTE_TARGET.fullmatch(target)
    if found is None:
        return None
    rest = found["rest"]
    return found["authority"], rest if rest.startswith(b"/") else b"/" + rest


class BodyRoom:
    """All request bodies that are here, of one process, in memory. When there is no more room, the one that has been
    arriving longest is dropped: an honest one is soon whole.
    """

    def __init__(self, limit_bytes: int):
        self._limit_bytes = limit_bytes
        self._held: dict[Any, int] = {}
        self._arriving: dict[Any, None] = {}
        self.bytes = 0

    def add(self, request, size: int) -> None:
        self._arriving.setdefault(request)
        self._held[request] = self._held.get(request, 0) + size
        self.bytes += size
        while self.bytes > self._limit_bytes and self._arriving:
            oldest = next(iter(self._arriving))
            self.free(oldest)
            oldest.drop()

    def whole(self, request) -> None:
        """From now on it is worked on, and stays until it is freed."""
        self._arriving.pop(request, None)

    def free(self, request) -> None:
        self._arriving.pop(request, None)
        self.bytes -= self._held.pop(request, 0)


class BoundedRequest(http_protocol.WebRequest):
    limits: HttpLimits
    room: BodyRoom
    origin_allowed: Callable[[str], bool] = staticmethod(_no_origin)
    received_bytes = 0
    too_large = False
    dropped = False
    body_began_at: float | None = None
    content_types: list[bytes]

    def gotLength(self, length: int | None) -> None:
        # Twisted would put a large body in a file: one descriptor more for each.
        self.content = io.BytesIO()
        self.body_began_at = time.monotonic() if length != 0 else None

    def handleContentChunk(self, data: bytes) -> None:
        self.received_bytes += len(data)
        if self.dropped:
            return
        if self.received_bytes <= self.limits.body_bytes:
            self.room.add(self, len(data))
            if not self.dropped:
                super().handleContentChunk(data)
            return
        if not self.too_large:
            self.too_large = True
            self._forget_body()
        if self.received_bytes > READ_IN_VAIN_BYTES:
            self._end(b"413 Content Too Large")

    def check_timeouts(self) -> None:
        """Called every two seconds by Daphne."""
        if self.body_began_at is not None:
            due = self.limits.body_seconds + self.received_bytes / self.limits.body_bytes_per_second
            if time.monotonic() - self.body_began_at > due:
                self._end(b"408 Request Timeout")
            return
        super().check_timeouts()

    def drop(self) -> None:
        """There is no room for what it has sent so far."""
        self._end(b"503 Service Unavailable")

    def _end(self, status: bytes) -> None:
        self.dropped = True
        self.body_began_at = None
        self._forget_body()
        if self.channel is not None:
            self.channel.refuse(status, self._cross_origin())

    def _forget_body(self) -> None:
        self.room.free(self)
        self.content.seek(0)
        self.content.truncate()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self.dropped:
            return
        self.body_began_at = None
        self.room.whole(self)
        # Twisted would parse a body that is said to be a form, and end the connection when it is none.
        self.content_types = self.requestHeaders.getRawHeaders(b"content-type") or []
        if target := absolute_target(path):
            # By RFC 9112, 3.2.2 this is the host that is asked, whatever the header says.
            authority, path = target
            self.requestHeaders.setRawHeaders(b"host", [authority])
        self.requestHeaders.removeHeader(b"content-type")
        super().requestReceived(command, path, version)

    def process(self):
        self.requestHeaders.setRawHeaders(b"content-type", self.content_types)
        if self._is_beyond_the_limit():
            self.setHeader(b"connection", b"close")
            return self._refuse(ApiError(grpc.StatusCode.UNAVAILABLE, "all connections are in use"))
        if self.too_large:
            return self._refuse(invalid("body", f"is larger than {self.limits.body_bytes} bytes"))
        if self.requestHeaders.hasHeader(b"upgrade"):
            # Such a request has no end of its own.
            self.room.free(self)
        return super().process()

    def _is_beyond_the_limit(self) -> bool:
        path = self.path.partition(b"?")[0].decode("latin-1")
        return path not in HEALTH_PATHS and self.channel.is_spare

    def _cross_origin(self) -> list[tuple[bytes, bytes]]:
        """What lets a page read an answer that no application has given."""
        given = self.requestHeaders.getRawHeaders(b"origin") or []
        origin = given[0].decode("latin-1") if len(given) == 1 else ""
        return cors.origin_headers(origin) if origin and self.origin_allowed(origin) else []

    def basic_error(self, status, status_text, body) -> None:
        """Daphne's own answer, where no application has begun one."""
        if not self._response_started:
            for name, value in self._cross_origin():
                self.responseHeaders.addRawHeader(name, value)
        super().basic_error(status, status_text, body)

    def _refuse(self, error: ApiError) -> None:
        self.setResponseCode(error.http_status)
        self.setHeader(b"content-type", b"application/json")
        for name, value in self._cross_origin():
            self.responseHeaders.addRawHeader(name, value)
        self.write(codec.dump(error.as_json()))
        self.finish()

    def finish(self) -> None:
        self.room.free(self)
        super().finish()

    def connectionLost(self, reason) -> None:
        self.room.free(self)
        super().connectionLost(reason)
