"""Where the node is measured: Lightning networks with two nodes side by side, and a bare client on each end."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.streams import Invoices, Stream
from lightning.simulator.control import SimulatorControl
from lightning.simulator.process import SimulatedNetwork
from tests.support.lnd_rpc import BareClient
from tests.support.networks import new_network
from tests.support.nodes import Node
from tests.support.real_lnd import RealNetwork

LATENCY_MS = 70
NAMES = ["alice", "bob"]


@dataclass(kw_only=True)
class Line:
    """Nodes A and B on two lnd nodes with a channel."""

    a: Node
    b: Node
    a_stream: Stream
    b_stream: Stream


@dataclass(kw_only=True)
class Pair(Line):
    """Beside them a bare client that pays from A's lnd to B's; on a simulated network, its control."""

    client: BareClient
    invoices: Invoices
    control: SimulatorControl | None


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
async def simulated(
    directory: Path, *, latency_ms: float = 0, names: Sequence[str] = NAMES
) -> AsyncIterator[SimulatedNetwork]:
    async with new_network(directory, list(names)) as network:
        await network.control.set_latency(latency_ms)
        yield network


@asynccontextmanager
async def line(a: Node, b: Node) -> AsyncIterator[Line]:
    async with running([a, b]), Stream(a.http) as a_stream, Stream(b.http) as b_stream:
        yield Line(a=a, b=b, a_stream=a_stream, b_stream=b_stream)


@asynccontextmanager
async def pair(directory: Path, kind: str) -> AsyncIterator[Pair]:
    """`kind`: "simulator" (its payments take LATENCY_MS) or "lnd"."""
    async with AsyncExitStack() as stack:
        if kind == "simulator":
            network = await stack.enter_async_context(simulated(directory / "net", latency_ms=LATENCY_MS))
        else:
            network = await stack.enter_async_context(RealNetwork(directory / "net", NAMES))
        alice, bob = (network.nodes[name] for name in NAMES)
        nodes = line(Node(alice, directory / "a"), Node(bob, directory / "b"))
        ends = await stack.enter_async_context(nodes)
        client = await stack.enter_async_context(BareClient(alice))
        invoices = await stack.enter_async_context(Invoices(await stack.enter_async_context(BareClient(bob))))
        yield Pair(
            **vars(ends),
            client=client,
            invoices=invoices,
            control=network.control if kind == "simulator" else None,
        )


def sqlite_path(node: Node) -> Path:
    return Path(node.database_url.removeprefix("sqlite:///"))


def lnd_on_path() -> bool:
    return bool(shutil.which("lnd") and shutil.which("btcd"))
