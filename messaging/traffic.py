"""What waits for which node, and how many payments are under way: whose turn is next. No input, no output.

Fair between nodes: each that has something due gets its turn. A node that is away, or holds what it receives, stops only
itself.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from messaging.models import Attempt

MAX_STARTED_AT_ONCE = 64

# What waits: the primary key of a message, and WHOLE or the index of one of its parts.
Key = tuple[int, int]
WHOLE = -1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many payments may be under way: in all, and to one node."""

    in_flight: int
    in_flight_per_peer: int


@dataclass(frozen=True)
class Batch:
    """Messages (by their keys) of one node that are due, and how many payments may carry them: each may carry several."""

    pubkey: str
    keys: list[Key]
    payments: int


@dataclass(frozen=True)
class Depth:
    """What waits for its first try, what waits for another one, and payments under way."""

    queued: int
    retrying: int
    in_flight: int


@dataclass
class Destination:
    """What waits for one node, by its keys: first tries in their order, retries by their time (monotonic seconds)."""

    waiting: deque[Key] = field(default_factory=deque)
    retries: list[tuple[float, Key]] = field(default_factory=list)
    in_flight: int = 0
    starting: bool = False
    timer: asyncio.TimerHandle | None = None

    def take_due(self, now: float, most: int) -> list[Key]:
        keys: list[Key] = []
        while len(keys) < most and self.retries and self.retries[0][0] <= now:
            keys.append(heapq.heappop(self.retries)[1])
        while len(keys) < most and self.waiting:
            keys.append(self.waiting.popleft())
        return keys

    def has_due(self, now: float) -> bool:
        return bool(self.waiting) or bool(self.retries and self.retries[0][0] <= now)

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.retries or self.in_flight or self.starting)


class Traffic:
    """`work` is set whenever `next_batch` may have something. Use from one event loop."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._destinations: dict[str, Destination] = {}
        self._turn: dict[str, None] = {}
        self._counted: set[UUID] = set()
        self._reserved: dict[str, int] = {}
        self.work = asyncio.Event()

    @property
    def free(self) -> int:
        """How many more payments may start in all."""
        return self._limits.in_flight - len(self._counted) - sum(self._reserved.values())

    @property
    def depth(self) -> int:
        """Messages that wait for an attempt."""
        return sum(len(one.waiting) + len(one.retries) for one in self._destinations.values())

    def counted(self) -> Depth:
        destinations = self._destinations.values()
        return Depth(
            queued=sum(len(one.waiting) for one in destinations),
            retrying=sum(len(one.retries) for one in destinations),
            in_flight=sum(one.in_flight for one in destinations),
        )

    def room(self, pubkey: str) -> int:
        """How many payments with new messages to this node may start; none when they would overtake others."""
        destination = self._destinations.get(pubkey)
        if destination is None:
            return self._limits.in_flight_per_peer
        if destination.starting or destination.has_due(time.monotonic()):
            return 0
        return self._limits.in_flight_per_peer - destination.in_flight

    # waiting

    def wait(self, pubkey: str, key: Key, *, seconds: float | None = None) -> None:
        """A message waits for its first try, or for a retry in so many seconds."""
        destination = self._destination(pubkey)
        if seconds is None:
            destination.waiting.append(key)
        else:
            heapq.heappush(destination.retries, (time.monotonic() + seconds, key))
        self._line_up(pubkey)

    def retry_now(self) -> None:
        """Everything that waits for its next try is due."""
        for pubkey, destination in self._destinations.items():
            destination.retries = [(0.0, key) for _, key in sorted(destination.retries)]
            self._line_up(pubkey)

    def next_batch(self) -> Batch | None:
        """What may start now, of the node whose turn it is. To be followed by `started`."""
        now = time.monotonic()
        while self._turn and self.free > 0:
            pubkey = next(iter(self._turn))
            del self._turn[pubkey]
            destination = self._destinations.get(pubkey)
            if destination is None or destination.starting or not destination.has_due(now):
                continue
            payments = min(self.free, self._limits.in_flight_per_peer - destination.in_flight)
            if payments > 0:
                destination.starting = True
                self._reserved[pubkey] = payments
                return Batch(pubkey, destination.take_due(now, MAX_STARTED_AT_ONCE), payments)
        return None

    def narrow(self, batch: Batch) -> None:
        """No more than one further payment of the batch will start."""
        self._reserved[batch.pubkey] = 1
        self.work.set()

    def started(self, batch: Batch, left: Iterable[Key]) -> None:
        """The batch has been seen to; those that are left go on waiting, before all others."""
        destination = self._destination(batch.pubkey)
        destination.starting = False
        del self._reserved[batch.pubkey]
        destination.waiting.extendleft(reversed(list(left)))
        self._line_up_or_forget(batch.pubkey)
        self.work.set()

    # under way

    def occupy(self, attempt: Attempt) -> None:
        self._counted.add(attempt.pk)
        self._destination(attempt.destination).in_flight += 1

    def held(self, attempt: Attempt) -> None:
        """From now on this one counts only against its own node."""
        self._counted.discard(attempt.pk)
        self.work.set()

    def release(self, attempt: Attempt) -> None:
        self.held(attempt)
        self._destinations[attempt.destination].in_flight -= 1
        self._line_up_or_forget(attempt.destination)

    def _destination(self, pubkey: str) -> Destination:
        return self._destinations.setdefault(pubkey, Destination())

    def _line_up_or_forget(self, pubkey: str) -> None:
        if self._destinations[pubkey].idle:
            del self._destinations[pubkey]
        else:
            self._line_up(pubkey)

    def _line_up(self, pubkey: str) -> None:
        """Gives a node its turn if something of it is due, and a timer for what is due later."""
        destination = self._destinations.get(pubkey)
        if destination is None:
            return
        now = time.monotonic()
        if destination.has_due(now):
            self._turn.setdefault(pubkey)
            self.work.set()
        elif destination.retries:
            if destination.timer:
                destination.timer.cancel()
            wait = max(0.0, destination.retries[0][0] - now)
            destination.timer = asyncio.get_running_loop().call_later(wait, self._line_up, pubkey)
