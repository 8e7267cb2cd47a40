"""What may be spent: the node's budget, and within it one for each API key. Whoever spends asks here first."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import grpc

from messaging.budget import Budget
from messaging.database import Database
from nodeapi import spending
from nodeapi.calling import Call, current_call
from nodeapi.errors import ApiError, invalid, shown_sat


class Budgets:
    """A messaging.budget.SpendingLimit: `reserved` is on account of the call in whose context it is asked, if there
    is one. What one call may cost is bounded too: by `max_call_sat` (lightning.max_amount_sat; None: it is not), and by
    the bound that the call brings.
    """

    def __init__(
        self,
        *,
        node: Budget,
        database: Database,
        fee_limit_msat: spending.FeeLimit,
        max_call_sat: int | None = None,
    ):
        self.node = node
        self._max_call_sat = max_call_sat
        self._database = database
        self._fee_limit_msat = fee_limit_msat
        self._by_name: dict[str, Budget] = {}

    @asynccontextmanager
    async def reserved(self, msat: int) -> AsyncIterator[None]:
        """Raises OverBudget; ApiError when one call would cost more than it may."""
        call = current_call()
        if call:
            self._require_bounded(call, msat + call.further_msat)
        if call is None or not call.caller.name:
            async with self.node.reserved(msat):
                yield
            return
        budget = self._of(call.caller.name)
        budget.limit_sat = call.caller.budget_sat
        async with budget.reserved(msat + call.further_msat), self.node.reserved(msat):
            yield

    def _require_bounded(self, call: Call, msat: int) -> None:
        text = f"this may cost up to {shown_sat(msat)} with its fees"
        if self._max_call_sat is not None and msat > self._max_call_sat * 1000:
            raise invalid(
                "cost", f"{text}, which are more than lightning.max_amount_sat ({self._max_call_sat}) permits"
            )
        if call.max_cost_sat is not None and msat > call.max_cost_sat * 1000:
            raise ApiError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"max_cost_sat: is {call.max_cost_sat}, but {text}; nothing was sent or paid",
            )

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
