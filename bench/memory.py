"""Memory of the idle node and of its websocket clients, and how soon it answers after its start."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

from bench.machine import node_python, rss_kb
from bench.processes import Program, daphne
from bench.report import Row, Section, Target
from bench.rest_client import RestClient, message_body
from bench.settings import Settings
from bench.worlds import simulated
from tests.support.nodes import Node

CALM_SECONDS = 2.0
START_SECONDS = 60


async def measure(directory: Path, settings: Settings) -> AsyncIterator[Section]:
    async with simulated(directory / "net") as network:
        yield await _starts(directory, network.nodes["alice"], settings)
        yield await _clients(directory, network.nodes["bob"], settings)


async def _starts(directory: Path, lnd, settings: Settings) -> Section:
    first, again, peer, idle, peer_idle = [], [], [], [], []
    for index in range(settings.starts):
        node = Node(lnd, directory / f"start-{index}", python=node_python())
        for times in (first, again):
            try:
                times.append(await start_node(node))
                if times is again:
                    await asyncio.sleep(CALM_SECONDS)
                    idle.append(rss_kb(node.process.pid) / 1000)
                node.stop()
            finally:
                node.kill()
        seconds, megabytes = await _start_peer(directory, index)
        peer.append(seconds)
        peer_idle.append(megabytes)
    section = Section("start and idle memory")
    section.rows = [
        Row("start to first answer, new database", "s", first, peer),
        Row("start to first answer, again", "s", again, peer, target=Target("≤", 1.2)),
        Row("start to first answer, again", "s", again, kind="value", target=Target("≤", 2)),
        Row("idle memory (RSS)", "MB", idle, peer_idle),
        Row("idle memory (RSS)", "MB", idle, kind="value", target=Target("≤", 120)),
    ]
    section.notes.append(
        "first answer: GET /v1/node is 200; peer: the plain DRF view on Daphne, its first POST answered. Both in the node's own "
        "environment, without the tools of tests and the driver of PostgreSQL."
    )
    return section


async def start_node(node: Node) -> float:
    """Seconds until its first answer."""
    start = time.perf_counter()
    node.launch()
    await _until_answers(node.http, lambda rest: rest.get("/v1/node"))
    return time.perf_counter() - start


async def _start_peer(directory: Path, index: int) -> tuple[float, float]:
    start = time.perf_counter()
    database = str(directory / f"drf-{index}.db")
    async with daphne(
        "bench.peers.plain_drf:application", directory / "drf.log", node_python(), BENCH_DATABASE=database
    ) as (address, pid):
        await _until_answers(
            address, lambda rest: rest.post("/v1/message/send", message_body("02" * 33, b"x"))
        )
        seconds = time.perf_counter() - start
        await asyncio.sleep(CALM_SECONDS)
        return seconds, rss_kb(pid) / 1000


async def _until_answers(address: str, ask) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            async with RestClient(address) as rest:
                await ask(rest)
                return
        except (OSError, ValueError, asyncio.IncompleteReadError):
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.01)


async def _clients(directory: Path, lnd, settings: Settings) -> Section:
    node_kb: dict[int, list[float]] = {count: [] for count in settings.memory_clients}
    daphne_kb: dict[int, list[float]] = {count: [] for count in settings.memory_clients}
    for index in range(settings.memory_rounds):
        async with AsyncExitStack() as stack:
            node = Node(lnd, directory / f"clients-{index}")
            stack.callback(lambda node=node: node.process and node.kill())
            await asyncio.to_thread(node.start)
            await _fill(node.http_port, "/v1/subscribe", node.process.pid, node_kb, directory)
        async with daphne("bench.peers.group_send:application", directory / "group.log") as (address, pid):
            await _fill(int(address.rpartition(":")[2]), "/", pid, daphne_kb, directory)
    section = Section("memory of websocket clients")
    for count in settings.memory_clients:
        ours, theirs = node_kb[count], daphne_kb[count]
        section.rows.append(Row(f"a client, with {count:,} idle ones", "kB", ours, theirs))
        section.rows.append(
            Row(f"a client, with {count:,} idle ones", "kB", ours, kind="value", target=Target("≤", 35))
        )
    section.notes.append(
        "peer: one Channels consumer a client, on Daphne. Resident memory only; kernel buffers are not in it."
    )
    return section


async def _fill(port: int, path: str, pid: int, kilobytes: dict[int, list[float]], directory: Path) -> None:
    await asyncio.sleep(CALM_SECONDS)
    empty, connected = rss_kb(pid), 0
    async with Program("bench.websocket_clients", directory / "clients.log") as clients:
        for count, rounds in kilobytes.items():
            await clients.ask(connect=count - connected, host="127.0.0.1", port=port, path=path)
            connected = count
            await asyncio.sleep(CALM_SECONDS / 2)
            rounds.append((rss_kb(pid) - empty) / count)
