"""The scale test's course: connect all, raise the rate until they lag, then kill and restart daphnes under traffic."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

from bench.scale.tally import tally
from bench.scale.traffic import Traffic
from bench.scale.world import World, cpu_by_part, memory_mb_by_part, running
from bench.soak.world import until

# A client that is this far behind is not served any more, by our measure.
MOST_LAG_MS = 1_000
AWAY_SECONDS = 5.0
SETTLE_SECONDS = 300


@dataclass(frozen=True)
class Plan:
    """`rates`: messages a second, each for `seconds`, until the clients lag."""

    clients: int
    rates: Sequence[float]
    seconds: float


@dataclass
class Step:
    name: str
    deliveries_per_second: float
    lags_ms: list[float]
    cores: dict[str, float]

    def lag_ms(self, share: float) -> float:
        ordered = sorted(self.lags_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass
class Result:
    clients: int
    connect_seconds: float = 0.0
    memory_mb: dict[str, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    returns: list[tuple[str, int, float]] = field(default_factory=list)
    messages: int = 0
    exact: int = 0
    deliveries: int = 0
    causes: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        """Every client had every event once, in order."""
        return self.messages > 0 and self.exact == self.clients

    @property
    def held(self) -> Step | None:
        """The last step in which 99 of 100 deliveries came in time."""
        return next((step for step in reversed(self.steps) if step.lag_ms(0.99) <= MOST_LAG_MS), None)


class Course:
    def __init__(self, world: World, traffic: Traffic, plan: Plan, say: Callable[[str], None]):
        self._world, self._traffic, self._plan, self._say = world, traffic, plan, say
        self._result = Result(plan.clients)

    async def run(self) -> Result:
        await self._connect()
        rate = await self._raise_rate()
        await self._cut("kill -9 of one daphne", rate, self._kill_and_start)
        await self._cut("restart of the other", rate, self._restart)
        await self._compare()
        return self._result

    async def _connect(self) -> None:
        addresses = [f"127.0.0.1:{daphne.port}" for daphne in self._world.daphnes]
        share = self._plan.clients // len(self._world.clients)
        start = time.monotonic()
        await asyncio.gather(
            *(program.ask(connect=share, addresses=addresses, after=0) for program in self._world.clients)
        )
        self._result.clients = share * len(self._world.clients)
        self._result.connect_seconds = time.monotonic() - start
        self._result.memory_mb = memory_mb_by_part(self._world)
        self._say(
            f"{self._result.clients:,} clients are connected after {self._result.connect_seconds:.1f} s"
        )

    async def _raise_rate(self) -> float:
        """Ends with half of the rate that is held, so that there is room for those who return."""
        await self._measure(
            self._plan.rates[0]
        )  # what thousands of new clients leave behind is tidied up meanwhile
        for rate in self._plan.rates:
            step = await self._measure(rate)
            self._result.steps.append(step)
            self._say(
                f"{step.name}: {step.deliveries_per_second:,.0f} deliveries/s, lag p50 {step.lag_ms(0.5):.0f} ms, "
                f"p99 {step.lag_ms(0.99):.0f} ms; cores: {_shown(step.cores)}"
            )
            if step.lag_ms(0.99) > MOST_LAG_MS:
                break
        await self._all_caught_up()
        held = self._result.held
        return max(1.0, self._plan.rates[self._result.steps.index(held)] / 2) if held else self._plan.rates[0]

    async def _measure(self, rate: float) -> Step:
        await self._reports()
        before, start = cpu_by_part(self._world), time.monotonic()
        self._traffic.rate = rate
        await asyncio.sleep(self._plan.seconds)
        reports = await self._reports()
        seconds, after = time.monotonic() - start, cpu_by_part(self._world)
        self._traffic.rate = 0
        cores = {name: (after[name] - before[name]) / seconds for name in after}
        lags = [lag for report in reports for lag in report["lags_ms"]]
        return Step(
            f"{rate:g} messages/s", sum(report["events"] for report in reports) / seconds, lags, cores
        )

    async def _cut(self, name: str, rate: float, act: Callable[[], Awaitable[None]]) -> None:
        await self._reports()
        self._traffic.rate = rate
        start = time.monotonic()
        await act()
        returns = 0

        async def all_back() -> bool:
            nonlocal returns
            reports = await self._reports()
            returns += sum(report["returns"] for report in reports)
            return returns > 0 and sum(report["open"] for report in reports) == self._result.clients

        await until(all_back, "not every client came back", seconds=SETTLE_SECONDS, pause=0.5)
        seconds = time.monotonic() - start
        self._traffic.rate = 0
        await self._all_caught_up()
        self._result.returns.append((name, returns, seconds))
        self._say(f"{name}: {returns:,} clients were cut off, all were back after {seconds:.1f} s")

    async def _kill_and_start(self) -> None:
        self._world.daphnes[0].kill()
        await asyncio.sleep(AWAY_SECONDS)
        self._world.daphnes[0].launch()
        await self._world.daphnes[0].ready()

    async def _restart(self) -> None:
        await asyncio.to_thread(self._world.restart, 1)
        await self._world.daphnes[1].ready()

    async def _all_caught_up(self) -> None:
        async def caught_up() -> bool:
            events = await asyncio.to_thread(self._world.message_events)
            reports = await self._reports()
            return (
                len(events) >= self._traffic.begun
                and min(report["lowest"] for report in reports) >= events[-1]
            )

        await until(caught_up, "not every client has caught up", seconds=SETTLE_SECONDS, pause=0.5)

    async def _compare(self) -> None:
        events = await asyncio.to_thread(self._world.message_events)
        self._result.messages = len(events)
        right = f"{events[-1]} {len(events)} {reduce(tally, events, 0)}"
        self._result.exact = sum(report["ends"].get(right, 0) for report in await self._reports())

    async def _reports(self) -> list[dict]:
        reports = [await program.ask(report=1) for program in self._world.clients]
        for report in reports:
            self._result.causes.update(report["causes"])
            self._result.deliveries += report["events"]
        return reports


async def scale(directory: Path, plan: Plan, *, say: Callable[[str], None]) -> Result:
    async with running(directory) as world, Traffic(world.payer, world.node.pubkey).flowing() as traffic:
        return await Course(world, traffic, plan, say).run()


def _shown(cores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in cores.items())
