"""What this process counts, for Prometheus. To count costs about a microsecond and no query; what stands in the database, or
in the memory of a part of the node, is looked at when it is asked for (nodeapi/monitoring/).

ENGINE is of the runimpd process, PROCESS of each process of the node. Labels have few values: never a node's key, an id or
a text of others; the name of an API key is the operator's own. A step that the database may run twice counts after its commit (`transaction.on_commit`, robust: what was committed must not seem to have failed).
"""

from collections import Counter as Tally
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from messaging.models import Direction, Message, State

# A line more for each counter, which nobody asks for.
disable_created_metrics()

# Why a message that nobody here asked for is not sent (messaging/answers.py, messaging/reachability.py).
UNPAID, TOO_LONG, OVER_BUDGET, NO_RECIPIENT = "unpaid", "too_long", "over_budget", "no_recipient"
UNKNOWN_NODE, UNPROVEN_HINT = "unknown_node", "unproven_hint"
UNSENT = (UNPAID, TOO_LONG, OVER_BUDGET, NO_RECIPIENT, UNKNOWN_NODE, UNPROVEN_HINT)
# Why a call is refused because of its API key (nodeapi/auth.py, nodeapi/doors.py): those of no key that is known, and of one.
NO_KEY, UNKNOWN = "missing", "unknown"
REVOKED, EXPIRED, SCOPE, RATE, BUDGET = "revoked", "expired", "scope", "rate", "budget"
# What invoices are called where a service is.
INVOICES = "lightning"

ENGINE = CollectorRegistry()
PROCESS = CollectorRegistry()
ProcessCollector(registry=PROCESS)
GCCollector(registry=PROCESS)

MESSAGES = Counter(
    "impervious_messages",
    "Messages that came into a state, since the process started.",
    ["service", "direction", "state"],
    registry=ENGINE,
)
PAYMENTS = Counter(
    "impervious_payments",
    "Payments with messages that ended, by how they ended.",
    ["service", "verdict"],
    registry=ENGINE,
)
PAID_MSAT = Counter(
    "impervious_paid_msat",
    "Millisatoshis paid to others with messages and for invoices, fees included.",
    ["service"],
    registry=ENGINE,
)
FEES_MSAT = Counter("impervious_fees_msat", "Of these, routing fees.", ["service"], registry=ENGINE)
RECEIVED_MSAT = Counter(
    "impervious_received_msat",
    "Millisatoshis received with messages and for invoices.",
    ["service"],
    registry=ENGINE,
)
ANSWERS_DROPPED = Counter(
    "impervious_answers_dropped",
    "Messages that nobody here asked for and that were not sent, by service and reason.",
    ["service", "reason"],
    registry=ENGINE,
)
ACCEPT_SECONDS = Histogram(
    "impervious_accept_seconds",
    "From the acceptance of a message to its commit.",
    registry=ENGINE,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
DELIVERY_SECONDS = Histogram(
    "impervious_delivery_seconds",
    "From the acceptance of a message to its settlement.",
    ["service"],
    registry=ENGINE,
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600, 14_400, 86_400),
)
VPN_PAYMENTS = Counter(
    "impervious_vpn_payments",
    "Payments for VPN leases that led to a lease, sold or bought.",
    ["direction", "kind"],
    registry=ENGINE,
)
VPN_SAT = Counter("impervious_vpn_sat", "Satoshis of these payments.", ["direction"], registry=ENGINE)

