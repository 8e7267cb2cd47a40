"""Numbers of the database for the metrics, from rows."""

from pathlib import Path
from uuid import uuid4

import pytest
from django.utils import timezone

from messaging.answers import AnswerBudget
from messaging.models import Direction, Event, Message, Refused, State
from nodeapi.monitoring import stored
from nodeapi.monitoring.stored import Numbers, read_numbers
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


def message(state: State, service: str = "message", cost_msat: int = 1_000) -> None:
    Message.objects.create(
        message_id=uuid4(),
        direction=Direction.OUT,
        pubkey=PUBKEY,
        service=service,
        body=b"x",
        amount_msat=1_000,
        cost_msat=cost_msat,
        state=state,
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
        leases={},
        refused={},
        answers=AnswerBudget(limit_msat=0, used_msat=0),
        first_seq=0,
        last_seq=0,
        database_bytes=1_000,
    )


def test_unfinished_messages(file):
    for cost_msat in (1_000, 5_000):
        message(State.QUEUED, cost_msat=cost_msat)
    message(State.IN_FLIGHT, cost_msat=2_000)
    message(State.RETRYING, "sign", cost_msat=3_000)
    for state in (State.SETTLED, State.FAILED, State.RECEIVED):
        message(state)
    assert read_numbers(file).unfinished == {
        ("message", "queued"): (2, 6_000),
        ("message", "in_flight"): (1, 2_000),
        ("sign", "retrying"): (1, 3_000),
    }


def test_the_oldest_unfinished_messages_are_counted(file, monkeypatch):
    monkeypatch.setattr(stored, "MOST_UNFINISHED", 2)
    for cost_msat in (1_000, 2_000, 4_000):
        message(State.QUEUED, cost_msat=cost_msat)
    assert read_numbers(file).unfinished == {("message", "queued"): (2, 3_000)}


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
