"""One soak: traffic and faults, then healing, waiting, and the comparison."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.soak import ledgers, verdict, world
from bench.soak.faults import Faults
from bench.soak.traffic import Client, Habits, Sent, clients_between, flowing
from bench.soak.verdict import Verdict
from bench.soak.watchers import Told, Watcher, whole_log
from bench.soak.world import Member, World, request, until

NAMES = ["alice", "bob"]
WATCHERS_A_DOOR = 2
PROGRESS_SECONDS = 15
# A message that has failed often waits up to five minutes for its next try.
FINISH_SECONDS = 1_200
GETS_AT_ONCE = 4
# Ends what hangs, on however busy a machine.
ASK_SECONDS = 240
# Longer than a node's pause between two walks over lnd's invoices.
WALK_SECONDS = 200


@dataclass(kw_only=True)
class Plan:
    seed: int
    kills: int
    minutes: float
    long: bool | None = None


@dataclass(kw_only=True)
class Result:
    plan: Plan
    kills: Counter[str]
    others: Counter[str]
    ends: list[str]
    verdict: Verdict
    seconds: float

    def text(self) -> str:
        lines = [f"seed {self.plan.seed}, {self.seconds:.0f} s", f"kill -9: {_counted(self.kills)}"]
        lines += [f"also: {_counted(self.others)}", *self.ends, "", self.verdict.text()]
        return "\n".join(lines)


async def soak(directory: Path, plan: Plan, say=print) -> Result:
    start, dice = time.monotonic(), random.Random(plan.seed)
    async with world.running(directory, NAMES) as place:
        alice, bob = (place.members[name] for name in NAMES)
        balances = {name: await ledgers.balance_msat(place.network.nodes[name]) for name in NAMES}
        habits = Habits()
        clients = clients_between(alice, bob, habits, dice)
        habits.long = await _takes_long_ones(clients[0]) if plan.long is None else plan.long
        say(f"seed {plan.seed}; messages in parts: {_yes(habits.long)}; redis: {_yes(place.redis)}")
        async with _watching(place) as watchers:
            faults = Faults(place, watchers, random.Random(dice.random()))
            watch = asyncio.create_task(place.watch())
            async with flowing(clients), _progress(faults, clients, say):
                await faults.run(plan.kills, asyncio.get_running_loop().time() + plan.minutes * 60)
            say("healing")
            await faults.heal()
            for client in clients:
                await client.finish()
            watch.cancel()
            judged = await _judge(place, clients, watchers, balances, say)
        ends = [end for member in place.members.values() for end in member.ends]
        return Result(
            plan=plan,
            kills=faults.kills,
            others=faults.others,
            ends=ends,
            verdict=judged,
            seconds=time.monotonic() - start,
        )


async def _takes_long_ones(client: Client) -> bool:
    """Whether the node splits what is too long for one payment."""
    probe = Sent(
        sender=client.sender.name,
        recipient=client.recipient.node.pubkey,
        body=f"{client.sender.name} {next(client.numbers)} ".encode() + client.random.randbytes(4_000),
        kind="long",
    )
    await client.start(probe)
    await until(lambda: _ended(client.sender, probe.id), "the first message has no end")
    return (await _state(client.sender, probe.id))["state"] == "settled"


@asynccontextmanager
async def _watching(place: World) -> AsyncIterator[list[Watcher]]:
    watchers = [
        Watcher(f"client {number} of {member.name}'s {door}", door)
        for member in place.members.values()
        for door in member.doors
        for number in range(WATCHERS_A_DOOR)
    ]
    tasks = [asyncio.create_task(watcher.run()) for watcher in watchers]
    try:
        yield watchers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _progress(faults: Faults, clients: list[Client], say) -> AsyncIterator[None]:
    async def tell():
        start = time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            sent = [message for client in clients for message in client.sent]
            answered = sum(bool(message.id) for message in sent)
            seconds, kills = time.monotonic() - start, faults.kills.total()
            say(f"{seconds:5.0f} s  {kills} kills  {len(sent):,} asked for, {answered:,} answered with an id")

    task = asyncio.create_task(tell())
    try:
        yield
    finally:
        task.cancel()


async def _judge(
    place: World, clients: list[Client], watchers: list[Watcher], balances: dict, say
) -> Verdict:
    judged = Verdict()
    members = {client.sender.name: client.sender for client in clients}
    try:
        for member in members.values():
            await until(
                lambda: (
                    not ledgers.unfinished(_database(member)) and not ledgers.open_attempts(_database(member))
                ),
                f"{member.name} has unfinished messages",
                seconds=FINISH_SECONDS,
                pause=0.5,
            )
        say("all messages have their end")
        for client in clients:
            await _delivered(client)
        last = {client.sender.name: await last_message(client) for client in clients}
    except world.Unhealed as error:
        judged.fault("lost", str(error))
        return judged
    logs = await _logs(members, last, judged)
    if logs:
        await _read_to_the_end(watchers, members, logs)
        await _compare(judged, place, clients, watchers, logs, balances)
    return judged


async def _delivered(client: Client) -> None:
    """What was paid while the receiver was away is found by its next walk: what is not there after that is lost."""
    pair = _database(client.sender), _database(client.recipient)
    with contextlib.suppress(world.Unhealed):
        await until(lambda: not ledgers.undelivered(*pair), "", seconds=WALK_SECONDS, pause=0.5)


async def last_message(client: Client) -> str:
    """Sent when all is over: what is behind it in a log cannot come any more."""
    last = Sent(
        sender=client.sender.name,
        recipient=client.recipient.node.pubkey,
        body=f"{client.sender.name} {next(client.numbers)} last".encode(),
        kind="small",
        key=client.random.randbytes(12).hex(),
    )
    await client.start(last)
    await until(
        lambda: _ended(client.sender, last.id), f"the last message of {client.sender.name} has no end"
    )
    return last.id


async def _logs(members: dict[str, Member], last: dict[str, str], judged: Verdict) -> dict[str, list[Told]]:
    logs = {}
    for name, member in members.items():
        far = next(other for other in members if other != name)
        try:
            logs[name] = await whole_log(member.node.http, {("delivery", last[name]), ("message", last[far])})
        except TimeoutError:
            judged.fault("lost", f"{name}'s log does not tell of its last messages")
            return {}
    return logs


async def _read_to_the_end(
    watchers: list[Watcher], members: dict[str, Member], logs: dict[str, list[Told]]
) -> None:
    """A client that does not get there shows gaps."""
    ends = {door: logs[name][-1].seq for name, member in members.items() for door in member.doors}
    for watcher in watchers:
        try:
            await until(lambda: watcher.cursor >= ends[watcher.address], "", seconds=300)
        except world.Unhealed:
            continue


async def _compare(judged: Verdict, place: World, clients: list[Client], watchers, logs, balances) -> None:
    members = {client.sender.name: client.sender for client in clients}
    far = {client.sender.name: client.recipient.name for client in clients}
    ids = {client.sender.name: [message.id for message in client.sent if message.id] for client in clients}
    states = {name: await ask_states(member, ids[name]) for name, member in members.items()}
    everything = {message_id: state for known in states.values() for message_id, state in known.items()}
    sent = [message for client in clients for message in client.sent]
    verdict.check_messages(judged, sent, everything, {name: logs[far[name]] for name in members})
    for watcher in watchers:
        owner = next(name for name, member in members.items() if watcher.address in member.doors)
        verdict.check_stream(judged, watcher, logs[owner])
    for member in members.values():
        member.wanted = False
        await asyncio.to_thread(member.node.stop)
    received = {name: await ledgers.paid(place.network.nodes[name]) for name in members}
    for name, member in members.items():
        verdict.check_deliveries(judged, states[name], logs[name], ids[name])
        verdict.check_payments(judged, name, received[far[name]], ledgers.settled_attempts(_database(member)))
        verdict.check_paid_messages(judged, received[far[name]], states[name], ids[name])
        change = await ledgers.balance_msat(place.network.nodes[name]) - balances[name]
        booked = received[name].msat - received[far[name]].msat
        if change != booked:
            judged.fault(
                "books", f"{name}'s balance changed by {change} msat, its payments make {booked} msat"
            )


async def ask_states(member: Member, ids: Iterable[str]) -> dict[str, dict]:
    """By id, what the node answers; ids that it does not know are left out."""
    limit, found = asyncio.Semaphore(GETS_AT_ONCE), {}

    async def ask(message_id: str) -> None:
        async with limit:
            if state := await _state(member, message_id):
                found[message_id] = state

    await asyncio.gather(*(ask(message_id) for message_id in ids))
    return found


async def _state(member: Member, message_id: str) -> dict | None:
    status, answer = await request(member.node.http, "GET", f"/v1/message/{message_id}", seconds=ASK_SECONDS)
    return answer["message"] if status == 200 else None


async def _ended(member: Member, message_id: str) -> bool:
    state = await _state(member, message_id)
    return state is not None and state["state"] in ("settled", "failed")


def _database(member: Member) -> Path:
    return member.node.directory / "impervious.sqlite3"


def _yes(value) -> str:
    return "yes" if value else "no"


def _counted(counts: Counter[str]) -> str:
    return (
        ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in sorted(counts.items())) or "nothing"
    )