CALL_SECONDS = Histogram(
    "impervious_call_seconds",
    "Calls of the API, by operation and gRPC status.",
    ["operation", "code"],
    registry=PROCESS,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
KEY_CALLS = Counter(
    "impervious_key_calls",
    "Calls, subscriptions and scrapes that came with a valid API key.",
    ["key"],
    registry=PROCESS,
)
KEY_REFUSALS = Counter(
    "impervious_key_refusals",
    "Calls that were refused for their API key, by cause; without a key, or with one that nobody knows, key is empty.",
    ["key", "cause"],
    registry=PROCESS,
)
COMMIT_SECONDS = Histogram(
    "impervious_database_commit_seconds",
    "Transactions of the writer thread, each with all jobs that waited for it.",
    registry=PROCESS,
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 20),
)
COMMIT_JOBS = Histogram(
    "impervious_database_commit_jobs",
    "Jobs that shared a transaction.",
    registry=PROCESS,
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
DATABASE_ERRORS = Counter(
    "impervious_database_errors", "Jobs that the database has failed.", ["kind"], registry=PROCESS
)
STREAM_EVENTS = Counter(
    "impervious_stream_events", "Events that the stream's hub has handed out.", registry=PROCESS
)
STREAM_FELL_BEHIND = Counter(
    "impervious_stream_fell_behind",
    "Times that a client's queue was full, and it was fed from the log again.",
    registry=PROCESS,
)
STREAM_CLOSED_SLOW = Counter(
    "impervious_stream_closed_slow",
    "Clients that were closed because they read nothing.",
    ["door"],
    registry=PROCESS,
)
for _direction in ("sold", "bought"):
    VPN_SAT.labels(_direction)
    for _kind in ("contract", "refresh"):
        VPN_PAYMENTS.labels(_direction, _kind)
for _kind in ("read", "write"):
    DATABASE_ERRORS.labels(_kind)
for _door in ("websocket", "http"):
    STREAM_CLOSED_SLOW.labels(_door)
for _cause in (NO_KEY, UNKNOWN):
    KEY_REFUSALS.labels("", _cause)


def begin(services: Collection[str]) -> None:
    """Of these services all lines are there from the start, at 0: the first message is an increase too."""
    for service in services:
        for state in (State.QUEUED, State.RETRYING, State.SETTLED, State.FAILED):
            MESSAGES.labels(service, Direction.OUT.value, state.value)
        MESSAGES.labels(service, Direction.IN.value, State.RECEIVED.value)
        DELIVERY_SECONDS.labels(service)
        for reason in UNSENT:
            ANSWERS_DROPPED.labels(service, reason)
    for service in (*services, INVOICES):
        for amount in (PAID_MSAT, FEES_MSAT, RECEIVED_MSAT):
            amount.labels(service)


def begin_keys(names: Iterable[str]) -> None:
    """As `begin`, of API keys by the names that the operator gave them."""
    for name in names:
        KEY_CALLS.labels(name)
        for cause in (REVOKED, EXPIRED, SCOPE, RATE, BUDGET):
            KEY_REFUSALS.labels(name, cause)


def count_messages(messages: Iterable[Message], state: State) -> None:
    tally = Tally(message.service for message in messages)
    direction = Direction.IN if state == State.RECEIVED else Direction.OUT
    for service, number in tally.items():
        MESSAGES.labels(service, direction.value, state.value).inc(number)


def count_ended(messages: Iterable[Message], state: State, now: datetime) -> None:
    """How long each took, and what it has cost: one that failed may have been paid in part."""
    for message in messages:
        if state == State.SETTLED:
            DELIVERY_SECONDS.labels(message.service).observe(
                max(0.0, (now - message.created_at).total_seconds())
            )
        count_paid(message.service, message.cost_msat, message.fee_msat)


def count_received(messages: list[Message]) -> None:
    count_messages(messages, State.RECEIVED)
    for message in messages:
        RECEIVED_MSAT.labels(message.service).inc(message.amount_msat)


def count_paid(service: str, cost_msat: int, fee_msat: int) -> None:
    PAID_MSAT.labels(service).inc(cost_msat)
    FEES_MSAT.labels(service).inc(fee_msat)


def count_answers_dropped(counts: Mapping[tuple[str, str], int]) -> None:
    for (service, reason), count in counts.items():
        ANSWERS_DROPPED.labels(service, reason).inc(count)


def count_vpn(direction: str, kind: str, price_sat: int) -> None:
    VPN_PAYMENTS.labels(direction, kind).inc()
    VPN_SAT.labels(direction).inc(price_sat)
