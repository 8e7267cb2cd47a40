"""How fast one websocket client is told the whole event log, over a bare server that has the frames in memory, and over a
bare reader of the same rows.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

from bench import worlds
from bench.filling import BODY_BYTES, fill_received
from bench.processes import Program
from bench.report import Row, Section
from bench.settings import Settings
from tests.support.nodes import Node

QUIET_SECONDS = 10.0
DATA_CHARACTERS = (BODY_BYTES + 2) // 3 * 4


async def measure(directory: Path, settings: Settings) -> AsyncIterator[Section]:
    events = settings.replay_events
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(worlds.simulated(directory / "net"))
        node = Node(network.nodes["bob"], directory / "b")
        await asyncio.to_thread(node.start)
        node.stop()
        await asyncio.to_thread(fill_received, worlds.sqlite_path(node), messages=events)
        await stack.enter_async_context(worlds.running([node]))
        replayer = Program(
            "bench.peers.replayer", directory / "replayer.log", BENCH_EVENTS=f"{events} {DATA_CHARACTERS}"
        )
        await stack.enter_async_context(replayer)
        port = int(await replayer.read())
        told, sent, read = [], [], []
        for _ in range(settings.rounds):
            told.append(await _rate(directory, node.http_port, "/v1/subscribe?after=0", events))
            sent.append(await _rate(directory, port, "/", events))
            read.append(await asyncio.to_thread(_read_rate, worlds.sqlite_path(node), events))
    section = Section(f"replay of {events:,} events to one websocket client, events a second")
    section.rows = [
        Row("over a websockets server, frames in memory", "1/s", told, sent),
        Row("over sqlite3, the same rows", "1/s", told, read),
    ]
    section.notes.append(
        "from the connection until the last event; the client counts, and reads none of them."
    )
    yield section


async def _rate(directory: Path, port: int, path: str, events: int) -> float:
    async with Program("bench.websocket_clients", directory / "clients.log") as clients:
        start = time.monotonic()
        await clients.ask(connect=1, host="127.0.0.1", port=port, path=path)
        await clients.ask(expect=events, clients=1, quiet=QUIET_SECONDS, all=True)
        outcome = await clients.result()
    if outcome["lost"]:
        raise RuntimeError(f"{outcome['lost']} of {events} events did not come")
    return events / (outcome["last"] - start)


def _read_rate(path: Path, events: int) -> float:
    start = time.perf_counter()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT * FROM messaging_event ORDER BY seq").fetchall()
    if len(rows) != events:
        raise RuntimeError(f"{len(rows)} events are stored, not {events}")
    return events / (time.perf_counter() - start)
