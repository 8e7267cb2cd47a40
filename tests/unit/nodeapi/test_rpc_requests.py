"""Requests that arrive over gRPC: in time, within bytes that all share, and so that who holds on locks nobody else out."""

import asyncio
import contextlib
import random
from typing import Any

import grpc
import pytest

from nodeapi.errors import ApiError
from nodeapi.rpc_requests import Places, Request, RequestRoom, RoomLimits, messages
from tests.support.waiting import until_in_loop

CODE = grpc.StatusCode
EVER_SECONDS = 3_600.0
SOON_SECONDS = 0.01
MOST_BYTES = 100
PLACES = 3


def room(**limits: Any) -> RequestRoom:
    """With room for three requests, in which nothing ends by itself."""
    defaults = {
        "all_bytes": PLACES * MOST_BYTES,
        "received_bytes": MOST_BYTES,
        "request_bytes": MOST_BYTES,
        "seconds": EVER_SECONDS,
        "crowded_seconds": EVER_SECONDS,
        "wait_seconds": EVER_SECONDS,
        "waiting": 100,
    }
    return RequestRoom(RoomLimits(**(defaults | limits)))


class Arrival:
    """A request of this source that arrives when it is told to."""

    def __init__(self, room: RequestRoom, key: str, connection: str = "1"):
        self.request = Request(room, (key, f"{key}:{connection}"))
        self.is_read = False
        self._raw: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.reading = asyncio.create_task(self.request.read(self._receive))

    async def _receive(self) -> bytes:
        self.is_read = True
        return await self._raw

    def arrive(self, raw: bytes) -> None:
        self._raw.set_result(raw)

    async def whole(self, raw: bytes = b"x") -> bytes:
        self.arrive(raw)
        return await self.reading

    async def error(self) -> ApiError:
        with pytest.raises(ApiError) as error:
            await self.reading
        return error.value


async def arrivals(room: RequestRoom, *sources: str) -> list[Arrival]:
    made = [Arrival(room, source) for source in sources]
    await settle()
    return made


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def given(message: Any):
    return message


def of(message: Any):
    return lambda: given(message)


async def test_request_takes_its_size_until_it_is_done():
    bounded = room()
    (arrival,) = await arrivals(bounded, "a")
    assert bounded.bytes == MOST_BYTES
    assert await arrival.whole(b"12345") == b"12345"
    assert bounded.bytes == 5
    arrival.request.done()
    arrival.request.done()
    assert bounded.bytes == 0


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (grpc.aio.EOF, CODE.INVALID_ARGUMENT, "request: is missing"),
        (b"x" * 11, CODE.RESOURCE_EXHAUSTED, "request: is larger than 10 bytes"),
    ],
)
async def test_no_request_and_one_that_is_too_long(message, code, text):
    bounded = room(request_bytes=10)
    request = Request(bounded, ("a", "1"))
    with pytest.raises(ApiError) as error:
        await request.read(of(message))
    assert (error.value.code, error.value.message) == (code, text)
    request.done()
    assert bounded.bytes == 0


async def test_request_that_stays_incomplete_ends():
    bounded = room(seconds=SOON_SECONDS)
    (arrival,) = await arrivals(bounded, "a")
    error = await arrival.error()
    assert (error.code, error.message) == (CODE.DEADLINE_EXCEEDED, "request: did not arrive in 0.01 s")
    assert bounded.bytes == 0


async def test_request_waits_for_room():
    bounded = room()
    first, *others = await arrivals(bounded, *"aaa")
    (waiting,) = await arrivals(bounded, "a")
    assert not waiting.is_read
    # What is worked on takes room too.
    await first.whole(b"x" * MOST_BYTES)
    await settle()
    assert not waiting.is_read
    first.request.done()
    await settle()
    assert waiting.is_read
    for arrival in (*others, waiting):
        assert await arrival.whole()
    assert bounded.bytes == PLACES


async def test_who_sends_much_at_once_waits_for_himself():
    """However long it takes, none of one's own requests ends another."""
    bounded = room(crowded_seconds=0)
    first, *_ = many = await arrivals(bounded, *"a" * 10)
    await asyncio.sleep(SOON_SECONDS)
    assert not any(arrival.reading.done() for arrival in many)
    for arrival in many:
        assert await arrival.whole()
        arrival.request.done()
    assert first.request.held_bytes == bounded.bytes == 0


@pytest.mark.parametrize("newcomer", [("b", "1"), ("a", "2")], ids=["other key", "other connection"])
async def test_who_holds_on_locks_nobody_out(newcomer):
    bounded = room(crowded_seconds=SOON_SECONDS)
    held = await arrivals(bounded, *"a" * 10)
    honest = Arrival(bounded, *newcomer)
    await until_in_loop(lambda: honest.is_read)
    assert await honest.whole() == b"x"
    ended = [arrival for arrival in held if arrival.reading.done()]
    error = await ended[0].error()
    assert error.code is CODE.UNAVAILABLE
    assert "others wait for its room" in error.message


