"""What a message costs a node that has a million of them, over one that has a thousand; so do its history and its start."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import worlds
from bench.filling import fill
from bench.flights import NodeFlights
from bench.machine import cpu_seconds
from bench.memory import start_node
from bench.report import Row, Section, Target
from bench.rest_client import RestClient
from bench.settings import Settings
from bench.throughput import rate
from bench.worlds import Line
from tests.support.nodes import Node

CLIENTS = (1, 16)
FLAT = Target("≤", 1.15)
PAGES = 20
NAMES = ("alice", "bob", "carol", "dave")


@dataclass
class Side:
    """Two nodes of the same size, and what was measured of them, a value a round."""

    messages: int
    a: Node
    b: Node
    line: Line | None = None
    message_ms: dict[int, list[float]] = field(default_factory=lambda: {clients: [] for clients in CLIENTS})
    cpu_ms: dict[int, list[float]] = field(default_factory=lambda: {clients: [] for clients in CLIENTS})
    page_ms: list[float] = field(default_factory=list)
    start_seconds: list[float] = field(default_factory=list)


async def measure(directory: Path, settings: Settings) -> AsyncIterator[Section]:
    async with worlds.simulated(directory / "net", names=NAMES) as network:
        lnds = [network.nodes[name] for name in NAMES]
        few = await _filled(directory / "few", settings.stored_few, lnds[:2])
        many = await _filled(directory / "many", settings.stored_many, lnds[2:])
        for _ in range(settings.rounds):
            for side in (few, many):
                side.start_seconds.append(await _start(side.b))
        async with AsyncExitStack() as stack:
            for side in (few, many):
                side.line = await stack.enter_async_context(worlds.line(side.a, side.b))
            await _rounds(few, many, settings)
    yield _section(few, many)


async def _filled(directory: Path, messages: int, lnds: list) -> Side:
    """Two nodes whose databases have so many messages each; many of them between the two."""
    a, b = (Node(lnd, directory / lnd.name) for lnd in lnds)
    database = directory / "filled.sqlite3"
    await asyncio.to_thread(a.start)
    a.stop()
    shutil.move(worlds.sqlite_path(a), database)
    await asyncio.to_thread(fill, database, messages=messages, pubkeys=[a.pubkey, b.pubkey])
    for node in (a, b):
        await asyncio.to_thread(shutil.copyfile, database, worlds.sqlite_path(node))
    database.unlink()
    return Side(messages, a, b)


async def _start(node: Node) -> float:
    try:
        seconds = await start_node(node)
        node.stop()
        return seconds
    finally:
        node.kill()


async def _rounds(few: Side, many: Side, settings: Settings) -> None:
    for clients in CLIENTS:
        for side in (few, many):
            await rate(NodeFlights(side.line), side.a.http, clients, settings.stored_seconds / 4)
        for _ in range(settings.rounds):
            for side in (few, many):
                await _messages(side, clients, settings.stored_seconds)
    for _ in range(settings.rounds):
        for side in (few, many):
            side.page_ms.append(await _page(side.b))


async def _messages(side: Side, clients: int, seconds: float) -> None:
    told, cpu = side.line.b_stream.told, _cpu_seconds(side)
    side.message_ms[clients].append(1000 / await rate(NodeFlights(side.line), side.a.http, clients, seconds))
    side.cpu_ms[clients].append((_cpu_seconds(side) - cpu) / (side.line.b_stream.told - told) * 1000)


def _cpu_seconds(side: Side) -> float:
    return cpu_seconds(side.a.process.pid) + cpu_seconds(side.b.process.pid)


async def _page(node: Node) -> float:
    """In ms, the median."""
    times = []
    async with RestClient(node.http) as rest:
        for _ in range(PAGES):
            start = time.perf_counter()
            await rest.get("/v1/messages?limit=100")
            times.append(time.perf_counter() - start)
    return median(times) * 1000


def _section(few: Side, many: Side) -> Section:
    section = Section(f"with {many.messages:,} stored messages (node) over {few.messages:,} (peer)")
    for clients in CLIENTS:
        name = "one at a time" if clients == 1 else f"{clients} clients"
        section.rows += [
            Row(
                f"time a message, {name}",
                "ms",
                many.message_ms[clients],
                few.message_ms[clients],
                target=FLAT,
            ),
            Row(
                f"CPU time a message, both nodes, {name}",
                "ms",
                many.cpu_ms[clients],
                few.cpu_ms[clients],
                target=FLAT,
            ),
        ]
    section.rows += [
        Row("GET /v1/messages?limit=100, p50", "ms", many.page_ms, few.page_ms, target=FLAT),
        Row("start to first answer", "s", many.start_seconds, few.start_seconds, target=FLAT),
    ]
    section.notes += [
        "time a message: closed loop, POST on A until B's websocket has shown it, time / messages; payments take 0 ms.",
        (
            f"each node's database has as many messages, and their attempts, HTLC keys, events and peers: {_megabytes(many)} MB "
            f"and {_megabytes(few)} MB."
        ),
    ]
    return section


def _megabytes(side: Side) -> str:
    return f"{worlds.sqlite_path(side.a).stat().st_size / 1e6:,.1f}"
