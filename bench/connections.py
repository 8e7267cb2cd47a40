"""What connections cost that ask for nothing, and whether others are served beside them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from bench.machine import rss_kb
from bench.processes import Program
from bench.report import Row, Section
from bench.settings import Settings
from bench.worlds import simulated
from tests.support.certificates import self_signed
from tests.support.nodes import Node

CALM_SECONDS = 2.0
REQUESTS = 100
HALF_A_HEADER = "GET /v1/node HTTP/1.1\r\nHost: localhost\r\nX-Long: "


async def measure(directory: Path, settings: Settings) -> AsyncIterator[Section]:
    count = settings.idle_connections
    async with simulated(directory / "net") as network:
        lnd = network.nodes["alice"]
        yield await _flood("HTTP", Node(lnd, directory / "plain"), count, {})
        yield await _flood(
            "HTTP, in the middle of a header", Node(lnd, directory / "half"), count, {"send": HALF_A_HEADER}
        )
        server = self_signed(directory / "pair")
        over_tls = Node(
            lnd, directory / "tls", extra={"server": server}, tls_cert=directory / "pair" / "server.cert"
        )
        yield await _flood("HTTP over TLS", over_tls, count, {"tls": True})


async def _flood(what: str, node: Node, count: int, question: dict) -> Section:
    async with AsyncExitStack() as stack:
        stack.callback(lambda: node.process and node.kill())
        await asyncio.to_thread(node.start)
        alone = await asyncio.to_thread(_seconds_of_requests, node)
        await asyncio.sleep(CALM_SECONDS)
        empty_kb, files = rss_kb(node.process.pid), _descriptors(node)
        clients = await stack.enter_async_context(
            Program("bench.idle_clients", node.directory / "clients.log")
        )
        opened = await clients.ask(connect=count, port=node.http_port, **question)
        beside = await asyncio.to_thread(_seconds_of_requests, node)
        full_kb, most_files = rss_kb(node.process.pid), _descriptors(node)
        alive = (await clients.ask(alive=True))["alive"]
    section = Section(f"{count:,} connections that ask for nothing: {what}")
    section.rows = [
        Row("a connection", "kB", [(full_kb - empty_kb) / max(most_files - files, 1)]),
        Row("connections opened", "1/s", [count / opened["seconds"]]),
        Row(
            "GET /v1/node beside them (peer: without), p50",
            "ms",
            [1000 * median(beside)],
            [1000 * median(alone)],
        ),
    ]
    section.notes.append(
        f"{alive:,} open at the end (idle ones are closed after 60 s, half a header after 30 s); file descriptors of the node: "
        f"{files:,} before, {most_files:,} with them; each GET over a connection of its own"
    )
    return section


def _seconds_of_requests(node: Node) -> list[float]:
    times = []
    for _ in range(REQUESTS):
        start = time.perf_counter()
        assert node.get("/v1/node").status == 200
        times.append(time.perf_counter() - start)
    return times


def _descriptors(node: Node) -> int:
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))
