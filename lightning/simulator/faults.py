"""What goes wrong by command. Nothing of it is kept over a restart."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

from protos.lnrpc import lightning_pb2

REASON_PREFIX = "FAILURE_REASON_"
REASONS = tuple(name.removeprefix(REASON_PREFIX) for name in lightning_pb2.PaymentFailureReason.keys()[1:])


@dataclass
class Failure:
    """The next `count` payments to a node fail. None for the node: to any."""

    count: int
    reason: lightning_pb2.PaymentFailureReason


@dataclass
class Faults:
    """Latencies in seconds, by store id of the destination; None holds for all others."""

    latency: dict[int | None, float] = field(default_factory=dict)
    failures: dict[int | None, Failure] = field(default_factory=dict)
    held: dict[int | None, asyncio.Event] = field(default_factory=dict)
    # How many of the next payments the sender's lnd loses: it calls them in flight for good.
    stranded: dict[int | None, int] = field(default_factory=dict)
    payments_per_second: float = 0
    _next_slot: float = 0

    def latency_to(self, node: int) -> float:
        return self.latency.get(node, self.latency.get(None, 0))

    def take_failure(self, node: int) -> "lightning_pb2.PaymentFailureReason | None":
        """The failure reason this payment meets, if any."""
        for key in (node, None):
            failure = self.failures.get(key)
            if failure:
                failure.count -= 1
                if failure.count <= 0:
                    del self.failures[key]
                return failure.reason
        return None

    def fail_next(self, node: int | None, count: int, reason: str) -> None:
        self.failures.pop(node, None)
        if count > 0:
            self.failures[node] = Failure(count, reason_number(reason))

    def strand_next(self, node: int | None, count: int) -> None:
        self.stranded[node] = max(0, count)

    def take_stranded(self, node: int) -> bool:
        """Whether this payment is lost."""
        for key in (node, None):
            if self.stranded.get(key):
                self.stranded[key] -= 1
                return True
        return False

    def hold(self, node: int | None) -> None:
        self.held.setdefault(node, asyncio.Event())

    def release(self, node: int | None) -> None:
        event = self.held.pop(node, None)
        if event:
            event.set()

    async def wait_released(self, node: int) -> None:
        while (event := self.held.get(node) or self.held.get(None)) is not None:
            await event.wait()

    def slot_delay(self) -> float:
        """Seconds until this payment may start under the cap on payments per second."""
        if not self.payments_per_second:
            return 0
        now = asyncio.get_running_loop().time()
        start = max(now, self._next_slot)
        self._next_slot = start + 1 / self.payments_per_second
        return start - now


def reason_number(reason: str) -> lightning_pb2.PaymentFailureReason:
    name = REASON_PREFIX + reason.upper().removeprefix(REASON_PREFIX)
    try:
        return cast("lightning_pb2.PaymentFailureReason", lightning_pb2.PaymentFailureReason.Value(name))
    except ValueError:
        raise ValueError(f"{reason!r} is no failure reason: {', '.join(REASONS)}") from None
