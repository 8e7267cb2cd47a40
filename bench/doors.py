"""Calls a second until the id is there, through REST and gRPC, over bare handlers and a plain DRF view."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import grpc

from bench.processes import Program, daphne
from bench.report import Row, Section, Target, plural
from bench.rest_client import RestClient, message_body
from bench.settings import Settings
from bench.worlds import LATENCY_MS, running, simulated
from lightning.simulator.control import SimulatorControl
from protos import messaging_pb2, messaging_pb2_grpc
from tests.support.nodes import Node

CLIENTS = (1, 16, 64)
BODY_BYTES = 120
CHANNELS = 4
DRAIN_SECONDS = 60
# Long enough for 64 payments to be under way, which is as many as a node has with one other.
FILL_SECONDS = 0.5

Rate = Callable[[int, float], Awaitable[float]]


async def measure(directory: Path, settings: Settings) -> AsyncIterator[Section]:
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(simulated(directory / "net", latency_ms=LATENCY_MS))
        node = Node(network.nodes["alice"], directory / "a")
        await stack.enter_async_context(running([node]))
        peers = "bench.peers"
        bare, _ = await stack.enter_async_context(
            daphne(
                f"{peers}.bare_asgi:application",
                directory / "asgi.log",
                BENCH_DATABASE=str(directory / "asgi.db"),
            )
        )
        drf, _ = await stack.enter_async_context(
            daphne(
                f"{peers}.plain_drf:application",
                directory / "drf.log",
                BENCH_DATABASE=str(directory / "drf.db"),
            )
        )
        bare_grpc = Program(
            f"{peers}.bare_grpc", directory / "grpc.log", BENCH_DATABASE=str(directory / "grpc.db")
        )
        await stack.enter_async_context(bare_grpc)
        grpc_address = f"127.0.0.1:{await bare_grpc.read()}"

        to = network.nodes["bob"].pubkey
        rate = RestRate(node.http, to)
        rest = {
            "node": Sending(node, rate),
            "held": Holding(node, rate, network.control),
            "bare": RestRate(bare, to),
            "drf": RestRate(drf, to),
        }
        yield await _rest(rest, settings)
        rate = GrpcRate(node.grpc, to)
        calls = {
            "node": Sending(node, rate),
            "held": Holding(node, rate, network.control),
            "bare": GrpcRate(grpc_address, to),
        }
        yield await _grpc(calls, settings)


async def _rest(ways: dict[str, Rate], settings: Settings) -> Section:
    section = Section("POST /v1/message/send until the id, calls a second")
    over_drf = []
    for clients in CLIENTS:
        rates = await _rounds(ways, clients, settings)
        section.rows += _over("a bare ASGI handler", clients, rates, rates["bare"])
        target = Target("≥", 6) if clients == 16 else None
        over_drf += _over("a plain DRF view", clients, rates, rates["drf"], target)
    section.rows += over_drf
    section.notes += [
        "all on Daphne, one committed insert a call (WAL, synchronous=FULL). sending: the node pays for what it took, on the",
        f"simulator ({LATENCY_MS} ms a payment, its CPU time on the same cores), while it takes more; held: the simulator holds",
        "all payments, so that only the door and its commits are at work, as with the peers; the target is for this. A round",
        "begins with nothing to send.",
    ]
    return section


async def _grpc(ways: dict[str, Rate], settings: Settings) -> Section:
    section = Section("gRPC SendMessage until the id, calls a second")
    for clients in CLIENTS:
        rates = await _rounds(ways, clients, settings)
        section.rows += _over("a bare grpc.aio handler", clients, rates, rates["bare"])
    return section


def _over(
    peer: str, clients: int, rates: dict[str, list[float]], peers: list[float], target: Target | None = None
) -> list[Row]:
    name = f"over {peer}, {plural(clients, 'client')}"
    return [
        Row(f"{name}, sending", "1/s", rates["node"], peers),
        Row(f"{name}, held", "1/s", rates["held"], peers, target=target),
    ]


async def _rounds(ways: dict[str, Rate], clients: int, settings: Settings) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        await way(clients, 0.2)
    for _ in range(settings.rounds):
        for name, way in ways.items():
            rates[name].append(await way(clients, settings.doors_seconds))
    return rates


class RestRate:
    def __init__(self, address: str, to: str):
        self._address, self._body = address, message_body(to, os.urandom(BODY_BYTES))

    async def __call__(self, clients: int, seconds: float) -> float:
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(RestClient(self._address)) for _ in range(clients)]
            calls = [lambda rest=rest: rest.post("/v1/message/send", self._body) for rest in connections]
            return await _rate(calls, seconds)


class GrpcRate:
    """Its clients share a few channels."""

    def __init__(self, address: str, to: str):
        self._address = address
        self._request = messaging_pb2.SendMessageRequest(msg=os.urandom(BODY_BYTES), pubkey=to)

    async def __call__(self, clients: int, seconds: float) -> float:
        async with AsyncExitStack() as stack:
            stubs = []
            for index in range(min(clients, CHANNELS)):
                options = (("grpc.use_local_subchannel_pool", 1), ("bench.channel", index))
                channel = grpc.aio.insecure_channel(self._address, options=options)
                stubs.append(messaging_pb2_grpc.MessagingStub(await stack.enter_async_context(channel)))
            calls = [
                partial(stubs[index % len(stubs)].SendMessage, self._request) for index in range(clients)
            ]
            return await _rate(calls, seconds)


class Sending:
    """A rate of the node while it also sends; ends when all is sent."""

    def __init__(self, node: Node, rate: Rate):
        self._node, self._rate = node, rate

    async def __call__(self, clients: int, seconds: float) -> float:
        rate = await self._rate(clients, seconds)
        await self._drain()
        return rate

    async def _drain(self) -> None:
        end = time.monotonic() + DRAIN_SECONDS
        async with RestClient(self._node.http) as rest:
            for state in ("queued", "in_flight", "retrying"):
                while json.loads(await rest.get(f"/v1/messages?state={state}&limit=1"))["messages"]:
                    if time.monotonic() > end:
                        raise RuntimeError(f"the node still has messages {state} after {DRAIN_SECONDS} s")
                    await asyncio.sleep(0.1)


class Holding(Sending):
    """A rate of the node while its payments are held."""

    def __init__(self, node: Node, rate: Rate, control: SimulatorControl):
        super().__init__(node, rate)
        self._control = control

    async def __call__(self, clients: int, seconds: float) -> float:
        await self._control.hold()
        try:
            await self._rate(clients, FILL_SECONDS)
            rate = await self._rate(clients, seconds)
        finally:
            await self._control.release()
        await self._drain()
        return rate


async def _rate(calls: list[Callable[[], Awaitable]], seconds: float) -> float:
    """One closed loop for each of `calls`."""
    start = time.perf_counter()
    end = start + seconds

    async def loop(call) -> int:
        count = 0
        while time.perf_counter() < end:
            await call()
            count += 1
        return count

    counts = await asyncio.gather(*map(loop, calls))
    return sum(counts) / (time.perf_counter() - start)
