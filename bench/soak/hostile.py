"""One node under hostile payments and good messages: it lives, stays small, and delivers what is good, once."""

import asyncio
import json
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from bench.machine import rss_kb
from bench.soak import verdict, world
from bench.soak.records import Hostile
from bench.soak.run import ask_states, last_message
from bench.soak.traffic import Client, Habits, flowing
from bench.soak.verdict import Verdict
from bench.soak.watchers import Watcher, whole_log
from bench.soak.world import Member, World, until

HONEST, VICTIM, MALLORY = "alice", "bob", "mallory"
BATCH = 100
INTERVALS = 20
# What the node may grow by from the first interval's end to the last: caches fill, nothing else may.
GROWTH_MB = 48
# What a hostile payment may leave in the database: some are valid, and everything valid is kept.
STORED_BYTES = 16_384
MEGABYTE = 1_000_000


@dataclass(kw_only=True)
class Sample:
    payments: int
    seconds: float
    rss_mb: float
    stored_mb: float
    log_mb: float

    def text(self) -> str:
        rate = self.payments / self.seconds if self.seconds else 0
        return (
            f"{self.payments:>9,} hostile payments  {rate:6.0f}/s  memory {self.rss_mb:6.1f} MB"
            f"  database {self.stored_mb:7.1f} MB  log {self.log_mb:6.1f} MB"
        )


@dataclass(kw_only=True)
class Result:
    seed: int
    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)

    def text(self) -> str:
        kinds = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in sorted(self.kinds.items()))
        ends = ", ".join(f"{name} {count:,}" for name, count in sorted(self.ends.items()))
        return f"seed {self.seed}\nkinds: {kinds}\nends: {ends}\n\n{self.verdict.text()}"


async def flood(directory: Path, *, seed: int, payments: int, say=print) -> Result:
    result, dice = Result(seed=seed), random.Random(seed)
    async with world.running(directory, [HONEST, VICTIM], with_redis=False, lnds=(MALLORY,)) as place:
        honest, victim = place.members[HONEST], place.members[VICTIM]
        pid = victim.node.process.pid
        habits = Habits(pause=0.3, stranger_share=0)
        client = Client(honest, victim, habits, random.Random(dice.random()), count(1))
        watcher = Watcher("the honest stream client", victim.node.http, sender=honest.node.pubkey)
        watching = asyncio.create_task(watcher.run())
        say(f"seed {seed}")
        async with flowing([client]):
            await _attack(
                place, Hostile(bytes.fromhex(victim.node.pubkey), dice), client, payments, result, say
            )
        await client.finish()
        try:
            await _judge(result, client, watcher)
        except (world.Unhealed, TimeoutError) as error:
            result.verdict.fault("lost", f"good traffic came to no end: {error}")
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        if victim.node.process.pid != pid or not victim.running:
            result.verdict.fault("ended", f"the node ended with {victim.node.process.returncode}")
    _check_size(result)
    _check_log(result, victim)
    return result


async def _attack(place: World, hostile: Hostile, client: Client, payments: int, result: Result, say) -> None:
    start, paid, interval = time.monotonic(), 0, max(BATCH, payments // INTERVALS)
    victim = place.members[VICTIM]
    result.samples.append(_sample(victim, 0, 0.0))
    while paid < payments:
        size = min(BATCH, payments - paid)
        batch = [_draw(hostile, result.kinds) for _ in range(size)]
        result.ends.update(
            await place.network.control.command("pay_many", node=MALLORY, dest=VICTIM, payments=batch)
        )
        paid += size
        if paid // interval > (paid - size) // interval or paid == payments:
            # Behind a good message that has arrived nothing hostile is waiting: the node keeps pace.
            await last_message(client)
            result.samples.append(_sample(victim, paid, time.monotonic() - start))
            say(result.samples[-1].text())


def _draw(hostile: Hostile, kinds: Counter[str]) -> dict:
    name, payment = hostile.draw()
    kinds[name] += 1
    return payment


def _sample(victim: Member, payments: int, seconds: float) -> Sample:
    home = victim.node.directory
    stored = sum(path.stat().st_size for path in home.glob("impervious.sqlite3*"))
    return Sample(
        payments=payments,
        seconds=seconds,
        rss_mb=rss_kb(victim.node.process.pid) * 1024 / MEGABYTE,
        stored_mb=stored / MEGABYTE,
        log_mb=victim.node.log_path.stat().st_size / MEGABYTE,
    )


async def _judge(result: Result, client: Client, watcher: Watcher) -> None:
    """Good messages: each that was answered with an id is settled, and told once."""
    last = await last_message(client)
    ids = [message.id for message in client.sent if message.id]
    states = await ask_states(client.sender, ids)
    log = await whole_log(client.recipient.node.http, {("message", last)}, sender=client.sender.node.pubkey)
    await until(
        lambda: watcher.cursor >= log[-1].seq, "the stream client does not get to the end", seconds=300
    )
    verdict.check_messages(result.verdict, client.sent, states, {client.sender.name: log})
    verdict.check_stream(result.verdict, watcher, log)
    for message_id, state in states.items():
        if state["state"] != "settled":
            result.verdict.fault("lost", f"{message_id} is {state['state']}: {state['error']}")


def _check_size(result: Result) -> None:
    first, settled, last = result.samples[0], result.samples[1], result.samples[-1]
    growth = last.rss_mb - settled.rss_mb
    if growth > GROWTH_MB:
        result.verdict.fault(
            "memory", f"grew by {growth:.1f} MB after the first interval; {GROWTH_MB} MB are allowed"
        )
    stored = (last.stored_mb - first.stored_mb) * MEGABYTE / last.payments
    if stored > STORED_BYTES:
        result.verdict.fault(
            "database", f"grew by {stored:,.0f} bytes a payment; {STORED_BYTES:,} are allowed"
        )


def _check_log(result: Result, victim: Member) -> None:
    with open(victim.node.log_path) as log:
        for line in log:
            if "Traceback" in line or _level(line) in ("ERROR", "CRITICAL"):
                result.verdict.fault("log", line.strip()[:500])


def _level(line: str) -> str:
    try:
        return json.loads(line).get("level", "")
    except (ValueError, AttributeError):
        return ""
