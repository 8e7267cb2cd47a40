"""Where the node is measured: Lightning networks with two nodes side by side, and a bare client on each end."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.streams import Invoices, Stream
from lightning.simulator.process import SimulatedNetwork
from tests.support.lnd_rpc import BareClient
from tests.support.nodes import Node
from tests.support.real_lnd import RealNetwork

LATENCY_MS = 70
NAMES = ["alice", "bob"]


@dataclass(kw_only=True)
class Pair:
    """Nodes A and B on two lnd nodes with a channel; beside them a bare client that pays from A's lnd to B's."""

    a: Node
    b: Node
    a_stream: Stream
    b_stream: Stream
    client: BareClient
    invoices: Invoices


@asynccontextmanager
async def running(nodes: Iterable[Node]) -> AsyncIterator[None]:
    nodes = list(nodes)
    try:
        for node in nodes:
            await asyncio.to_thread(node.start)
        yield
    finally:
        for node in nodes:
            if node.process:
                node.kill()


@asynccontextmanager
async def simulated(directory: Path, *, latency_ms: float = 0) -> AsyncIterator[SimulatedNetwork]:
    async with SimulatedNetwork(directory, NAMES) as network:
        await network.control.set_latency(latency_ms)
        yield network


@asynccontextmanager
async def pair(directory: Path, kind: str) -> AsyncIterator[Pair]:
    """`kind`: "simulator" (its payments take LATENCY_MS) or "lnd"."""
    async with AsyncExitStack() as stack:
        if kind == "simulator":
            network = await stack.enter_async_context(simulated(directory / "net", latency_ms=LATENCY_MS))
        else:
            network = await stack.enter_async_context(RealNetwork(directory / "net", NAMES))
        alice, bob = (network.nodes[name] for name in NAMES)
        a, b = Node(alice, directory / "a"), Node(bob, directory / "b")
        await stack.enter_async_context(running([a, b]))
        client = await stack.enter_async_context(BareClient(alice))
        invoices = await stack.enter_async_context(Invoices(await stack.enter_async_context(BareClient(bob))))
        yield Pair(
            a=a,
            b=b,
            a_stream=await stack.enter_async_context(Stream(a.http)),
            b_stream=await stack.enter_async_context(Stream(b.http)),
            client=client,
            invoices=invoices,
        )


def lnd_on_path() -> bool:
    return bool(shutil.which("lnd") and shutil.which("btcd"))
