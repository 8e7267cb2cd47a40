"""The budget between its looks at the tables, whose answers take a while."""

import asyncio

import pytest

from messaging.budget import Budget, OverBudget


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
