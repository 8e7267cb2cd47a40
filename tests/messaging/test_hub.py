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
from nodeapi.stream import Hub

GUARD_SECONDS = 60


@pytest.fixture(autouse=True)
def migrated():
    call_command("migrate", verbosity=0)
    Event.objects.all().delete()
    yield
    connection.close()


async def committed(database: Database) -> list[Event]:
    """An event that no hub has heard of yet."""
    told: list[Event] = []
    event = Event(message_id=uuid4(), data=b"x", service_type="message", amount_sat=1)
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
