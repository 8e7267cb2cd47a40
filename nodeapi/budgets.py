"""What may be spent: the node's budget, and within it one for each API key. Whoever spends asks here first."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from messaging.budget import Budget
from messaging.database import Database
from nodeapi import spending
from nodeapi.calling import current_call


class Budgets:
    """A messaging.budget.SpendingLimit: `reserved` is on account of the call in whose context it is asked, if there
    is one.
    """

    def __init__(self, *, node: Budget, database: Database, fee_limit_msat: spending.FeeLimit):
        self.node = node
        self._database = database
        self._fee_limit_msat = fee_limit_msat
        self._by_name: dict[str, Budget] = {}

    @asynccontextmanager
    async def reserved(self, msat: int) -> AsyncIterator[None]:
        """Raises OverBudget."""
        call = current_call()
        if call is None or not call.caller.name:
            async with self.node.reserved(msat):
                yield
            return
        budget = self._of(call.caller.name)
        budget.limit_sat = call.caller.budget_sat
        async with budget.reserved(msat + call.further_msat), self.node.reserved(msat):
            yield

    def reserve_further(self, msat: int) -> None:
        """What the call's messages lead to will cost so much, and its payment is not asked for by the call itself."""
        if call := current_call():
            call.further_msat = msat + self._fee_limit_msat(msat)

    def _of(self, name: str) -> Budget:
        if name not in self._by_name:
            self._by_name[name] = Budget(
                database=self._database,
                limit_sat=None,
                sources=[partial(spending.spent_by, name, self._fee_limit_msat)],
                expenses=[partial(spending.expenses_of, name)],
                reserved=[partial(spending.reserved_by, name, self._fee_limit_msat)],
                name=f"the budget of the API key {name!r}",
            )
        return self._by_name[name]
