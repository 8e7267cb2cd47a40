"""The page of /metrics, from parts whose state a test sets, read by Prometheus' own parser."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.db import OperationalError
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from lightning.client import Trouble
from lightning.keysend import KEYSEND_FEATURE_BIT
from messaging.answers import AnswerBudget, AnswerTerms
from messaging.traffic import Depth
from nodeapi.lnd_status import LndStatus
from nodeapi.monitoring import gauges
from nodeapi.monitoring.gauges import Scrape
from nodeapi.monitoring.health import Fault, Report
from nodeapi.monitoring.stored import Numbers, Unfinished
from nodeapi.monitoring.surroundings import Seen
from nodeapi.relay.process import PumpState
from protos.lnrpc import lightning_pb2
from tests.support.doors import caller
from tests.support.waiting import until_in_loop

MOMENT = datetime(2026, 11, 30, 18, tzinfo=UTC)
NUMBERS = Numbers(
    unfinished={
        ("message", "queued"): Unfinished(2, 6_000, MOMENT - timedelta(seconds=40)),
        ("sign", "queued"): Unfinished(1, 0, MOMENT - timedelta(seconds=50)),
        ("sign", "retrying"): Unfinished(1, 3_000, MOMENT - timedelta(seconds=7_200)),
    },
    oldest_payment_at=MOMENT - timedelta(seconds=3_600),
    leases={("sold", "active"): 4, ("bought", "expiring"): 1},
    refused={("message", "blocked"): 7},
    answers=AnswerBudget(limit_msat=5_000, used_msat=2_000),
    first_seq=11,
    last_seq=19,
    database_bytes=1_234,
    last_backup_at=MOMENT - timedelta(days=3),
)


class Reading:
    """A database whose numbers these are, or which is away."""

    def __init__(self, answer: Numbers | Exception = NUMBERS):
        self._answer = answer
        self.asked = 0

    async def read(self, job):
        self.asked += 1
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class Looking:
    """As nodeapi.monitoring.health.Health."""

    def __init__(self, *faults: Fault):
        self._report = Report(faults)

    async def look(self) -> Report:
        return self._report


class Around:
    """As nodeapi.monitoring.surroundings.Surroundings."""

    def __init__(self, seen: Seen):
        self._seen = seen

    async def look(self) -> Seen:
        return self._seen


@pytest.fixture(autouse=True)
def now(monkeypatch) -> None:
    monkeypatch.setattr(gauges.clock, "now", lambda: MOMENT)


def make_engine(**fields):
    """Of the engine what a scrape looks at."""
    lnd = LndStatus(SimpleNamespace())
    lnd.reachable = True
    lnd.info = lightning_pb2.GetInfoResponse(
        synced_to_chain=True, block_height=800_000, best_header_timestamp=1_796_000_000
    )
    lnd.info.features[KEYSEND_FEATURE_BIT].name = "keysend"
    parts = {
        "lnd": lnd,
        "outbox": SimpleNamespace(depth=Depth(queued=3, retrying=2, in_flight=1)),
        "inbox": SimpleNamespace(dropped={"message/foreign": 5}),
        "budgets": SimpleNamespace(node=SimpleNamespace(limit_sat=None, known_msat=None)),
        "relay": SimpleNamespace(observed=None),
        "dead_payments": SimpleNamespace(suspected={}),
        "answer_terms": AnswerTerms(allowance_msat=500),
    }
    return SimpleNamespace(**(parts | fields))


def make_scrape(
    *,
    engine=None,
    lnd=None,
    database: Reading | None = None,
    health: Looking | None = None,
    subscriptions: tuple = (),
    with_redis: bool = False,
    seen: Seen | None = None,
    callers: tuple = (),
    spent_msat: Callable[[str], int] | None = None,
) -> Scrape:
    return Scrape(
        keys=SimpleNamespace(callers=list(callers)),
        surroundings=Around(seen or Seen()),
        spent_msat=spent_msat,
        database=database or Reading(),
        file=Path("impervious.sqlite3"),
        hub=SimpleNamespace(subscriptions=subscriptions),
        health=health or Looking(),
        engine=lambda: engine,
        lnd=lnd or (engine and engine.lnd),
        version="1.2.3",
        with_redis=with_redis,
    )


Value = Callable[..., float | None]


async def values(scrape: Scrape) -> Value:
    """What asks for a sample's value by its name and labels; None where there is none."""
    _, body = await scrape.page("")
    families = list(text_string_to_metric_families(body.decode()))
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
    return lambda name, **labels: samples.get((f"impervious_{name}", tuple(sorted(labels.items()))))


@pytest.mark.parametrize(("engine", "process"), [(make_engine(), "runimpd"), (None, "daphne")])
async def test_process(engine, process):
    value = await values(make_scrape(engine=engine))
    assert value("build_info", version="1.2.3", process=process) == 1
    assert (value("lnd_reachable") is None) is (engine is None)
    assert (value("outbox_in_flight") is None) is (engine is None)


