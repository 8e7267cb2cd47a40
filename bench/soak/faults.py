"""What goes wrong, and how it ends again. A fault begins at once and answers with its end, which comes later."""

import asyncio
import contextlib
import random
import resource
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

import grpc

from bench.soak.watchers import Watcher
from bench.soak.world import Member, Unhealed, World

End = Callable[[], Awaitable[None]]
NOT_NOW = (OSError, grpc.aio.AioRpcError)
REASONS = ("ERROR", "TIMEOUT", "NO_ROUTE")
FULL_BYTES = 8_192
# Seconds, each times a random share: from one blow right behind the other to a node that has worked for a while.
PAUSES = (0, 0.2, 1, 2, 4, 8)
CALM_SHARE, CALM_SECONDS = 0.25, 30
LASTS = (0.1, 0.5, 2, 4, 8)


class Faults:
    """Draws faults from a deck that holds each kind, some more often: none is left out for long."""

    def __init__(self, world: World, watchers: list[Watcher], dice: random.Random):
        self._world, self._watchers, self._dice = world, watchers, dice
        self._kills = [self.kill_alice, self.kill_bob, self.kill_both, self.kill_lnds]
        if world.redis:
            self._kills.append(self.kill_redis)
        self._others = [
            self.lnd_down,
            self.stop_the_clock,
            self.hang_streams,
            self.drop_streams,
            self.disconnect,
            self.fail_payments,
            self.slow_payments,
            self.hold_payments,
            self.fill_the_disk,
            self.drop_clients,
        ]
        self._deck: list[Callable] = []
        self._lnds = asyncio.Lock()
        self._ends: set[asyncio.Task] = set()
        self.kills: Counter[str] = Counter()
        self.others: Counter[str] = Counter()

    async def run(self, kills: int, until: float) -> None:
        """Faults one after the other, some of them overlapping, until enough was killed and the deck is dealt, or the
        time is over.
        """
        loop = asyncio.get_running_loop()
        while loop.time() < until and (self.kills.total() < kills or self._deck):
            if self._dice.random() < CALM_SHARE:
                await self._calm()
            fault = self._draw()
            with contextlib.suppress(*NOT_NOW):
                self._later(await fault())
            await asyncio.sleep(self._dice.choice(PAUSES) * self._dice.random())

    async def heal(self) -> None:
        """Waits for the ends of all faults, and takes back what none of them takes back."""
        while self._ends:
            await asyncio.wait(set(self._ends))
        if self._world.redis:
            self._world.redis.launch()
        await self._world.network.start()
        for member in self._world.members.values():
            member.launch()
            await member.ready()
        control = self._world.network.control
        for name in self._world.members:
            await control.fail_next(0, "ERROR", name)
            await control.set_latency(0, name)
            await control.release(name)
            await control.up(name)
            # Streams that hang are told nothing for good; a real connection would be found dead.
            await control.drop_streams(name)

    async def _calm(self) -> None:
        """Lets both nodes come up: on a slow machine they would otherwise be killed at their start alone."""
        with contextlib.suppress(Unhealed):
            for member in self._world.members.values():
                await member.ready(CALM_SECONDS)

    def _draw(self) -> Callable:
        if not self._deck:
            self._deck = [*self._kills, *self._others, self.kill_alice, self.kill_bob]
            self._dice.shuffle(self._deck)
        return self._deck.pop()

    def _later(self, end: End | None) -> None:
        if end:
            seconds = self._dice.choice(LASTS) * self._dice.random()
            task = asyncio.create_task(_after(seconds, end))
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)

    def _any(self) -> Member:
        return self._dice.choice(list(self._world.members.values()))

    # what is killed

    async def kill_alice(self) -> End | None:
        return self._kill("alice")

    async def kill_bob(self) -> End | None:
        return self._kill("bob")

    async def kill_both(self) -> End | None:
        for name in self._world.members:
            self._later(self._kill(name))

    def _kill(self, name: str) -> End | None:
        member = self._world.members[name]
        if not member.running:
            return None
        self.kills[name] += 1
        member.kill()
        return lambda: _launch(member)

    async def kill_lnds(self) -> End | None:
        if self._lnds.locked() or not self._world.network.pid:
            return None
        self.kills["lnds"] += 1
        await self._world.network.kill()
        return self._start_lnds

    async def _start_lnds(self) -> None:
        async with self._lnds:
            await self._world.network.start()

    async def kill_redis(self) -> End | None:
        if not self._world.redis.running:
            return None
        self.kills["redis"] += 1
        self._world.redis.kill()
        return lambda: _launch(self._world.redis)

    # what goes wrong otherwise

    async def lnd_down(self) -> End:
        name, control = self._any().name, self._world.network.control
        await control.down(name, drop_in_flight=self._dice.random() < 0.3)
        self.others["lnd_down"] += 1
        return lambda: control.up(name)

    async def stop_the_clock(self) -> End | None:
        member = self._any()
        if not member.running or member.paused:
            return None
        process, member.paused = member.node.process, True
        process.send_signal(signal.SIGSTOP)
        self.others["stop_the_clock"] += 1

        async def end():
            process.send_signal(signal.SIGCONT)
            member.paused = False

        return end

    async def hang_streams(self) -> End:
        name, control = self._any().name, self._world.network.control
        await control.hang_streams(name)
        self.others["hang_streams"] += 1
        return lambda: control.drop_streams(name)

    async def drop_streams(self) -> None:
        await self._world.network.control.drop_streams(self._any().name)
        self.others["drop_streams"] += 1

    async def disconnect(self) -> None:
        await self._world.network.control.disconnect(*self._world.members, seconds=1.0)
        self.others["disconnect"] += 1

    async def fail_payments(self) -> None:
        reason, count = self._dice.choice(REASONS), self._dice.randint(1, 4)
        await self._world.network.control.fail_next(count, reason, self._any().name)
        self.others["fail_payments"] += 1

    async def slow_payments(self) -> End:
        name, control = self._any().name, self._world.network.control
        await control.set_latency(self._dice.choice([20, 200, 1500]), name)
        self.others["slow_payments"] += 1
        return lambda: control.set_latency(0, name)

    async def hold_payments(self) -> End:
        name, control = self._any().name, self._world.network.control
        await control.hold(name)
        self.others["hold_payments"] += 1
        return lambda: control.release(name)

    async def fill_the_disk(self) -> End | None:
        member = self._any()
        if not member.running or member.cramped:
            return None
        process, unlimited = member.node.process, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))
        member.cramped = True
        self.others["fill_the_disk"] += 1

        async def end():
            if process.poll() is None:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
                member.cramped = False

        return end

    async def drop_clients(self) -> None:
        for watcher in self._watchers:
            if self._dice.random() < 0.5:
                watcher.drop()
        self.others["drop_clients"] += 1


async def _launch(part) -> None:
    part.launch()


async def _after(seconds: float, end: End) -> None:
    await asyncio.sleep(seconds)
    with contextlib.suppress(*NOT_NOW):
        await end()
