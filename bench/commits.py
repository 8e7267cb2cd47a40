"""What it costs that a commit waits for the disk (synchronous=FULL), over commits that do not (NORMAL)."""

import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

from bench import worlds
from bench.flights import NodeFlights
from bench.report import Row, Section
from bench.settings import Settings
from bench.throughput import rate
from tests.support.nodes import Node

IN_FLIGHT = (1, 16, 64)
ROW_BYTES = 100
NAMES = ("alice", "bob", "carol", "dave")
NORMAL = {"DJANGO_SETTINGS_MODULE": "bench.peers.normal_settings"}


async def measure(directory: Path, settings: Settings) -> AsyncIterator[Section]:
    section = Section("synchronous=FULL (node) over NORMAL (peer), a second")
    full, normal = [], []
    for index in range(settings.rounds):
        for mode, rates in (("FULL", full), ("NORMAL", normal)):
            rates.append(_commits(directory / f"{mode}-{index}.sqlite3", mode, settings.commits_seconds))
    section.rows.append(Row("commits of one small row, plain sqlite3", "1/s", full, normal))
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(worlds.simulated(directory / "net", names=NAMES))
        lines = []
        for names, environ in ((NAMES[:2], {}), (NAMES[2:], NORMAL)):
            a, b = (Node(network.nodes[name], directory / name, environ=environ) for name in names)
            lines.append(await stack.enter_async_context(worlds.line(a, b)))
        for line in lines:
            await rate(NodeFlights(line), line.a.http, IN_FLIGHT[-1], settings.commits_seconds / 4)
        for in_flight in IN_FLIGHT:
            full, normal = [], []
            for _ in range(settings.rounds):
                for line, rates in zip(lines, (full, normal), strict=True):
                    rates.append(
                        await rate(NodeFlights(line), line.a.http, in_flight, settings.commits_seconds)
                    )
            section.rows.append(Row(f"messages end to end, {in_flight} in flight", "1/s", full, normal))
    section.notes.append(
        "messages: closed loop as for messages a second, on the simulator, whose payments take 0 ms."
    )
    yield section


def _commits(path: Path, mode: str, seconds: float) -> float:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(f"PRAGMA synchronous={mode}")
        database.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, body BLOB)")
        count, start, body = 0, time.perf_counter(), os.urandom(ROW_BYTES)
        while time.perf_counter() - start < seconds:
            database.execute("INSERT INTO row (body) VALUES (?)", (body,))
            count += 1
        return count / (time.perf_counter() - start)
