"""Numbers of the database for the metrics, from rows."""

from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from messaging.answers import AnswerBudget
from messaging.models import Attempt, Direction, Event, Message, Refused, State
from nodeapi.backups import record
from nodeapi.monitoring import stored
from nodeapi.monitoring.stored import Numbers, Unfinished, read_numbers
from tests.support.databases import only_on_sqlite
from vpn.models import Lease, PurchasedLease
from vpn.states import BoughtState, LeaseState

PUBKEY = "02" * 33


pytestmark = pytest.mark.usefixtures("tables")


@pytest.fixture
def file(tmp_path) -> Path:
    """In the place of the SQLite file."""
    path = tmp_path / "impervious.sqlite3"
    path.write_bytes(bytes(1_000))
    return path


NOW = timezone.now()


def message(
    state: State, service: str = "message", cost_msat: int = 1_000, created_at: datetime = NOW
) -> None:
    Message.objects.create(
        message_id=uuid4(),
        direction=Direction.OUT,
        pubkey=PUBKEY,
        service=service,
        body=b"x",
        amount_msat=1_000,
        cost_msat=cost_msat,
        state=state,
        created_at=created_at,
    )


def sold(state: LeaseState, *, holds_key: bool) -> None:
    Lease.objects.create(
        contract_id=uuid4(),
        buyer=PUBKEY,
        nonce=uuid4().hex,
        wg_key=uuid4().hex,
        price_sat=1,
        state=state,
        holds_key=holds_key,
    )


def bought(state: BoughtState) -> None:
    PurchasedLease.objects.create(
        seller=PUBKEY,
        nonce="n",
        price_sat=1,
        public_key="k",
        peering={},
        state=state,
        expires_at=timezone.now(),
    )


def test_empty_database(file):
    assert read_numbers(file) == Numbers(
        unfinished={},
        oldest_payment_at=None,
        leases={},
        refused={},
        answers=AnswerBudget(limit_msat=0, used_msat=0),
        first_seq=0,
        last_seq=0,
        database_bytes=1_000,
        last_backup_at=None,
    )


def test_unfinished_messages(file):
    for cost_msat in (1_000, 5_000):
        message(State.QUEUED, cost_msat=cost_msat)
    message(State.IN_FLIGHT, cost_msat=2_000)
    message(State.RETRYING, "sign", cost_msat=3_000)
    for state in (State.SETTLED, State.FAILED, State.RECEIVED):
        message(state)
    assert read_numbers(file).unfinished == {
        ("message", "queued"): Unfinished(2, 6_000, NOW),
        ("message", "in_flight"): Unfinished(1, 2_000, NOW),
        ("sign", "retrying"): Unfinished(1, 3_000, NOW),
    }


# Of a whole second, too: SQLite's text of it is shorter.
@pytest.mark.parametrize("oldest", [NOW - timedelta(hours=2), NOW.replace(microsecond=0) - timedelta(days=9)])
def test_oldest_unfinished_message_of_each_state(file, oldest):
    for created_at in (NOW, oldest, NOW - timedelta(minutes=1)):
        message(State.IN_FLIGHT, created_at=created_at)
    message(State.SETTLED, created_at=oldest - timedelta(days=1))
    assert read_numbers(file).unfinished["message", "in_flight"].oldest_at == oldest


def attempt(state: Attempt.State, created_at: datetime) -> None:
    Attempt.objects.create(
        secret=b"",
        name=uuid4().bytes,
        destination=PUBKEY,
        service="message",
        packet=b"",
        amount_msat=1_000,
        state=state,
        created_at=created_at,
    )


def test_oldest_payment_under_way(file):
    hour = timedelta(hours=1)
    for state, age in (("in_flight", 1), ("in_flight", 3), ("settled", 5), ("failed", 7), ("in_flight", 2)):
        attempt(state, NOW - age * hour)
    assert read_numbers(file).oldest_payment_at == NOW - 3 * hour


@only_on_sqlite
def test_oldest_ones_are_found_by_indexes(file):
    """Without one a scrape would walk through all messages and attempts that ever were."""
    assert "attempt_in_flight" in stored._payments_in_flight().explain()
    with CaptureQueriesContext(connection) as queries:
        read_numbers(file)
    (unfinished,) = [query["sql"] for query in queries if "min(created_at)" in query["sql"]]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {unfinished}")
        assert any("message_unfinished" in row[-1] for row in cursor.fetchall())


def test_last_backup(file):
    record.note_backup(NOW)
    assert read_numbers(file).last_backup_at == NOW


def test_the_oldest_unfinished_messages_are_counted(file, monkeypatch):
    monkeypatch.setattr(stored, "MOST_UNFINISHED", 2)
    for cost_msat in (1_000, 2_000, 4_000):
        message(State.QUEUED, cost_msat=cost_msat)
    assert read_numbers(file).unfinished == {("message", "queued"): Unfinished(2, 3_000, NOW)}


def test_leases(file):
    for _ in range(2):
        sold(LeaseState.ACTIVE, holds_key=True)
    sold(LeaseState.QUARANTINED, holds_key=True)
    sold(LeaseState.FREED, holds_key=False)
    for state in (BoughtState.ACTIVE, BoughtState.EXPIRING, BoughtState.ENDED):
        bought(state)
    assert read_numbers(file).leases == {
        ("sold", "active"): 2,
        ("sold", "quarantined"): 1,
        ("bought", "active"): 1,
        ("bought", "expiring"): 1,
    }


def test_what_was_refused(file):
    Refused.objects.create(service="message", cause=Refused.Cause.BLOCKED, count=7)
    Refused.objects.create(service="sign", cause=Refused.Cause.AMOUNT, count=1)
    assert read_numbers(file).refused == {("message", "blocked"): 7, ("sign", "amount"): 1}


def test_ends_of_the_event_log(file):
    events = [
        Event.objects.create(message_id=uuid4(), data=b"", service_type="message", amount_sat=1)
        for _ in range(3)
    ]
    numbers = read_numbers(file)
    assert (numbers.first_seq, numbers.last_seq) == (events[0].seq, events[2].seq)


def test_bytes_of_the_file_and_its_write_ahead_log(file):
    file.with_name("impervious.sqlite3-wal").write_bytes(bytes(200))
    assert read_numbers(file).database_bytes == 1_200
    file.unlink()
    assert read_numbers(file).database_bytes == 200
