"""How the gRPC server reads requests: after it is known who calls, within a time, and within bytes that all share.

gRPC reads the message of a unary call before the call's handler runs, for whoever calls and however long it takes. A
handler of the streaming kind is called as soon as the metadata is there, and nothing is read until it asks, apart from
what fits into the stream's first window. So all handlers of the server are of that kind. For the client nothing
changes: a unary call and a stream with one message are the same on the wire.
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError

from nodeapi.codec import Read
from nodeapi.errors import ApiError

logger = logging.getLogger("nodeapi.rpc_requests")

LOG_SECONDS = 60.0
Receive = Callable[[], Awaitable[Any]]
# Who is counted as one: a key or a place, and within it a connection.
Sources = tuple[str, ...]
Item = TypeVar("Item")

_CROWDED = "the node is receiving as many requests as it has room for; try again"
_MISSING = "request: is missing"


@dataclass(frozen=True, kw_only=True)
class RoomLimits:
    """Bytes of all requests that are here at a time, of the longest that gRPC takes, and of the longest that is wanted.

    Seconds: for a request to arrive whole; until it gives way to others; for a request to wait for room. `waiting` is
    how many may do so.
    """

    all_bytes: int
    received_bytes: int
    request_bytes: int
    seconds: float
    crowded_seconds: float
    wait_seconds: float
    waiting: int


class RequestRoom:
    """The bytes of requests that are being received or worked on.

    How long a request is nobody knows before it is here, so each takes the room of the longest while it arrives. Where
    there is no room, requests wait; the sources that have the fewest here are served first. A request that has had
    some time gives its room up to a source that has none, or clearly fewer: so who holds on locks nobody else out, and
    who sends much at once waits for himself.
    """

    def __init__(self, limits: RoomLimits):
        self.limits = limits
        self.bytes = 0
        self._arriving: dict[Request, None] = {}
        self._waiting: dict[Request, asyncio.Future[None]] = {}
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._refused = 0
        self._told_at = -LOG_SECONDS

    async def enter(self, request: "Request") -> None:
        """Return when there is room for the longest request. ApiError UNAVAILABLE when that takes too long."""
        if not self._waiting and self._has_room:
            self._admit(request)
            return
        if len(self._waiting) >= self.limits.waiting:
            self._turn_away(request)
        admitted = self._waiting[request] = asyncio.get_running_loop().create_future()
        self._make_room()
        try:
            async with asyncio.timeout(self.limits.wait_seconds):
                await admitted
        except TimeoutError:
            raise self.refusal(_CROWDED) from None
        finally:
            self._waiting.pop(request, None)

    def arrived(self, request: "Request", size: int) -> None:
        """It takes its own size from now on."""
        if request in self._arriving:
            del self._arriving[request]
            self._counts.subtract(request.sources)
            self._counts += Counter()
            self._resize(request, size)

    def leave(self, request: "Request") -> None:
        self.arrived(request, 0)
        self._resize(request, 0)

    def refusal(self, text: str) -> ApiError:
        self._refused += 1
        if time.monotonic() - self._told_at >= LOG_SECONDS:
            logger.warning(
                "gRPC requests refused: there is no room for more", extra={"refused": self._refused}
            )
            self._told_at, self._refused = time.monotonic(), 0
        return ApiError(grpc.StatusCode.UNAVAILABLE, text)

    @property
    def _has_room(self) -> bool:
        return self.bytes + self.limits.received_bytes <= self.limits.all_bytes

    def _admit(self, request: "Request") -> None:
        request.began_at = asyncio.get_running_loop().time()
        self._arriving[request] = None
        self._counts.update(request.sources)
        self._resize(request, self.limits.received_bytes)

    def _resize(self, request: "Request", size: int) -> None:
        self.bytes += size - request.held_bytes
        request.held_bytes = size
        while self._waiting and self._has_room:
            self._admit_next()
        self._make_room()

    def _admit_next(self) -> None:
        request = self._next()
        admitted = self._waiting.pop(request)
        if not admitted.done():
            self._admit(request)
            admitted.set_result(None)

    def _next(self) -> "Request":
        """The oldest of the source that has the fewest here; of equal ones of any, lest a flood always be before others."""
        loads = {waiting.sources: self._load(waiting) for waiting in self._waiting}
        least = min(loads.values())
        chosen = secrets.choice([sources for sources, load in loads.items() if load == least])
        return next(waiting for waiting in self._waiting if waiting.sources == chosen)

    def _load(self, request: "Request") -> tuple[int, ...]:
        return tuple(self._counts[source] for source in request.sources)

    def _turn_away(self, newcomer: "Request") -> None:
        """The newest of the source of which most wait; ApiError when that is the newcomer."""
        victim = heaviest([newcomer, *reversed(self._waiting)], lambda request: request.sources)
        if victim is newcomer:
            raise self.refusal(_CROWDED)
        admitted = self._waiting.pop(victim)
        if not admitted.done():
            admitted.set_exception(self.refusal(_CROWDED))

    def _make_room(self) -> None:
        """End one request that has had its time, if there is one that gives way; else come back when there is."""
        if not self._waiting or any(request.gives_way for request in self._arriving):
            return
        waiting = self._next()
        yielding = [request for request in self._arriving if self._yields(request, waiting)]
        if not yielding:
            return
        now = asyncio.get_running_loop().time()
        due = [request for request in yielding if request.began_at + self.limits.crowded_seconds <= now]
        if due:
            max(due, key=self._load).give_way()
        elif self._timer is None:
            at = min(request.began_at for request in yielding) + self.limits.crowded_seconds
            self._timer = asyncio.get_running_loop().call_at(at, self._come_back)

    def _yields(self, request: "Request", waiting: "Request") -> bool:
        for own, other in zip(request.sources, waiting.sources, strict=True):
            if own != other:
                return not self._counts[other] or self._counts[other] + 1 < self._counts[own]
        return False

    def _come_back(self) -> None:
        self._timer = None
        self._make_room()


def heaviest(items: Iterable[Item], sources_of: Callable[[Item], Sources]) -> Item:
    """The first of those whose sources occur most often, the outer source before the inner one."""
    listed = list(items)
    counts = Counter(source for item in listed for source in sources_of(item))
    return max(listed, key=lambda item: tuple(counts[source] for source in sources_of(item)))


class Request:
    """The request of one call, or one after the other of a call that has several.

    Whoever makes it calls `done` at the end of the call.
    """

    def __init__(self, room: RequestRoom, sources: Sources):
        self._room = room
        self._timeout: asyncio.Timeout | None = None
        self.sources = sources
        self.began_at = 0.0
        self.held_bytes = 0
        self.gives_way = False

    async def read(self, receive: Receive) -> bytes:
        """Return the message that `receive` gives. ApiError when there is none, or not in time, or it is too long."""
        raw = await self.read_or_end(receive)
        if raw is None:
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, _MISSING)
        return raw

    async def read_or_end(self, receive: Receive) -> bytes | None:
        """Return None when the client has no more messages."""
        self.done()
        limits = self._room.limits
        try:
            await self._room.enter(self)
            raw = await self._receive(receive, limits.seconds)
        except BaseException:
            self.done()
            raise
        if raw is grpc.aio.EOF:
            self.done()
            return None
        self._room.arrived(self, len(raw))
        if len(raw) > limits.request_bytes:
            raise ApiError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"request: is larger than {limits.request_bytes} bytes"
            )
        return raw

    async def _receive(self, receive: Receive, seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds) as self._timeout:
                return await receive()
        except TimeoutError:
            if self.gives_way:
                crowded_seconds = self._room.limits.crowded_seconds
                raise self._room.refusal(
                    f"request: did not arrive in {crowded_seconds:g} s, and others wait for its room; try again"
                ) from None
            raise ApiError(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"request: did not arrive in {seconds:g} s"
            ) from None
        finally:
            self._timeout = None

    def give_way(self) -> None:
        """Others wait, and it has had its time."""
        if self._timeout and not self._timeout.expired():
            self.gives_way = True
            self._timeout.reschedule(asyncio.get_running_loop().time())

    def done(self) -> None:
        """Nothing of it is kept."""
        self.gives_way = False
        self._room.leave(self)


async def messages(request: Request, receive: Receive) -> AsyncIterator[bytes]:
    """All that the client sends in one call, each read when it is asked for."""
    while (raw := await request.read_or_end(receive)) is not None:
        yield raw


async def read_bytes(request: Request, context: grpc.aio.ServicerContext) -> bytes:
    """For requests so short that nothing of them need be counted once they are here."""
    try:
        return await request.read(context.read)
    finally:
        request.done()


async def read_once(request: Request, context: grpc.aio.ServicerContext, message_class: type[Read]) -> Read:
    return decoded(await read_bytes(request, context), message_class)


def decoded(raw: bytes, message_class: type[Read]) -> Read:
    """ApiError when the bytes are none."""
    try:
        return message_class.FromString(raw)
    except DecodeError:
        raise ApiError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"request: these bytes are no {message_class.DESCRIPTOR.full_name}",
        ) from None


async def refuse(context, error: ApiError) -> None:
    await context.abort(error.code, error.message, error.trailing_metadata)


class Places:
    """So many long calls at a time. Where all places are taken, the source with the most gives its oldest up."""

    def __init__(self, most: int):
        self._most = most
        self._taken: dict[asyncio.Timeout, Sources] = {}

    def __len__(self) -> int:
        return len(self._taken)

    @contextmanager
    def take(self, sources: Sources, timeout: asyncio.Timeout) -> Iterator[None]:
        """For the time of the context, which is inside of `timeout`'s. Giving the place up is a TimeoutError."""
        self._taken[timeout] = sources
        if len(self._taken) > self._most:
            self._free_one()
        try:
            yield
        finally:
            self._taken.pop(timeout, None)

    def _free_one(self) -> None:
        timeout = heaviest(self._taken, self._taken.__getitem__)
        del self._taken[timeout]
        if not timeout.expired():
            timeout.reschedule(asyncio.get_running_loop().time())
