"""How soon a node has what came while it was down, over a bare client's walk through the same invoices."""

import asyncio
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

from bench import worlds
from bench.events import Producer
from bench.memory import start_node
from bench.report import Row, Section
from bench.settings import Settings
from protos.lnrpc import lightning_pb2
from tests.support.lnd_rpc import BareClient
from tests.support.nodes import Node

PAGE = 1_000
GUARD_SECONDS = 600


async def measure(directory: Path, settings: Settings) -> AsyncIterator[Section]:
    async with worlds.simulated(directory / "net") as network:
        node = Node(network.nodes["bob"], directory / "b")
        await asyncio.to_thread(node.start)
        node.stop()
        before = directory / "before.sqlite3"
        shutil.copyfile(worlds.sqlite_path(node), before)
        started, caught_up, paged = [], [], []
        for _ in range(settings.rounds):
            started.append(await _start(node, lambda: start_node(node)))
        async with BareClient(network.nodes["alice"]) as sender, BareClient(network.nodes["bob"]) as receiver:
            producer = Producer(sender, node.pubkey, per_record=1)
            await producer.send(await producer.prepare(settings.catchup_messages))
            for _ in range(settings.rounds):
                _put_back(before, node)
                caught_up.append(
                    await _start(node, lambda: _until_caught_up(node, settings.catchup_messages))
                )
                paged.append(await _page_through(receiver, settings.catchup_messages))
    yield _section(settings.catchup_messages, caught_up, paged, started)


def _put_back(before: Path, node: Node) -> None:
    database = worlds.sqlite_path(node)
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink()
    shutil.copyfile(before, database)


async def _start(node: Node, run) -> float:
    try:
        seconds = await run()
        node.stop()
        return seconds
    finally:
        node.kill()


async def _until_caught_up(node: Node, messages: int) -> float:
    """Seconds from the start of its process until so many events are in its log."""
    start = time.perf_counter()
    node.launch()
    with closing(sqlite3.connect(f"file:{worlds.sqlite_path(node)}?mode=ro", uri=True)) as database:
        while (database.execute("SELECT max(seq) FROM messaging_event").fetchone()[0] or 0) < messages:
            if node.process.poll() is not None or time.perf_counter() - start > GUARD_SECONDS:
                raise RuntimeError(f"the node did not catch up: {node.log[-2000:]}")
            await asyncio.sleep(0.01)
    return time.perf_counter() - start


async def _page_through(client: BareClient, messages: int) -> float:
    start, found, offset = time.perf_counter(), 0, 0
    while True:
        request = lightning_pb2.ListInvoiceRequest(index_offset=offset, num_max_invoices=PAGE)
        page = await client.lightning.ListInvoices(request)
        if not page.invoices:
            break
        found, offset = found + len(page.invoices), page.last_index_offset
    if found < messages:
        raise RuntimeError(f"lnd has {found} invoices, not {messages}")
    return time.perf_counter() - start


def _section(messages: int, caught_up: list[float], paged: list[float], started: list[float]) -> Section:
    walked = [total - start for total, start in zip(caught_up, started, strict=True)]
    section = Section(f"catching up with {messages:,} messages that came while the node was down")
    section.rows = [
        Row("process start → the last is in the event log", "s", caught_up, paged),
        Row("the same without the start of a node", "s", walked, paged),
        Row(
            "messages a second, without the start",
            "1/s",
            [messages / seconds for seconds in walked],
            kind="value",
        ),
        Row("start of a node that has missed nothing", "s", started, kind="value"),
    ]
    section.notes.append(
        f"one message a payment, on the simulator; peer: a bare grpc.aio client that pages through ListInvoices of the same "
        f"lnd, {PAGE:,} at a time, and does nothing with them."
    )
    return section
