"""What a scrape shows besides what was counted: the state of the parts of this process, and of the database."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

from django.db import Error as DatabaseError
from prometheus_client import Metric, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from messaging import clock, metrics
from messaging.database import Database
from messaging.models import UNFINISHED
from messaging.required import required
from nodeapi.auth import Keys
from nodeapi.engine import Engine
from nodeapi.lnd_status import LndStatus
from nodeapi.monitoring.asking import Asked, NoAnswer
from nodeapi.monitoring.health import PARTS, Health, Report
from nodeapi.monitoring.key_spending import KeySpending
from nodeapi.monitoring.stored import Numbers, read_numbers
from nodeapi.monitoring.surroundings import Seen, Surroundings
from nodeapi.relay.process import PumpState
from nodeapi.stream import Hub
from vpn.states import BoughtState, LeaseState

Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)
Labels = TypeVar("Labels", bound=tuple[str, ...])

logger = logging.getLogger("nodeapi.monitoring.gauges")

NUMBERS_KEEP_SECONDS = 5.0
DOORS = ("websocket", "http", "grpc")
SIDES = ("1", "2")


@dataclass(frozen=True)
class Collected:
    """What prometheus-client's encoders ask for."""

    families: tuple[Metric, ...]

    def collect(self) -> Iterable[Metric]:
        return self.families


class Scrape:
    """The page of /metrics. `lnd` is there in the runimpd process, and its `engine` once lnd has answered; `spent_msat` tells
    there what was spent with the API key of a name in 24 hours. It reads the database. Without a database and a hub, before
    these can be used, it shows what else there is.
    """

    def __init__(
        self,
        *,
        database: Database | None,
        file: Path | None,
        hub: Hub | None,
        health: Health,
        keys: Keys,
        surroundings: Surroundings,
        engine: Callable[[], Engine | None],
        lnd: LndStatus | None,
        version: str,
        with_redis: bool,
        spent_msat: Callable[[str], int] | None = None,
    ):
        self._hub = hub
        self._health = health
        self._engine = engine
        self._lnd = lnd
        self._version = version
        self._keys = keys
        self._surroundings = surroundings
        absent = {"runimpd"} if lnd else {"lnd", "clock"}
        self._parts = [part for part in PARTS if part not in absent and (with_redis or part != "redis")]
        self._numbers = _numbers_of(database, file) if database else None
        self._key_spending = spent_msat and KeySpending(keys, spent_msat)

    @property
    def of_runimpd(self) -> bool:
        return self._lnd is not None

    async def page(self, accept: str) -> tuple[str, bytes]:
        """Content type and body, in the format that the header Accept asks for."""
        report = await self._health.look()
        numbers = await self._stored()
        seen = await self._surroundings.look()
        counted = [metrics.PROCESS.collect()]
        families = [*self._of_process(report), *_of_database(numbers), *_of_surroundings(seen)]
        # Before it was asked there is nothing to say of it, and no alarm to raise.
        if self._lnd and self._lnd.was_asked:
            counted.append(metrics.ENGINE.collect())
            families += _of_lnd(self._lnd)
        if engine := self._engine():
            families += _of_engine(engine, numbers)
        if self._key_spending:
            families += _of_keys(self._keys, self._key_spending)
        encode, content_type = exposition.choose_encoder(accept)
        # A thread: the doors need not wait for some thousand lines of text.
        body = await asyncio.to_thread(lambda: encode(Collected(tuple(chain(families, *counted)))))
        return content_type, body

    async def _stored(self) -> Numbers | None:
        if self._numbers is None:
            return None
        try:
            return await self._numbers.answer()
        except (NoAnswer, DatabaseError) as error:
            logger.debug("metrics without the database: %s", type(error).__name__)
            return None

    def _of_process(self, report: Report) -> Iterator[Metric]:
        process = "runimpd" if self._lnd else "daphne"
        yield _gauges(
            "impervious_build_info",
            "This process; the value is 1.",
            ("version", "process"),
            {(self._version, process): 1},
        )
        yield _gauge("impervious_ready", "Whether /health/ready says so.", report.ready)
        faulty = {fault.part: 0 if not fault.degrades_only else 0.5 for fault in reversed(report.faults)}
        unknown = ("lnd", "clock") if self._lnd and not self._lnd.was_asked else ()
        checks = {(part,): faulty.get(part, 1) for part in self._parts if part not in unknown}
        text = "Parts as /health/ready sees them: 1 well, 0.5 degraded, 0 not well."
        yield _gauges("impervious_health", text, ("part",), checks)
        clients = {(door,): 0 for door in DOORS}
        lag = behind = 0
        for subscription in self._hub.subscriptions if self._hub else ():
            clients[subscription.door,] = clients.get((subscription.door,), 0) + 1
            lag = max(lag, subscription.lag)
            behind += subscription.is_behind
        yield _gauges("impervious_stream_clients", "Clients of the stream.", ("door",), clients)
        yield _gauge(
            "impervious_stream_lag_events", "Events that the slowest client has not been sent yet.", lag
        )
        text = "Clients that are fed from the event log, because they came with a cursor or fell behind."
        yield _gauge("impervious_stream_clients_behind", text, behind)


