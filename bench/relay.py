"""The socket service's UDP relay: datagrams a second and delay, over a bare asyncio relay."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from bench.processes import Program
from bench.report import Row, Section, Target
from bench.rest_client import RestClient
from bench.settings import Settings
from bench.worlds import running, simulated
from tests.support.nodes import Node

SIZES = (100, 1_200)
# On their way at once while the rate is measured: enough to keep a relay busy, few enough for a socket's buffer.
WINDOW = 64
LOST_SECONDS = 1.0
TURNS = 50
RATE, P50, P99, LOST = "rate", "p50", "p99", "lost"


class Clients:
    """Two clients, on a relay's two ports, in one thread."""

    def __init__(self, ports: tuple[int, int]):
        self._near, self._far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in ports)
        for client, port in zip((self._near, self._far), ports, strict=True):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
            client.connect(("127.0.0.1", port))
            client.settimeout(LOST_SECONDS)
        self._buffer = bytearray(65_536)
        self._introduce()

    def _introduce(self) -> None:
        """Until both are remembered and what that took has arrived."""
        self._far.send(b"here")
        for listener, speaker in ((self._far, self._near), (self._near, self._far)):
            while True:
                speaker.send(b"here")
                try:
                    listener.recv_into(self._buffer)
                    break
                except TimeoutError:
                    continue
        self._near.settimeout(0.2)
        self._far.settimeout(0.2)
        for client in (self._near, self._far):
            try:
                while True:
                    client.recv_into(self._buffer)
            except TimeoutError:
                client.settimeout(LOST_SECONDS)

    def rate(self, size: int, seconds: float) -> tuple[float, int]:
        """Datagrams a second that arrive, and how many were lost."""
        datagram, send, hear = bytes(size), self._near.send, self._far.recv_into
        lost = arrived = 0
        start = time.perf_counter()
        for _ in range(WINDOW):
            send(datagram)
        while time.perf_counter() - start < seconds:
            try:
                hear(self._buffer)
                arrived += 1
            except TimeoutError:
                lost += WINDOW
                for _ in range(WINDOW - 1):
                    send(datagram)
            send(datagram)
        passed = arrived / (time.perf_counter() - start)
        self._drain()
        return passed, lost

    def _drain(self) -> None:
        for _ in range(WINDOW):
            try:
                self._far.recv_into(self._buffer)
            except TimeoutError:
                return

    def delays_us(self, size: int, count: int) -> list[float]:
        """One at a time: from before it is sent until it is there."""
        datagram, delays = bytes(size), []
        for _ in range(count):
            start = time.perf_counter()
            self._near.send(datagram)
            self._far.recv_into(self._buffer)
            delays.append((time.perf_counter() - start) * 1e6)
        return delays

    def close(self) -> None:
        self._near.close()
        self._far.close()


@dataclass
class Side:
    clients: Clients
    figures: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def note(self, name: str, size: int, value: float) -> None:
        self.figures.setdefault((name, size), []).append(value)


def measure_round(sides: list[Side], settings: Settings) -> None:
    """The sides take turns, for the delay in short ones: what else happens on the machine makes a p99."""
    for size in SIZES:
        for side in sides:
            rate, lost = side.clients.rate(size, settings.relay_seconds)
            side.note(RATE, size, rate)
            side.note(LOST, size, lost)
        delays: list[list[float]] = [[] for _ in sides]
        for _ in range(TURNS):
            for side, so_far in zip(sides, delays, strict=True):
                so_far.extend(side.clients.delays_us(size, settings.relay_delays // TURNS))
        for side, all_of_it in zip(sides, delays, strict=True):
            cuts = quantiles(all_of_it, n=100, method="inclusive")
            side.note(P50, size, cuts[49])
            side.note(P99, size, cuts[98])


async def measure(directory: Path, settings: Settings) -> AsyncIterator[Section]:
    async with AsyncExitStack() as stack:
        ports = {"node": await _node(directory, stack), "bare": await _bare(directory, stack)}
        sides = {name: Side(await asyncio.to_thread(Clients, two)) for name, two in ports.items()}
        for side in sides.values():
            stack.callback(side.clients.close)
        for _ in range(settings.rounds):
            await asyncio.to_thread(measure_round, list(sides.values()), settings)
        yield _section(sides, settings)


async def _node(directory: Path, stack: AsyncExitStack) -> tuple[int, int]:
    network = await stack.enter_async_context(simulated(directory / "net"))
    node = Node(network.nodes["alice"], directory / "a")
    await stack.enter_async_context(running([node]))
    async with RestClient(node.http) as rest:
        told = json.loads(await rest.post("/v1/socket/start", b""))
    return int(told["port1"][1:]), int(told["port2"][1:])


async def _bare(directory: Path, stack: AsyncExitStack) -> tuple[int, int]:
    program = await stack.enter_async_context(Program("bench.peers.bare_relay", directory / "bare.log"))
    first, second = (await program.read()).split()
    return int(first), int(second)


def _section(sides: dict[str, Side], settings: Settings) -> Section:
    section = Section("datagrams through the relay of the socket service")
    node, bare = sides["node"].figures, sides["bare"].figures
    for size in SIZES:
        key, name = (RATE, size), f"{size:,} bytes, {WINDOW} on their way"
        section.rows.append(Row(name, "1/s", node[key], bare[key], target=Target("≥", 0.8)))
    for size in SIZES:
        for name in (P50, P99):
            key = (name, size)
            row = Row(f"{size:,} bytes, delay, {name}", "µs", node[key], bare[key], target=Target("≤", 1.25))
            section.rows.append(row)
    lost = {name: sum(sum(side.figures[LOST, size]) for size in SIZES) for name, side in sides.items()}
    section.notes.append(
        f"over a bare asyncio relay (two DatagramProtocols); {settings.relay_delays:,} datagrams a round for the "
        f"delay, one at a time, both clients in one thread. Lost: node {lost['node']:,.0f}, bare {lost['bare']:,.0f}."
    )
    return section
