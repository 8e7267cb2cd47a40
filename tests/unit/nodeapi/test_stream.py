"""The stream's hub on a real event log: what a subscriber is told, and how often."""

import asyncio
from functools import partial
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection

from messaging import events
from messaging.database import Database
from messaging.models import Event
from nodeapi.stream import MAX_QUEUED_BYTES, PAGE_BYTES, Hub

GUARD_SECONDS = 600


@pytest.fixture(autouse=True)
def migrated():
    call_command("migrate", verbosity=0)
    Event.objects.all().delete()
    yield
    connection.close()


async def committed(database: Database, data: bytes = b"x") -> list[Event]:
    """An event that no hub has heard of yet."""
    told: list[Event] = []
    event = Event(message_id=uuid4(), data=data, service_type="message", amount_sat=1)
    await database.write(partial(events.append, [event], published=told.extend))
    return told


async def read_before_the_hub_heard() -> tuple[list[int], list[int]]:
    """What a subscriber is told of two events, the first of which it finds in the log before the hub hears of it."""
    database = Database()
    try:
        await committed(database)
        hub = Hub(database, poll_seconds=60)
        await hub.start()
        subscription = hub.subscribe(after=hub.last_seq)
        first = await committed(database)
        told = [frame.seq for frame in await subscription.next()]
        second = await committed(database)
        hub.feed(first)
        hub.feed(second)
        told += [frame.seq for frame in await subscription.next()]
        return told, [event.seq for event in first + second]
    finally:
        await database.close()


def test_event_that_was_read_before_the_hub_heard_of_it_is_told_once():
    told, stored = asyncio.run(asyncio.wait_for(read_before_the_hub_heard(), GUARD_SECONDS))
    assert told == stored


LONG = bytes(700_000)


async def long_events(told_live: bool) -> tuple[list[list[int]], list[int]]:
    """What a subscriber is given of events that are long, at each time; before, or all while it does not look."""
    database = Database()
    try:
        await committed(database)
        hub = Hub(database, poll_seconds=60)
        await hub.start()
        subscription = hub.subscribe() if told_live else hub.subscribe(after=hub.last_seq)
        stored = []
        for data in (LONG, b"short", LONG, b"short", b"short", *[LONG] * 6):
            stored += await committed(database, data)
        for event in stored:
            hub.feed([event])
        given: list[list[int]] = []
        while sum(map(len, given)) < len(stored):
            frames = await subscription.next()
            assert len(frames) == 1 or sum(len(frame.event.data) for frame in frames) <= PAGE_BYTES
            given.append([frame.seq for frame in frames])
        return given, [event.seq for event in stored]
    finally:
        await database.close()


@pytest.mark.parametrize("told_live", [False, True])
def test_long_events_are_held_in_memory_few_at_a_time(told_live):
    """A live subscriber's queue ends where its bytes do, and the log goes on from there."""
    assert 9 * len(LONG) > MAX_QUEUED_BYTES
    given, stored = asyncio.run(asyncio.wait_for(long_events(told_live), GUARD_SECONDS))
    assert [seq for page in given for seq in page] == stored
    assert len(given) > 1
