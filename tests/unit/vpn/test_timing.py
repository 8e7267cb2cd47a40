"""The time by which leases end, kept for the next process of the same boot."""

import asyncio
from datetime import timedelta

import pytest
from django.db import OperationalError

from tests.support.vpn_deals import GUARD_SECONDS, SetClock
from vpn import timing
from vpn.models import KeptClock

pytestmark = pytest.mark.sql

HOUR_SECONDS = 3_600.0


@pytest.fixture(autouse=True)
def boot(monkeypatch):
    """Says which boot of the machine this is."""
    monkeypatch.setattr(timing, "LOOK_SECONDS", 0.0)

    def set_boot(name: str) -> None:
        monkeypatch.setattr(timing, "boot_id", lambda: name)

    set_boot("first")
    return set_boot


async def kept_seconds(database) -> float | None:
    row = await database.read(KeptClock.objects.first)
    return row and row.offset_seconds


async def test_first_start_keeps_the_wall_clocks_time(database):
    clock = SetClock()
    await timing.take_up(clock, database)
    assert await kept_seconds(database) == clock.offset_seconds


async def test_clock_that_was_set_wrong_between_two_processes_is_not_believed(database):
    before = SetClock()
    await timing.take_up(before, database)
    after = SetClock(before.now_seconds() + HOUR_SECONDS)
    await timing.take_up(after, database)
    assert abs(after.now() - before.now()) < timedelta(seconds=1)


@pytest.mark.parametrize("name", ["second", ""])
async def test_time_of_another_boot_says_nothing(database, boot, name):
    """Empty: the system does not tell which one it is."""
    await timing.take_up(SetClock(), database)
    boot(name)
    later = SetClock(SetClock().now_seconds() + HOUR_SECONDS)
    expected = later.now()
    await timing.take_up(later, database)
    assert later.now() == expected


async def test_time_that_has_moved_is_kept_again(database, monkeypatch):
    clock = SetClock()
    await timing.take_up(clock, database)
    before = await kept_seconds(database)
    write, failures = database.write, iter([OperationalError("away")])

    async def write_later(job):
        if (error := next(failures, None)) is not None:
            raise error
        return await write(job)

    monkeypatch.setattr(database, "write", write_later)
    keeping = asyncio.create_task(timing.keep_forever(clock, database))
    # A correction that is no jump.
    clock.set_wrong(5.0)
    async with asyncio.timeout(GUARD_SECONDS):
        while await kept_seconds(database) == before:
            await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert await kept_seconds(database) == pytest.approx(before + 5.0)
    assert next(failures, None) is None