@pytest.mark.parametrize(
    ("faults", "ready", "expected"),
    [
        ((), 1, {"lnd": 1, "disk": 1, "redis": 1, "node": 1}),
        ((Fault("lnd", "away"),), 0, {"lnd": 0, "disk": 1}),
        ((Fault("redis", "away"), Fault("disk", "nearly_full")), 1, {"redis": 0.5, "disk": 0.5}),
        # The first of a part's faults is the one that is told.
        ((Fault("disk", "full"), Fault("disk", "nearly_full")), 0, {"disk": 0}),
    ],
)
async def test_health(faults, ready, expected):
    value = await values(make_scrape(engine=make_engine(), health=Looking(*faults), with_redis=True))
    assert value("ready") == ready
    assert {part: value("health", part=part) for part in expected} == expected


@pytest.mark.parametrize(
    ("engine", "with_redis", "parts"),
    [
        (make_engine(), True, {"node", "lnd", "database", "disk", "clock", "redis"}),
        (make_engine(), False, {"node", "lnd", "database", "disk", "clock"}),
        (None, False, {"node", "runimpd", "database", "disk"}),
    ],
)
async def test_parts_that_a_process_has(engine, with_redis, parts):
    value = await values(make_scrape(engine=engine, with_redis=with_redis))
    told = {
        part
        for part in ("node", "lnd", "database", "disk", "clock", "redis", "runimpd")
        if value("health", part=part) is not None
    }
    assert told == parts


async def test_lnd_that_has_not_answered_yet():
    lnd = make_engine().lnd
    lnd.reachable, lnd.problem = False, Trouble.AWAY
    value = await values(make_scrape(lnd=lnd))
    assert value("build_info", version="1.2.3", process="runimpd") == 1
    assert value("lnd_reachable") == 0
    assert value("outbox_in_flight") is None


async def test_clients_of_the_stream():
    clients = [
        SimpleNamespace(door=door, lag=lag, is_behind=behind)
        for door, lag, behind in (("http", 3, True), ("http", 7, False), ("grpc", 0, True))
    ]
    value = await values(make_scrape(subscriptions=tuple(clients)))
    counts = {door: value("stream_clients", door=door) for door in ("websocket", "http", "grpc")}
    assert counts == {"websocket": 0, "http": 2, "grpc": 1}
    assert (value("stream_lag_events"), value("stream_clients_behind")) == (7, 2)


async def test_no_clients_of_the_stream():
    value = await values(make_scrape())
    assert (value("stream_lag_events"), value("stream_clients_behind")) == (0, 0)


async def test_numbers_of_the_database():
    value = await values(make_scrape())
    states = {
        (service, state): value("messages_unfinished", service=service, state=state)
        for service, state in (
            ("message", "queued"),
            ("message", "in_flight"),
            ("message", "retrying"),
            ("sign", "retrying"),
        )
    }
    assert list(states.values()) == [2, 0, 0, 1]
    ages = {
        state: value("messages_oldest_seconds", state=state) for state in ("queued", "in_flight", "retrying")
    }
    assert ages == {"queued": 50, "in_flight": 0, "retrying": 7_200}
    assert value("payments_oldest_seconds") == 3_600
    assert value("last_backup_timestamp_seconds") == (MOMENT - timedelta(days=3)).timestamp()
    assert value("reserved_msat") == 9_000
    assert value("vpn_leases", direction="sold", state="active") == 4
    assert value("vpn_leases", direction="bought", state="active") == 0
    assert value("vpn_leases", direction="bought", state="expiring") == 1
    assert value("refused_total", service="message", cause="blocked") == 7
    assert (value("events_first_seq"), value("events_last_seq"), value("database_bytes")) == (11, 19, 1_234)


async def test_nothing_is_under_way_and_there_was_no_backup():
    numbers = replace(NUMBERS, unfinished={}, oldest_payment_at=None, last_backup_at=None)
    value = await values(make_scrape(database=Reading(numbers)))
    assert value("messages_oldest_seconds", state="queued") == value("payments_oldest_seconds") == 0
    assert value("last_backup_timestamp_seconds") == 0


async def test_disk_and_certificates():
    seen = Seen(disk_free_bytes=5_000, certificate_ends={"own": MOMENT, "lnd": MOMENT + timedelta(days=1)})
    value = await values(make_scrape(seen=seen))
    assert value("disk_free_bytes") == 5_000
    ends = [value("certificate_not_after_timestamp_seconds", certificate=name) for name in ("own", "lnd")]
    assert ends == [MOMENT.timestamp(), MOMENT.timestamp() + 86_400]


async def test_disk_and_certificates_that_could_not_be_read():
    value = await values(make_scrape())
    assert value("disk_free_bytes") is None
    assert value("certificate_not_after_timestamp_seconds", certificate="own") is None


async def test_what_api_keys_have_spent():
    callers = (caller("shop", budget_sat=5), caller("app"))
    scrape = make_scrape(
        engine=make_engine(),
        callers=callers,
        spent_msat={"shop": 4_000, "app": 7}.__getitem__,
    )

    async def told() -> Value | None:
        value = await values(scrape)
        return value if value("key_spent_msat", key="shop") is not None else None

    await until_in_loop(told)
    value = await values(scrape)
    assert [value("key_spent_msat", key=name) for name in ("shop", "app")] == [4_000, 7]
    assert [value("key_budget_limit_msat", key=name) for name in ("shop", "app")] == [5_000, None]


