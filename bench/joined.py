"""Small messages under load to one node, over bare keysends on the same lnd: what joining gains, and what it costs a message
that is alone.
"""

from statistics import median

from bench.flights import BARE_HEAD_BYTES, BareFlights, NodeFlights
from bench.report import Row, Section, Target
from bench.rest_client import RestClient
from bench.settings import Settings
from bench.throughput import rate
from bench.worlds import LATENCY_MS, Pair

CLIENTS = 300
BARE_IN_FLIGHT = 64
BODY_BYTES = 100
# What a pair of lnd nodes does on its own on a common machine.
PAYMENTS_PER_SECOND = 130
WARM_UP_SECONDS = 1.0


async def measure(pair: Pair, kind: str, settings: Settings) -> Section:
    if pair.control is None:
        return await _compare(pair, "on a real lnd pair", settings)
    await pair.control.set_rate(PAYMENTS_PER_SECOND)
    try:
        held_to = f"on the simulator, held to {PAYMENTS_PER_SECOND} payments a second of {LATENCY_MS} ms"
        return await _compare(pair, held_to, settings)
    finally:
        await pair.control.set_rate(0)


async def _compare(pair: Pair, where: str, settings: Settings) -> Section:
    ours = NodeFlights(pair, body_bytes=BODY_BYTES)
    theirs = BareFlights(pair, record_bytes=BARE_HEAD_BYTES + BODY_BYTES)
    messages, payments, per_payment, alone, bare_alone = [], [], [], [], []
    await rate(ours, pair.a.http, CLIENTS, WARM_UP_SECONDS)
    for _ in range(settings.rounds):
        told, invoices = pair.b_stream.told, pair.invoices.told
        messages.append(await rate(ours, pair.a.http, CLIENTS, settings.joined_seconds))
        per_payment.append((pair.b_stream.told - told) / (pair.invoices.told - invoices))
        payments.append(await rate(theirs, pair.a.http, BARE_IN_FLIGHT, settings.joined_seconds))
        alone.append(await _alone(ours, pair, settings))
        bare_alone.append(await _alone(theirs, pair, settings))
    section = Section(f"messages of {BODY_BYTES} random bytes to one node under load, {where}")
    section.rows = [
        Row(
            f"messages, {CLIENTS} clients; payments, {BARE_IN_FLIGHT} in flight",
            "1/s",
            messages,
            payments,
            target=Target("≥", 3),
        ),
        Row("messages in a payment", "", per_payment, kind="value"),
        Row("a message when nothing else is under way, p50", "ms", alone, bare_alone, kind="more"),
    ]
    section.notes.append(
        "closed loop: each client posts its next message over its own kept connection when B's websocket has shown the last; "
        "peer: a bare grpc.aio client pays for each, until lnd B has told the invoice."
    )
    return section


async def _alone(way, pair: Pair, settings: Settings) -> float:
    """In ms, until it is there."""
    async with RestClient(pair.a.http) as rest:
        flights = [await way.fly(rest, until_settled=True) for _ in range(settings.joined_alone)]
    return median(flight.arrived for flight in flights) * 1000
