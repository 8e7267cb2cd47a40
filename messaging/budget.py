"""What this node may spend in 24 hours: reserved before something is accepted, set right when it has ended.

The truth is in the tables of what is paid for, each of which says what it may cost or has cost. Between two looks at them
the sum only grows, by what is reserved; before something is refused they are looked at again.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from django.db.models import Sum
from django.utils import timezone

from messaging.database import Database
from messaging.models import Direction, Message

WINDOW = timedelta(hours=24)

# The msat that were spent, or may be, since a moment.
Spent = Callable[[datetime], int]


class OverBudget(Exception):
    """`str()` says how much there is."""


class Budget:
    """Use from one event loop; this process is the only one that spends. Without a limit all is permitted."""

    def __init__(self, *, database: Database, limit_sat: int | None, sources: Iterable[Spent]):
        self.limit_sat = limit_sat
        self._database = database
        self._limit_msat = None if limit_sat is None else limit_sat * 1000
        self._sources = tuple(sources)
        self._spent_msat: int | None = None
        # Stored since the last look; accepted and not yet stored.
        self._since_msat = 0
        self._pending_msat = 0

    @asynccontextmanager
    async def reserved(self, msat: int) -> AsyncIterator[None]:
        """Within it, what may cost so much is stored. Raises OverBudget."""
        if self._limit_msat is None:
            yield
            return
        if self._spent_msat is None or self._sum_msat + msat > self._limit_msat:
            await self._look()
        if self._sum_msat + msat > self._limit_msat:
            raise OverBudget(
                f"lightning.daily_budget_sat: this may cost up to {msat / 1000:g} sat, and "
                f"{max(0, self._limit_msat - self._sum_msat) / 1000:g} of {self._limit_msat // 1000} sat are left for now"
            )
        self._pending_msat += msat
        try:
            yield
            self._since_msat += msat
        finally:
            self._pending_msat -= msat

    @property
    def known_msat(self) -> int | None:
        """What is spent or reserved, as this object knows it: since its last look at the tables it only grew. None before
        the first look."""
        return None if self._spent_msat is None else self._spent_msat + self._since_msat + self._pending_msat

    @property
    def _sum_msat(self) -> int:
        return self._spent_msat + self._since_msat + self._pending_msat

    async def _look(self) -> None:
        stored_before_msat = self._since_msat
        self._spent_msat = await self._database.read(self._read)
        self._since_msat -= stored_before_msat

    def _read(self) -> int:
        since = timezone.now() - WINDOW
        return sum(spent(since) for spent in self._sources)


def spent_on_messages(since: datetime) -> int:
    found = Message.objects.filter(direction=Direction.OUT, created_at__gte=since)
    return found.aggregate(sum=Sum("cost_msat"))["sum"] or 0
