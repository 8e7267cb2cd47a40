"""What this node may spend in 24 hours: reserved before something is accepted, set right when it has ended.

The truth is in the tables of what is paid for, each of which says what it may cost or has cost. Between two looks at them
the sum only grows, by what is reserved; before something is refused they are looked at again.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import Protocol

from django.db.models import Sum

from messaging import clock
from messaging.database import Database
from messaging.models import ASKED_FOR, UNFINISHED, asked_for, costing, unfinished

WINDOW = timedelta(hours=24)

# Of what is spent the oldest is looked at, so much of it, for when there will be enough again.
MOST_EXPENSES = 1_000
# When to come again for what is only reserved.
SOON_SECONDS = 1.0

# The msat that were spent, or may be, since a moment.
Spent = Callable[[datetime], int]
# When and how many msat, since a moment, at least the oldest MOST_EXPENSES of what has ended.
Expenses = Callable[[datetime], list[tuple[datetime, int]]]


class OverBudget(Exception):
    """`str()` says how much there is. `seconds` until there may be enough again; None: there never will."""

    def __init__(self, text: str, *, seconds: float | None = None):
        super().__init__(text)
        self.seconds = seconds


class SpendingLimit(Protocol):
    """Reserves what a message or a payment may cost before it is stored."""

    def reserved(self, msat: int) -> AbstractAsyncContextManager[None]:
        """Within it, what may cost so much is stored. Raises OverBudget."""


class Budget:
    """A SpendingLimit. Use from one event loop; this process is the only one that spends. Without a limit all is
    permitted. `name` is what the limit is called; it may be set anew at any time. Of what the sources tell, `reserved`
    tells what is under way and may cost less in the end.
    """

    def __init__(
        self,
        *,
        database: Database,
        limit_sat: int | None,
        sources: Iterable[Spent],
        expenses: Iterable[Expenses] = (),
        reserved: Iterable[Spent] = (),
        name: str = "lightning.daily_budget_sat",
    ):
        self.limit_sat = limit_sat
        self._database = database
        self._sources = tuple(sources)
        self._expenses = tuple(expenses)
        self._reserved = tuple(reserved)
        self._name = name
        self._spent_msat: int | None = None
        # Stored since the last look; accepted and not yet stored.
        self._since_msat = 0
        self._pending_msat = 0
        self._looking = asyncio.Lock()

    @asynccontextmanager
    async def reserved(self, msat: int) -> AsyncIterator[None]:
        """Within it, what may cost so much is stored. Raises OverBudget."""
        limit_sat = self.limit_sat
        if limit_sat is not None:
            if self._spent_msat is None or self._lacking_msat(msat, limit_sat) > 0:
                await self._look()
            if self._lacking_msat(msat, limit_sat) > 0:
                raise await self._refusal(msat, limit_sat)
        # Without a limit too: it may be set while this is under way.
        self._pending_msat += msat
        try:
            yield
            self._since_msat += msat
        finally:
            self._pending_msat -= msat

    @property
    def known_msat(self) -> int | None:
        """What is spent or reserved, as this object knows it: since its last look at the tables it only grew. None before
        the first look.
        """
        return None if self._spent_msat is None else self._spent_msat + self._since_msat + self._pending_msat

    def _lacking_msat(self, msat: int, limit_sat: int) -> int:
        """By how much this would exceed the limit."""
        return (self.known_msat or 0) + msat - limit_sat * 1000

    async def _refusal(self, msat: int, limit_sat: int) -> OverBudget:
        left_msat = max(0, msat - self._lacking_msat(msat, limit_sat))
        text = (
            f"{self._name}: this may cost up to {msat / 1000:g} sat, and {left_msat / 1000:g} of {limit_sat} sat are "
            "left for now"
        )
        if msat > limit_sat * 1000:
            return OverBudget(f"{text}; it is more than the whole")
        seconds = await self._seconds_until_free(self._lacking_msat(msat, limit_sat))
        return OverBudget(f"{text}; there may be enough in {_in_words(seconds)}", seconds=seconds)

    async def _seconds_until_free(self, msat: int) -> float:
        """The earliest that so many msat may be free: what is only reserved may come back at any moment, and of what has
        ended the oldest leaves the window first.
        """
        # What was stored since the last look, or waits to be, has hardly ended.
        unstored_msat = self._since_msat + self._pending_msat
        reserved_msat, expenses = await self._database.read(self._oldest)
        msat -= unstored_msat + reserved_msat
        seconds = SOON_SECONDS
        for moment, spent_msat in expenses:
            if msat <= 0:
                break
            msat -= spent_msat
            seconds = max(SOON_SECONDS, (moment + WINDOW - clock.now()).total_seconds())
        return seconds

    def _oldest(self) -> tuple[int, list[tuple[datetime, int]]]:
        """What is reserved, and the oldest of what is spent."""
        since = clock.now() - WINDOW
        found = sorted(expense for expenses in self._expenses for expense in expenses(since))
        return sum(reserved(since) for reserved in self._reserved), found[:MOST_EXPENSES]

    async def _look(self) -> None:
        # One at a time: two would both take off what was stored before them.
        async with self._looking:
            stored_before_msat = self._since_msat
            self._spent_msat = await self._database.read(self._read)
            self._since_msat -= stored_before_msat

    def _read(self) -> int:
        since = clock.now() - WINDOW
        return sum(spent(since) for spent in self._sources)


def spent_on_messages(since: datetime) -> int:
    """Unasked ones have a budget of their own (messaging/answers.py)."""
    found = [costing(origin).filter(created_at__gte=since) for origin in ASKED_FOR]
    return sum(messages.aggregate(sum=Sum("cost_msat"))["sum"] or 0 for messages in found)


def reserved_by_messages(since: datetime) -> int:
    under_way = asked_for(unfinished()).filter(created_at__gte=since, cost_msat__gt=0)
    return under_way.aggregate(sum=Sum("cost_msat"))["sum"] or 0


def expenses_of_messages(since: datetime) -> list[tuple[datetime, int]]:
    found: list[tuple[datetime, int]] = []
    for origin in ASKED_FOR:
        messages = costing(origin).filter(created_at__gte=since).exclude(state__in=UNFINISHED)
        found += messages.order_by("created_at").values_list("created_at", "cost_msat")[:MOST_EXPENSES]
    return sorted(found)[:MOST_EXPENSES]


def _in_words(seconds: float) -> str:
    hours, rest = divmod(math.ceil(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
