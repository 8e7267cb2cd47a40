"""The event stream: one hub a process reads the event log and feeds every subscriber, whatever door it came through.

A Channels group only wakes the hub; order and truth come from the log. A subscriber is fed from memory while it keeps up
and from the log when it does not, so that a slow one costs no memory and loses nothing.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cached_property, partial
from uuid import UUID

from channels.layers import get_channel_layer

from messaging import events, metrics
from messaging.database import Database
from messaging.models import Event
from nodeapi import codec
from protos import websocket_pb2

logger = logging.getLogger("nodeapi.stream")

PAGE = 1_000
MAX_QUEUED = 1_000
# A client that is fed from the log holds a page in memory, one that is live a queue: events may have a megabyte each.
PAGE_BYTES = 1_048_576
MAX_QUEUED_BYTES = 4_194_304
REJOIN_SECONDS = 3_600
# The service type of notices about the stream itself.
NOTICE = "log"
# Without a channel layer nobody wakes this hub.
UNWOKEN_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Frame:
    """One event, encoded at most once for each kind of door."""

    event: Event
    as_text: bool = False

    @property
    def seq(self) -> int:
        return self.event.seq

    @cached_property
    def message(self) -> websocket_pb2.SubscribeResponse:
        event = self.event
        return websocket_pb2.SubscribeResponse(
            id=str(event.message_id),
            reply_to_id=str(event.reply_to) if event.reply_to else "",
            from_pubkey=event.from_pubkey,
            data=bytes(event.data),
            service_type=event.service_type,
            amount=event.amount_sat,
            seq=event.seq,
        )

    @cached_property
    def text(self) -> str:
        return codec.dump({"result": codec.json_from_message(self.message, as_text=self.as_text)}).decode()


def notice(seq: int, text: str, *, as_text: bool) -> Frame:
    """What the stream says of itself: no event of the log, but in its place."""
    data = codec.dump({"error": text})
    return Frame(
        Event(seq=seq, message_id=UUID(int=0), data=data, service_type=NOTICE, amount_sat=0), as_text
    )


class Subscription:
    """One subscriber's place in the log. Invariant: every matching event up to `position` was handed out, none twice."""

    def __init__(self, hub: "Hub", *, position: int, services: frozenset[str], live: bool, door: str = ""):
        self._hub = hub
        self.door = door
        self._unsent = 0
        self._services = services
        self._queue: deque[Frame] = deque()
        self._queued_bytes = 0
        self._wake: asyncio.Future | None = None
        self._live = live
        self._cursor_checked = live
        self._end: Exception | None = None
        self.position = position

    def end(self, error: Exception) -> None:
        """Nothing more is handed out: `frames` raises this."""
        self._end = error
        if self._wake and not self._wake.done():
            self._wake.set_result(None)

    def offer(self, frame: Frame) -> None:
        """A new event. A subscriber that lags behind goes on from the log."""
        if not self._live or (self._services and frame.event.service_type not in self._services):
            return
        # The log, or another process's hub, may have told it of an event before this hub heard of it.
        if frame.seq <= self.position:
            return
        if len(self._queue) >= MAX_QUEUED or self._queued_bytes >= MAX_QUEUED_BYTES:
            self._take_queue()
            self._live = False
            metrics.STREAM_FELL_BEHIND.inc()
            return
        self._queue.append(frame)
        self._queued_bytes += len(frame.event.data)
        if self._wake and not self._wake.done():
            self._wake.set_result(None)

    async def next(self) -> list[Frame]:
        """The next events, in order, at least one."""
        while True:
            if self._end:
                raise self._end
            if self._queue:
                frames = self._take_queue()
                self.position = frames[-1].seq
                return frames
            if not self._live:
                if frames := await self._from_log():
                    return frames
                continue
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None

    def _take_queue(self) -> list[Frame]:
        frames = list(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        return frames

    async def frames(self) -> AsyncIterator[Frame]:
        while True:
            frames = await self.next()
            for sent, frame in enumerate(frames):
                if self._end:
                    raise self._end
                self._unsent = len(frames) - sent
                yield frame
            self._unsent = 0

    @property
    def lag(self) -> int:
        """Events that it has not been sent yet. Of one that is fed from the log: at most so many, its services or not."""
        behind = len(self._queue) if self._live else max(0, self._hub.last_seq - self.position)
        return behind + self._unsent

    @property
    def is_behind(self) -> bool:
        return not self._live

    async def _check_cursor(self) -> list[Frame]:
        """A notice, when the log does not go back, or not up, to the subscriber's cursor."""
        self._cursor_checked = True
        cursor = self.position
        oldest, newest = await self._hub.kept()
        if cursor > newest:
            self.position = newest
            text = f"the log ends at {newest}, before {cursor}: it is not the log that this cursor is from"
            return [notice(newest, text, as_text=self._hub.as_text)]
        if 0 < cursor < oldest - 1:
            self.position = oldest - 1
            text = f"events {cursor + 1} to {oldest - 1} are no longer kept"
            return [notice(oldest - 1, text, as_text=self._hub.as_text)]
        return []

    async def _from_log(self) -> list[Frame]:
        if not self._cursor_checked and (frames := await self._check_cursor()):
            return frames
        read_up_to = self._hub.last_seq
        frames, is_last = await self._hub.read(self.position, self._services)
        if frames:
            self.position = frames[-1].seq
        if is_last:
            self.position = max(self.position, read_up_to)
        # No await between this check and the next offer: what comes from now on is queued, what came before was read.
        self._live = self.position >= self._hub.last_seq
        return frames


class Hub:
    """Reads the log when woken, and every `poll_seconds` besides, because wakes may be lost."""

    def __init__(self, database: Database, *, poll_seconds: float, as_text: bool = False):
        self._database = database
        self.as_text = as_text
        self._poll_seconds = poll_seconds
        self._wake = asyncio.Event()
        self._listening = True
        self._subscriptions: set[Subscription] = set()
        self.last_seq = 0

    def subscribe(
        self, *, after: int | None = None, services: frozenset[str] = frozenset(), door: str = ""
    ) -> Subscription:
        """Live from now on, or from behind `after` in the log. End it with `unsubscribe`."""
        live = after is None
        subscription = Subscription(
            self, position=self.last_seq if after is None else after, services=services, live=live, door=door
        )
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        return tuple(self._subscriptions)

    @property
    def listening(self) -> bool:
        """Whether the channel layer wakes it; if not, it looks at the log by itself."""
        return self._listening

    async def read(self, after: int, services: frozenset[str]) -> tuple[list[Frame], bool]:
        """The next events behind `after`, and whether there are no more."""
        page = await self._database.read(
            partial(events.read_after, after, limit=PAGE, max_bytes=PAGE_BYTES, services=services)
        )
        return [Frame(event, self.as_text) for event in page.events], page.is_last

    async def kept(self) -> tuple[int, int]:
        return await self._database.read(events.kept)

    async def start(self) -> None:
        """Must have ended before the first subscription: what is in the log now is not new."""
        self.last_seq = await self._database.read(events.last_seq)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._feed())

    async def _feed(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._poll_seconds if self._listening else UNWOKEN_POLL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._catch_up()
            except Exception:
                logger.exception("the event log could not be read; trying again")
                await asyncio.sleep(1.0)

    def feed(self, fresh: list[Event]) -> None:
        """Events that this process has just committed: they need not be read again, unless others are before them."""
        if fresh[0].seq == self.last_seq + 1:
            self._hand_out([Frame(event, self.as_text) for event in fresh])
        else:
            self._wake.set()

    async def _catch_up(self) -> None:
        while True:
            frames, is_last = await self.read(self.last_seq, frozenset())
            self._hand_out(frames)
            if is_last:
                return

    def _hand_out(self, frames: list[Frame]) -> None:
        handed_out = 0
        for frame in frames:
            # While a page was read, `feed` may have been faster.
            if frame.seq <= self.last_seq:
                continue
            self.last_seq = frame.seq
            handed_out += 1
            for subscription in self._subscriptions:
                subscription.offer(frame)
        metrics.STREAM_EVENTS.inc(handed_out)

    async def _listen(self) -> None:
        layer = get_channel_layer()
        while True:
            try:
                channel = await layer.new_channel()
                while True:
                    await layer.group_add(events.GROUP, channel)
                    self._listening = True
                    await self._receive(layer, channel)
            except Exception as error:
                if self._listening:
                    logger.warning(
                        "channel layer: %s; the stream polls the log meanwhile", type(error).__name__
                    )
                self._listening = False
                await asyncio.sleep(1.0)

    async def _receive(self, layer, channel: str) -> None:
        try:
            async with asyncio.timeout(REJOIN_SECONDS):
                while True:
                    await layer.receive(channel)
                    self._wake.set()
        except TimeoutError:
            return
