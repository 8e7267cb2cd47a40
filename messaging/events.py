"""The event log: append, replay, publish. The only place that sends into a Channels group.

Order and truth come from the table; the group carries no content, it only wakes the stream hub of each process.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.db import transaction
from django.db.models.functions import Length

from messaging.models import Event
from messaging.pages import count_within

logger = logging.getLogger("messaging.events")

GROUP = "events"
WAKE = "events.wake"


Published = Callable[[list[Event]], None]


def append(events: list[Event], *, published: Published) -> None:
    """Appends to the log inside the caller's transaction; `published` gets them (in its thread) after the commit."""
    if not events:
        return
    Event.objects.bulk_create(events)
    transaction.on_commit(partial(published, events))


def last_seq() -> int:
    """The newest event's place in the log; 0 when there is none."""
    return Event.objects.order_by("-seq").values_list("seq", flat=True).first() or 0


def kept() -> tuple[int, int]:
    """The places in the log of the oldest and of the newest event that are kept; (0, 0) when there is none."""
    # One query for both ends would make SQLite count through the whole log.
    oldest = Event.objects.order_by("seq").values_list("seq", flat=True).first() or 0
    return oldest, last_seq()


@dataclass(frozen=True)
class Page:
    """Events in their order, and whether there were no more when they were read."""

    events: list[Event]
    is_last: bool


def read_after(seq: int, *, limit: int, max_bytes: int, services: Iterable[str] = ()) -> Page:
    """Up to `limit` events behind `seq`, oldest first, with at most `max_bytes` of data together unless one alone has more."""
    events = Event.objects.filter(seq__gt=seq).order_by("seq")
    if services:
        events = events.filter(service_type__in=list(services))
    sizes_bytes = list(events.values_list(Length("data"), flat=True)[:limit])
    count = count_within(sizes_bytes, max_bytes)
    return Page(list(events[:count]), is_last=count == len(sizes_bytes) < limit)


class Waker:
    """Tells every process's hub of committed events: this one's by `feed`, the others' by a wake through the group.

    Many commits in quick succession share one wake.
    """

    def __init__(self, feed: Published) -> None:
        self._loop = asyncio.get_running_loop()
        self._feed = feed
        self._committed = asyncio.Event()

    def published(self, events: list[Event]) -> None:
        """Says that these events were committed. Callable from any thread, in the order of the commits."""
        try:
            self._loop.call_soon_threadsafe(self._tell, events)
        except RuntimeError:
            logger.debug("the event loop has ended; the log is read again at the next start")

    def _tell(self, events: list[Event]) -> None:
        self._feed(events)
        self._committed.set()

    async def run(self) -> None:
        layer = get_channel_layer()
        if isinstance(layer, InMemoryChannelLayer):
            # Nobody but this process could hear it, and its hub is fed.
            return
        while True:
            await self._committed.wait()
            self._committed.clear()
            try:
                await layer.group_send(GROUP, {"type": WAKE})
            except Exception as error:
                # Other processes poll the log as well: a channel layer that is away costs delay, not events.
                logger.debug("channel layer: %s", type(error).__name__)
