"""The relay's state between its process and a real database, where the order of steps has to be held."""

import asyncio

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection

from messaging.database import Database
from nodeapi.models import RelayRun
from nodeapi.relay.service import Relay, RelayOptions

OPTIONS = RelayOptions(
    server_ip="127.0.0.1", port_range=None, pin=True, max_bytes_per_second=None, idle_seconds=None
)


@pytest.fixture(autouse=True)
def migrated():
    call_command("migrate", verbosity=0)
    RelayRun.objects.all().delete()
    yield
    RelayRun.objects.all().delete()
    connection.close()


class SlowDatabase(Database):
    """Commits when `let_through` is set, or fails with `trouble`."""

    def __init__(self):
        super().__init__()
        self.asked, self.let_through = asyncio.Event(), asyncio.Event()
        self.let_through.set()
        self.trouble: Exception | None = None

    async def write(self, job):
        self.asked.set()
        await self.let_through.wait()
        if self.trouble:
            raise self.trouble
        return await super().write(job)


def relay_on(database: Database) -> Relay:
    return Relay(database=database, options=OPTIONS, active=True, published=lambda events: None)


async def rows(database: Database) -> list[tuple[bool, int, int]]:
    return await database.read(lambda: list(RelayRun.objects.values_list("running", "port1", "port2")))


async def broken_off(database: SlowDatabase, call) -> None:
    """A call whose caller goes away while its commit is under way."""
    database.asked.clear()
    database.let_through.clear()
    task = asyncio.create_task(call)
    await database.asked.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    database.let_through.set()


def test_callers_who_go_away_break_nothing_off():
    async def run():
        database = SlowDatabase()
        relay = relay_on(database)
        await broken_off(database, relay.start())
        offer = await relay.running()
        assert await rows(database) == [(True, offer.port1, offer.port2)]
        await broken_off(database, relay.stop())
        assert await relay.running() is None
        assert await rows(database) == [(False, offer.port1, offer.port2)]
        await relay._leave()
        await database.close()

    asyncio.run(run())


def test_what_the_database_refuses_has_not_happened():
    async def run():
        database = SlowDatabase()
        relay = relay_on(database)
        database.trouble = OperationalError("the disk is full")
        with pytest.raises(OperationalError):
            await relay.start()
        assert await relay.running() is None
        assert await rows(database) == []
        database.trouble = None
        offer = await relay.start()
        database.trouble = OperationalError("the disk is full")
        with pytest.raises(OperationalError):
            await relay.stop()
        assert await relay.running() == offer == await relay.start()
        database.trouble = None
        await relay.stop()
        assert [row[0] for row in await rows(database)] == [False]
        await database.close()

    asyncio.run(run())


def test_many_calls_at_once_make_one_relay():
    async def run():
        database = Database()
        relay = relay_on(database)
        offers = await asyncio.gather(*(relay.start() for _ in range(20)))
        assert len(set(offers)) == 1
        assert len(await rows(database)) == 1
        await asyncio.gather(*(relay.stop() for _ in range(20)))
        assert [row[0] for row in await rows(database)] == [False]
        await database.close()

    asyncio.run(run())