async def test_source_with_one_request_is_left_alone_by_one_that_has_more():
    bounded = room(crowded_seconds=0)
    slow, *_ = await arrivals(bounded, *"abb")
    await arrivals(bounded, *"bbbb")
    await asyncio.sleep(SOON_SECONDS)
    assert not slow.reading.done()
    assert await slow.whole()


async def test_source_with_the_fewest_is_served_first():
    bounded = room()
    first, *_ = await arrivals(bounded, *"aab")
    *flood, honest = await arrivals(bounded, *"aaaab")
    await first.whole(b"")
    await settle()
    # Both have one request here: whichever of the two; but of one source the oldest.
    assert honest.is_read != flood[0].is_read
    assert not any(arrival.is_read for arrival in flood[1:])
    (other,) = await arrivals(bounded, "c")
    next(arrival for arrival in (honest, flood[0]) if arrival.is_read).arrive(b"")
    await settle()
    assert other.is_read


async def test_the_heaviest_source_is_turned_away():
    bounded = room(waiting=4)
    await arrivals(bounded, *"aaa")
    *flood, last = await arrivals(bounded, *"aaaa")
    (honest,) = await arrivals(bounded, "b")
    assert (await last.error()).code is CODE.UNAVAILABLE
    (more,) = await arrivals(bounded, "a")
    assert (await more.error()).code is CODE.UNAVAILABLE
    assert not any(arrival.reading.done() for arrival in (*flood, honest))


async def test_waiting_ends():
    bounded = room(wait_seconds=SOON_SECONDS)
    held = await arrivals(bounded, *"aaa")
    (waiting,) = await arrivals(bounded, "a")
    error = await waiting.error()
    assert (error.code, waiting.is_read) == (CODE.UNAVAILABLE, False)
    for arrival in held:
        await arrival.whole(b"")
    assert bounded.bytes == 0


@pytest.mark.parametrize("number", [0, PLACES], ids=["while it arrives", "while it waits"])
async def test_caller_who_goes_away_leaves_nothing(number):
    bounded = room()
    here = await arrivals(bounded, *"a" * (PLACES + 1))
    here[number].reading.cancel()
    await settle()
    rest = [arrival for arrival in here if not arrival.reading.done()]
    assert len(rest) == PLACES
    for arrival in rest:
        await arrival.whole(b"")
    assert bounded.bytes == 0


async def test_whatever_happens_the_room_is_enough():
    dice = random.Random(13)
    bounded = room(seconds=0.02, crowded_seconds=0.001, wait_seconds=0.02, waiting=10)

    async def client(source: str) -> None:
        request = Request(bounded, (source, f"{source}:{dice.randrange(3)}"))

        async def receive():
            await asyncio.sleep(dice.choice([0, 0.001, 0.01, EVER_SECONDS]))
            return b"x" * dice.randrange(MOST_BYTES)

        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(dice.choice([0, 0.001, 0.01, EVER_SECONDS])):
                await request.read(receive)
                await asyncio.sleep(dice.choice([0, 0.001]))
        request.done()
        assert bounded.bytes <= PLACES * MOST_BYTES

    async def clients() -> None:
        for _ in range(30):
            await client(dice.choice("abc"))

    await asyncio.gather(*(clients() for _ in range(20)))
    assert bounded.bytes == 0
    # Nobody is counted any more.
    here = await arrivals(bounded, *"abc")
    assert all(arrival.is_read for arrival in here)
    for arrival in here:
        arrival.reading.cancel()


async def test_each_message_of_a_call_is_read_when_it_is_asked_for():
    bounded = room()
    request = Request(bounded, ("a", "1"))
    sent = [b"one", b"two", grpc.aio.EOF]
    told = messages(request, lambda: given(sent.pop(0)))
    assert (await anext(told), bounded.bytes, len(sent)) == (b"one", 3, 2)
    assert [raw async for raw in told] == [b"two"]
    assert bounded.bytes == 0


# places


class Watcher:
    def __init__(self, places: Places, *sources: str):
        self.task = asyncio.create_task(self._watch(places, sources))

    async def _watch(self, places: Places, sources: tuple[str, ...]) -> None:
        async with asyncio.timeout(None) as timeout:
            with places.take(sources, timeout):
                await asyncio.Event().wait()

    @property
    def gave_way(self) -> bool:
        return self.task.done() and isinstance(self.task.exception(), TimeoutError)


async def test_places():
    places = Places(3)
    honest = Watcher(places, "a", "a:1")
    greedy = [Watcher(places, "b", "b:1") for _ in range(5)]
    await settle()
    assert len(places) == 3
    # The oldest of those of which there are most.
    assert [watcher.gave_way for watcher in greedy] == [True, True, True, False, False]
    other = Watcher(places, "b", "b:2")
    await settle()
    assert greedy[3].gave_way
    assert [honest.gave_way, other.gave_way] == [False, False]
    for watcher in (honest, greedy[4], other):
        watcher.task.cancel()
    await settle()
    assert len(places) == 0