def _numbers_of(database: Database, file: Path | None) -> Asked[Numbers]:
    return Asked(
        lambda: database.read(partial(read_numbers, file)),
        keep_seconds=NUMBERS_KEEP_SECONDS,
        patience_seconds=2.0,
    )


def _of_database(numbers: Numbers | None) -> Iterator[Metric]:
    if numbers is None:
        return
    counts = {key: found.count for key, found in numbers.unfinished.items()}
    every = {("message", state.value): 0 for state in UNFINISHED}
    text = "Messages that are sent and have not ended, of the database; at most the 10,000 oldest."
    yield _gauges("impervious_messages_unfinished", text, ("service", "state"), every | counts)
    text = "What these may cost at most."
    yield _gauge(
        "impervious_reserved_msat", text, sum(found.cost_msat for found in numbers.unfinished.values())
    )
    yield from _of_ages(numbers)
    leases = {("sold", LeaseState.ACTIVE.value): 0, ("bought", BoughtState.ACTIVE.value): 0} | numbers.leases
    text = "VPN leases that are not over (sold: that hold an address)."
    yield _gauges("impervious_vpn_leases", text, ("direction", "state"), leases)
    text = "Received messages, and parts of long ones, that the inbound policy has refused, of the database."
    yield _counters("impervious_refused", text, ("service", "cause"), numbers.refused)
    yield _gauge("impervious_events_first_seq", "The oldest event that is kept.", numbers.first_seq)
    yield _gauge("impervious_events_last_seq", "The newest event.", numbers.last_seq)
    yield _gauge("impervious_database_bytes", "Size of the database on disk.", numbers.database_bytes)
    text = (
        "Of which moment the last backup is that ./impervious backup has made of this database; 0: of none."
    )
    yield _gauge("impervious_last_backup_timestamp_seconds", text, _seconds_of(numbers.last_backup_at))


def _of_ages(numbers: Numbers) -> Iterator[Metric]:
    now = clock.now()
    oldest = {(state.value,): 0.0 for state in UNFINISHED}
    for (_, state), found in numbers.unfinished.items():
        oldest[state,] = max(oldest[state,], (now - found.oldest_at).total_seconds())
    text = "Age of the oldest message that is sent and has not ended, by its state; 0 where there is none."
    yield _gauges("impervious_messages_oldest_seconds", text, ("state",), oldest)
    began_at = numbers.oldest_payment_at
    age_seconds = max(0.0, (now - began_at).total_seconds()) if began_at else 0.0
    text = (
        "Age of the oldest payment with messages that is under way, of the database; 0 where there is none."
    )
    yield _gauge("impervious_payments_oldest_seconds", text, age_seconds)


def _of_surroundings(seen: Seen) -> Iterator[Metric]:
    if seen.disk_free_bytes is not None:
        text = "Free on the disk of the SQLite file, or else of the node's own files."
        yield _gauge("impervious_disk_free_bytes", text, seen.disk_free_bytes)
    text = "When a certificate expires: the node's own (own), the one that lnd shows (lnd)."
    ends = {(name,): moment.timestamp() for name, moment in seen.certificate_ends.items()}
    yield _gauges("impervious_certificate_not_after_timestamp_seconds", text, ("certificate",), ends)