async def test_database_that_is_away_leaves_out_its_numbers():
    database = Reading(OperationalError("away"))
    value = await values(make_scrape(engine=make_engine(), database=database))
    assert value("database_bytes") is value("messages_unfinished", service="message", state="queued") is None
    assert value("lnd_reachable") == 1


async def test_database_is_not_asked_at_each_scrape():
    database = Reading()
    scrape = make_scrape(database=database)
    for _ in range(3):
        await scrape.page("")
    assert database.asked == 1


async def test_lnd():
    engine = make_engine()
    engine.lnd.spendable_sat, engine.lnd.receivable_sat = 5_000, 6_000
    value = await values(make_scrape(engine=engine))
    names = ("reachable", "synced", "keysend", "block_height", "spendable_sat", "receivable_sat")
    assert [value(f"lnd_{name}") for name in names] == [1, 1, 1, 800_000, 5_000, 6_000]
    assert value("lnd_block_timestamp_seconds") == 1_796_000_000


async def test_dead_payments_of_lnd():
    engine = make_engine(dead_payments=SimpleNamespace(suspected={b"one": "dead", b"two": "dead"}))
    assert (await values(make_scrape(engine=engine)))("lnd_dead_payments") == 2
    assert (await values(make_scrape(engine=make_engine())))("lnd_dead_payments") == 0


async def test_page_before_the_database_and_lnd_were_asked():
    """It raises no alarm about lnd, and reads nothing."""
    lnd = LndStatus(SimpleNamespace())
    scrape = Scrape(
        keys=SimpleNamespace(callers=[]),
        surroundings=Around(Seen(disk_free_bytes=5)),
        database=None,
        file=None,
        hub=None,
        health=Looking(Fault("database", "away")),
        engine=lambda: None,
        lnd=lnd,
        version="1.2.3",
        with_redis=False,
    )
    value = await values(scrape)
    assert (value("ready"), value("health", part="database"), value("disk_free_bytes")) == (0, 0, 5)
    assert value("lnd_reachable") is value("health", part="lnd") is value("events_last_seq") is None


async def test_lnd_that_has_not_told_its_balances():
    engine = make_engine()
    engine.lnd.reachable, engine.lnd.problem = False, Trouble.AWAY
    engine.lnd.info = lightning_pb2.GetInfoResponse()
    value = await values(make_scrape(engine=engine))
    assert [value(f"lnd_{name}") for name in ("reachable", "synced", "keysend")] == [0, 0, 0]
    assert value("lnd_spendable_sat") is value("lnd_receivable_sat") is None


async def test_outbox_and_inbox():
    value = await values(make_scrape(engine=make_engine()))
    assert value("outbox_waiting", state="queued") == 3
    assert value("outbox_waiting", state="retrying") == 2
    assert value("outbox_in_flight") == 1
    assert value("records_dropped_total", service="message", reason="foreign") == 5


@pytest.mark.parametrize(
    ("limit_sat", "known_msat", "limit", "used"),
    [(None, None, None, None), (100, None, 100_000, None), (100, 12_345, 100_000, 12_345), (0, 0, 0, 0)],
)
async def test_budget(limit_sat, known_msat, limit, used):
    node = SimpleNamespace(limit_sat=limit_sat, known_msat=known_msat)
    value = await values(make_scrape(engine=make_engine(budgets=SimpleNamespace(node=node))))
    assert (value("budget_limit_msat"), value("budget_used_msat")) == (limit, used)


async def test_answers():
    value = await values(make_scrape(engine=make_engine()))
    assert value("answers_limit_msat") == 5_500
    assert value("answers_used_msat") == 2_000


async def test_relay():
    state = PumpState(datagrams=[3, 4], passed_bytes=[300, 400], dropped=5)
    value = await values(make_scrape(engine=make_engine(relay=SimpleNamespace(observed=state))))
    assert value("relay_running") == 1
    assert [value("relay_datagrams_total", side=side) for side in "12"] == [3, 4]
    assert [value("relay_bytes_total", side=side) for side in "12"] == [300, 400]
    assert value("relay_dropped_total") == 5


async def test_relay_that_does_not_run():
    value = await values(make_scrape(engine=make_engine()))
    assert value("relay_running") == value("relay_dropped_total") == 0
    assert [value("relay_datagrams_total", side=side) for side in "12"] == [0, 0]


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        ("", "text/plain", text_string_to_metric_families),
        ("text/html", "text/plain", text_string_to_metric_families),
        (
            "application/openmetrics-text; version=1.0.0",
            "application/openmetrics-text",
            openmetrics_families,
        ),
    ],
)
async def test_formats(accept, content_type, parse):
    told, body = await make_scrape(engine=make_engine()).page(accept)
    assert told.startswith(content_type)
    names = [family.name for family in parse(body.decode())]
    assert {"impervious_ready", "impervious_call_seconds", "process_cpu_seconds"} <= set(names)
    # A family that is told twice is refused by Prometheus.
    assert len(names) == len(set(names))
