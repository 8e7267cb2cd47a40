"""The budget between its looks at the tables, whose answers take a while."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from messaging import clock
from messaging.budget import WINDOW, Budget, OverBudget
from messaging.clock import Clock


class Tables:
    """As messaging.database.Database, for who only reads; `spent_msat` is what stands in the tables."""

    spent_msat = 0

    async def read(self, job):
        await asyncio.sleep(0)
        return job()


async def spend(tables: Tables, budget: Budget, msat: int) -> None:
    async with budget.reserved(msat):
        tables.spent_msat += msat


async def refused(tables: Tables, budget: Budget, msat: int) -> None:
    with pytest.raises(OverBudget):
        await spend(tables, budget, msat)


def test_looks_at_the_same_time_forget_nothing():
    async def run() -> None:
        tables = Tables()
        budget = Budget(database=tables, limit_sat=100, sources=[lambda since: tables.spent_msat])
        await spend(tables, budget, 40_000)
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(refused(tables, budget, 70_000))
        await refused(tables, budget, 61_000)
        await spend(tables, budget, 60_000)

    asyncio.run(run())


# when there may be enough again

HOUR = timedelta(hours=1)


async def seconds_until(
    msat: int,
    *,
    spent: Sequence[tuple[timedelta, int]] = (),
    reserved_msat: int = 0,
) -> float | None:
    """With a budget of 100 sat; `spent`: how long ago, and how many msat."""
    now = clock.now()
    tables = Tables()
    budget = Budget(
        database=tables,
        limit_sat=100,
        sources=[lambda since: sum(cost for _, cost in spent) + reserved_msat],
        expenses=[lambda since: [(now - age, cost) for age, cost in spent]],
        reserved=[lambda since: reserved_msat],
    )
    with pytest.raises(OverBudget) as refused:
        await spend(tables, budget, msat)
    return refused.value.seconds


async def test_what_is_only_reserved_may_come_back_soon():
    assert await seconds_until(11_000, reserved_msat=90_000) == 1
    assert await seconds_until(11_000, spent=[(HOUR, 60_000)], reserved_msat=30_000) == 1


async def test_what_is_spent_comes_back_when_it_is_a_day_old():
    spent = [(3 * HOUR, 50_000), (2 * HOUR, 40_000), (HOUR, 10_000)]
    assert await seconds_until(11_000, spent=spent) == pytest.approx(21 * 3_600, abs=60)
    assert await seconds_until(51_000, spent=spent) == pytest.approx(22 * 3_600, abs=60)
    # 20 sat are reserved besides: what is spent has to make room for the rest alone.
    spent = [(3 * HOUR, 50_000), (2 * HOUR, 30_000)]
    assert await seconds_until(60_000, spent=spent, reserved_msat=20_000) == pytest.approx(21 * 3_600, abs=60)


async def test_what_exceeds_the_whole_never_fits():
    assert await seconds_until(100_001) is None


async def test_what_is_being_accepted_counts_as_reserved():
    tables = Tables()
    budget = Budget(database=tables, limit_sat=100, sources=[lambda since: 0])
    async with budget.reserved(90_000):
        with pytest.raises(OverBudget) as refused:
            await spend(tables, budget, 11_000)
    assert refused.value.seconds == 1


# the clock


async def test_clock_that_jumps_frees_nothing(monkeypatch):
    """Two days on, all would be older than the window."""
    wall = [1_800_000_000.0]
    guarded = Clock(wall=lambda: wall[0], steady=lambda: 1_000.0)
    monkeypatch.setattr(clock, "PROCESS", guarded)
    spent_at = clock.now()
    asked: list[datetime] = []

    def spent(since: datetime) -> int:
        asked.append(since)
        return 90_000 if since <= spent_at else 0

    budget = Budget(database=Tables(), limit_sat=100, sources=[spent])
    for jump_seconds in (0, 2 * 86_400, -2 * 86_400):
        wall[0] = 1_800_000_000.0 + jump_seconds
        with pytest.raises(OverBudget):
            async with budget.reserved(11_000):
                """It is refused."""
    assert set(asked) == {spent_at - WINDOW}