def _of_keys(keys: Keys, spending: KeySpending) -> Iterator[Metric]:
    text = "Spent with an API key in 24 hours, or reserved, looked up once a minute at most."
    spent = {(name,): msat for name, msat in spending.msat_by_key.items()}
    yield _gauges("impervious_key_spent_msat", text, ("key",), spent)
    limits = {(one.name,): one.budget_sat * 1000 for one in keys.callers if one.budget_sat is not None}
    text = "budget_sat of an API key, in msat."
    yield _gauges("impervious_key_budget_limit_msat", text, ("key",), limits)


def _seconds_of(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0.0


def _of_engine(engine: Engine, numbers: Numbers | None) -> Iterator[Metric]:
    text = "Payments that lnd calls under way although no channel holds them."
    yield _gauge("impervious_lnd_dead_payments", text, len(engine.dead_payments.suspected))
    depth = engine.outbox.depth
    waiting = {("queued",): depth.queued, ("retrying",): depth.retrying}
    yield _gauges(
        "impervious_outbox_waiting", "What waits for its first try, or for another one.", ("state",), waiting
    )
    yield _gauge("impervious_outbox_in_flight", "Payments with messages under way.", depth.in_flight)
    yield from _of_budget(engine)
    if numbers:
        yield from _of_answers(engine, numbers)
    yield from _of_relay(engine)
    yield _counters(
        "impervious_records_dropped",
        "Received records that were dropped, by service and reason.",
        ("service", "reason"),
        {tuple(name.split("/", 1)): count for name, count in engine.inbox.dropped.items()},
    )


def _of_lnd(lnd: LndStatus) -> Iterator[Metric]:
    yield _gauge("impervious_lnd_reachable", "Whether lnd answers.", lnd.reachable)
    yield _gauge("impervious_lnd_synced", "Whether lnd is in sync with the chain.", lnd.info.synced_to_chain)
    yield _gauge("impervious_lnd_keysend", "Whether lnd takes keysend.", lnd.takes_keysend)
    yield _gauge("impervious_lnd_block_height", "lnd's newest block.", lnd.info.block_height)
    text = "When that block is from, by the clocks of miners."
    yield _gauge("impervious_lnd_block_timestamp_seconds", text, lnd.info.best_header_timestamp)
    if lnd.spendable_sat is not None:
        yield _gauge("impervious_lnd_spendable_sat", "What the active channels can send.", lnd.spendable_sat)
        yield _gauge("impervious_lnd_receivable_sat", "What they can receive.", required(lnd.receivable_sat))


def _of_budget(engine: Engine) -> Iterator[Metric]:
    budget = engine.budgets.node
    if budget.limit_sat is None:
        return
    yield _gauge(
        "impervious_budget_limit_msat", "lightning.daily_budget_sat, in msat.", budget.limit_sat * 1000
    )
    if budget.known_msat is not None:
        text = "Spent in 24 hours or reserved, as the budget knows it: never too little."
        yield _gauge("impervious_budget_used_msat", text, budget.known_msat)


def _of_answers(engine: Engine, numbers: Numbers) -> Iterator[Metric]:
    text = "What answers to others may cost: what those have paid in 24 hours, and inbound.answers.allowance_sat."
    limit_msat = numbers.answers.limit_msat + engine.answer_terms.allowance_msat
    yield _gauge("impervious_answers_limit_msat", text, limit_msat)
    text = "What answers to others have cost in 24 hours, or may cost."
    yield _gauge("impervious_answers_used_msat", text, numbers.answers.used_msat)


def _of_relay(engine: Engine) -> Iterator[Metric]:
    state = engine.relay.observed
    yield _gauge("impervious_relay_running", "Whether the UDP relay runs.", state is not None)
    counters = state or PumpState()
    sides = [(side,) for side in SIDES]
    datagrams = dict(zip(sides, counters.datagrams, strict=True))
    passed = dict(zip(sides, counters.passed_bytes, strict=True))
    text = "that came from a side of the relay and were passed on, since StartSocket."
    yield _counters("impervious_relay_datagrams", f"Datagrams {text}", ("side",), datagrams)
    yield _counters("impervious_relay_bytes", f"Bytes {text}", ("side",), passed)
    yield _counters(
        "impervious_relay_dropped", "Datagrams that were not passed on.", (), {(): counters.dropped}
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _gauges(name: str, text: str, labels: tuple[str, ...], values: Mapping[Labels, float]) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), values)


def _counters(name: str, text: str, labels: tuple[str, ...], values: Mapping[Labels, float]) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), values)


def _filled(family: Family, values: Mapping[Labels, float]) -> Family:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
