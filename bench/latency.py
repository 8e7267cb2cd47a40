"""End to end: REST POST on A until the websocket frame on B, one message at a time, over bare keysends."""

from statistics import quantiles

from bench.flights import BareFlights, Flight, NodeFlights
from bench.report import Row, Section, Target
from bench.rest_client import RestClient
from bench.settings import Settings
from bench.worlds import LATENCY_MS, Pair

WARM_UP = 10


async def measure(pair: Pair, kind: str, settings: Settings) -> Section:
    node, bare = [], []
    async with RestClient(pair.a.http) as rest:
        ways = ((NodeFlights(pair), node), (BareFlights(pair), bare))
        for way, _ in ways:
            await _flights(way, rest, WARM_UP)
        for _ in range(settings.rounds):
            for way, rounds in ways:
                rounds.append(await _flights(way, rest, settings.latency_messages))
    return _section(kind, node, bare, settings)


async def _flights(way, rest: RestClient, count: int) -> list[Flight]:
    return [await way.fly(rest, until_settled=True) for _ in range(count)]


def _section(kind: str, node: list[list[Flight]], bare: list[list[Flight]], settings: Settings) -> Section:
    simulated = kind == "simulator"
    title = (
        f"end to end on the simulator (payments take {LATENCY_MS} ms)"
        if simulated
        else "end to end on a real lnd pair"
    )
    section = Section(f"{title}, one message at a time")
    limits = {50: 1.06, 99: 1.2}
    for percent, limit in limits.items():
        ours, theirs = ([_percentile([f.arrived for f in r], percent) for r in side] for side in (node, bare))
        name = f"POST on A → frame on B, p{percent}"
        if simulated:
            section.rows.append(Row(name, "ms", ours, theirs, kind="more", target=Target("≤", 5)))
        else:
            section.rows.append(Row(name, "ms", ours, theirs, target=Target("≤", limit)))
    for percent in limits:
        ours, theirs = ([_percentile([f.settled for f in r], percent) for r in side] for side in (node, bare))
        section.rows.append(
            Row(
                f"until the sender knows, p{percent}",
                "ms",
                ours,
                theirs,
                kind="more" if simulated else "ratio",
            )
        )
    answered = [_percentile([f.answered for f in r], 50) for r in node]
    section.rows.append(Row("of which POST → id, p50", "ms", answered, kind="value"))
    section.notes.append(
        f"{settings.latency_messages} messages a round and side; peer: SendPaymentV2 by a bare grpc.aio client until lnd B's "
        "invoice stream tells it, a record of the same size."
    )
    return section


def _percentile(seconds: list[float], percent: int) -> float:
    """In ms."""
    return quantiles(seconds, n=100, method="inclusive")[percent - 1] * 1000
