"""Messages a second end to end, with 1, 16 and 64 in flight, over bare keysends at the same concurrency."""

import asyncio
import time
from contextlib import AsyncExitStack

from bench.flights import BareFlights, NodeFlights
from bench.report import Row, Section, Target
from bench.rest_client import RestClient
from bench.settings import Settings
from bench.worlds import LATENCY_MS, Pair

IN_FLIGHT = (1, 16, 64)


async def measure(pair: Pair, kind: str, settings: Settings) -> Section:
    simulated = kind == "simulator"
    where = f"on the simulator (payments take {LATENCY_MS} ms)" if simulated else "on a real lnd pair"
    section = Section(f"messages a second {where}")
    for in_flight in IN_FLIGHT:
        node, bare = [], []
        for _ in range(settings.rounds):
            for way, rates in ((NodeFlights(pair), node), (BareFlights(pair), bare)):
                rates.append(await rate(way, pair.a.http, in_flight, settings.throughput_seconds))
        target = None if simulated else Target("≥", 0.9)
        section.rows.append(Row(f"{in_flight} in flight", "1/s", node, bare, target=target))
    section.notes.append(
        "closed loop: each worker posts its next message when B's websocket has shown the last (peer: when it is settled and "
        "lnd B has told the invoice). The node joins messages that wait at the same time in one payment; the peer pays for each."
    )
    return section


async def rate(way, address: str, workers: int, seconds: float) -> float:
    """Flights a second of so many workers, each in a closed loop over a connection of its own to the node there."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(RestClient(address)) for _ in range(workers)]
        start = time.perf_counter()
        counts = await asyncio.gather(*(_worker(way, rest, start + seconds) for rest in connections))
        flights_a_second = sum(counts) / (time.perf_counter() - start)
    await asyncio.sleep(0.3)  # the last of it settles
    return flights_a_second


async def _worker(way, rest: RestClient, end: float) -> int:
    count = 0
    while time.perf_counter() < end:
        await way.fly(rest, until_settled=False)
        count += 1
    return count
