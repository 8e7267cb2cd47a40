"""Deliveries a second to many websocket clients: events that arrive at the node over Lightning, over a bare broadcaster and
over one Channels consumer a client.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.events import BODY_BYTES, Producer
from bench.processes import Program, daphne
from bench.report import Row, Section, Target, plural
from bench.rest_client import RestClient
from bench.settings import Settings
from bench.worlds import running, simulated
from tests.support.lnd_rpc import BareClient
from tests.support.nodes import Node

MOST_EVENTS = 2_000
QUIET_SECONDS = 5.0
DATA_CHARACTERS = (BODY_BYTES + 2) // 3 * 4
# One-consumer-per-client stands still for minutes with more.
MOST_CONSUMERS = 1_000


@dataclass
class Side:
    """A server, and the process with its clients."""

    clients: Program
    host: str
    port: int
    path: str
    prepare: Callable[[int], Awaitable[object]]
    produce: Callable[[object], Awaitable[None]]
    connected: int = 0
    rates: list[float] = field(default_factory=list)
    lost: int = 0
    expected: int = 0

    async def connect(self, count: int) -> None:
        if count > self.connected:
            more = count - self.connected
            await self.clients.ask(connect=more, host=self.host, port=self.port, path=self.path)
            self.connected = count

    async def measure(self, events: int) -> None:
        prepared = await self.prepare(events)
        await self.clients.ask(expect=events, clients=self.connected, quiet=QUIET_SECONDS)
        start = time.monotonic()
        await self.produce(prepared)
        outcome = await self.clients.result()
        self.rates.append(outcome["received"] / max(outcome["last"] - start, 1e-6))
        self.lost += outcome["lost"]
        self.expected += events * self.connected

    def begin(self) -> None:
        self.rates, self.lost, self.expected = [], 0, 0


async def measure(directory: Path, settings: Settings) -> AsyncIterator[Section]:
    async with AsyncExitStack() as stack:
        sides = {
            "node": await _node(directory, stack),
            "websockets": await _broadcaster(directory, stack),
            "group_send": await _group_send(directory, stack),
        }
        yield await _compare(sides, settings)


async def _compare(sides: dict[str, Side], settings: Settings) -> Section:
    section = Section("deliveries a second to websocket clients")
    over_group_send, losses = [], []
    for clients in settings.fanout_clients:
        taking_part = {
            name: side for name, side in sides.items() if name != "group_send" or clients <= MOST_CONSUMERS
        }
        events = min(MOST_EVENTS, max(settings.fanout_least_events, settings.fanout_deliveries // clients))
        for side in taking_part.values():
            side.begin()
            await side.connect(clients)
        for _ in range(settings.rounds):
            for side in taking_part.values():
                await side.measure(events)
        node, name = taking_part["node"], f"{plural(clients, 'client')}, {events:,} events"
        section.rows.append(
            Row(f"over websockets.broadcast, {name}", "1/s", node.rates, sides["websockets"].rates)
        )
        if "group_send" in taking_part:
            target = Target("≥", 8) if clients == 1_000 else None
            rates = sides["group_send"].rates
            over_group_send.append(Row(f"over group_send, {name}", "1/s", node.rates, rates, target=target))
        losses += [
            f"{name} clients={clients:,}: {side.lost:,} of {side.expected:,}"
            for name, side in taking_part.items()
        ]
    section.rows += over_group_send
    if settings.fanout_clients[-1] > MOST_CONSUMERS:
        section.notes.append(
            f"group_send is not measured beyond {MOST_CONSUMERS:,} clients: it takes minutes there."
        )
    section.notes.append(
        "deliveries that arrived / time from the first event's making to the last delivery; lost:"
    )
    section.notes += losses
    return section


async def _clients(directory: Path, stack: AsyncExitStack) -> Program:
    return await stack.enter_async_context(Program("bench.websocket_clients", directory / "clients.log"))


async def _node(directory: Path, stack: AsyncExitStack) -> Side:
    network = await stack.enter_async_context(simulated(directory / "net"))
    node = Node(network.nodes["bob"], directory / "b")
    await stack.enter_async_context(running([node]))
    client = await stack.enter_async_context(BareClient(network.nodes["alice"]))
    producer = Producer(client, node.pubkey)
    return Side(
        await _clients(directory, stack),
        "127.0.0.1",
        node.http_port,
        "/v1/subscribe",
        producer.prepare,
        producer.send,
    )


async def _broadcaster(directory: Path, stack: AsyncExitStack) -> Side:
    program = await stack.enter_async_context(
        Program("bench.peers.broadcaster", directory / "broadcaster.log")
    )
    port = int(await program.read())

    async def prepare(events: int) -> str:
        return f"{events} {DATA_CHARACTERS}"

    return Side(await _clients(directory, stack), "127.0.0.1", port, "/", prepare, program.write)


async def _group_send(directory: Path, stack: AsyncExitStack) -> Side:
    address, _ = await stack.enter_async_context(
        daphne("bench.peers.group_send:application", directory / "group.log")
    )

    async def prepare(events: int) -> str:
        return f"/go?count={events}&size={DATA_CHARACTERS}"

    async def produce(path: str) -> None:
        async with RestClient(address) as rest:
            await rest.post(path, b"")

    host, _, port = address.rpartition(":")
    return Side(await _clients(directory, stack), host, int(port), "/", prepare, produce)
