"""What goes in the course of time, and what stays, on a real database."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from messaging.models import Attempt, Direction, Event, Message, Part, Peer, ReceivedHtlc, State
from nodeapi import retention
from nodeapi.retention import Keep
from vpn.models import Lease, LeaseStep
from vpn.states import LeaseState

TABLES = (Part, Message, Peer, Attempt, Event, ReceivedHtlc, LeaseStep, Lease)
NOW = timezone.now()
OLD, YOUNG = NOW - timedelta(days=31), NOW - timedelta(days=29)
KEEP = Keep(events_days=30, messages_days=30)


@pytest.fixture(autouse=True)
def migrated():
    call_command("migrate", verbosity=0)
    for table in TABLES:
        table.objects.all().delete()
    yield
    for table in TABLES:
        table.objects.all().delete()
    connection.close()


def message(state: State, at=OLD, **fields) -> Message:
    values = {
        "direction": Direction.OUT,
        "pubkey": "02" * 33,
        "service": "message",
        "body": b"x",
        "amount_msat": 1000,
    }
    return Message.objects.create(
        message_id=uuid4(), state=state, created_at=at, updated_at=at, **{**values, **fields}
    )


def attempt(state=Attempt.State.SETTLED, at=OLD) -> Attempt:
    name = uuid4().bytes * 2
    ended_at = None if state == Attempt.State.IN_FLIGHT else at
    return Attempt.objects.create(
        secret=name,
        name=name,
        destination="02" * 33,
        service="message",
        packet=b"",
        amount_msat=1000,
        state=state,
        created_at=at,
        ended_at=ended_at,
    )


def prune(keep=KEEP, *, dry=False) -> dict[str, int]:
    if dry:
        return dict(retention.count_here(keep))
    return {name: count for name, count, is_all in retention.prune_here(keep) if is_all}


def test_what_strangers_sent_is_not_kept_for_ever():
    known, marked, stranger = ("02" + digit * 64 for digit in "abc")
    Peer.objects.create(pubkey=known, written_to=True)
    Peer.objects.create(pubkey=marked, marked=True)
    Peer.objects.create(pubkey=stranger)
    received = {"direction": Direction.IN, "state": State.RECEIVED}
    going = [message(pubkey=pubkey, **received) for pubkey in (stranger, "02" + "d" * 64, "")]
    staying = [
        message(pubkey=known, **received),
        message(pubkey=marked, **received),
        message(pubkey=stranger, at=YOUNG, **received),
        message(State.SETTLED, pubkey=stranger),
    ]
    keep = Keep(events_days=30, messages_days=None, strangers_days=30)
    assert prune(keep, dry=True)["messages of strangers"] == len(going)
    assert prune(keep)["messages of strangers"] == len(going)
    assert set(Message.objects.all()) == set(staying)
    for sooner in (29, 30):
        assert "messages of strangers" not in prune(
            Keep(events_days=30, messages_days=sooner, strangers_days=30), dry=True
        )


def test_what_has_ended_and_is_old_goes(monkeypatch):
    monkeypatch.setattr(retention, "PAGE", 2)
    carried, failed_before = attempt(), attempt(Attempt.State.FAILED)
    going = [
        message(State.SETTLED, attempt=carried),
        message(State.FAILED),
        *(message(State.RECEIVED) for _ in range(5)),
    ]
    Part.objects.create(message=going[1], index=0, state=State.SETTLED, amount_msat=1, attempt=failed_before)
    in_flight, named = attempt(Attempt.State.IN_FLIGHT), attempt()
    staying = [
        message(State.QUEUED),
        message(State.IN_FLIGHT, attempt=in_flight),
        message(State.RETRYING),
        # By a request to federate its accept is known.
        message(State.SETTLED, service="federate"),
        message(State.SETTLED, at=YOUNG, attempt=named),
        message(State.RECEIVED, at=YOUNG),
    ]
    ReceivedHtlc.objects.create(key=b"k" * 32, received_at=OLD)
    counted = prune(dry=True)
    assert Message.objects.count() == len(going) + len(staying)
    deleted = prune()
    assert counted["messages"] == len(going)
    assert set(Message.objects.values_list("pk", flat=True)) == {one.pk for one in staying}
    assert set(Attempt.objects.values_list("pk", flat=True)) == {in_flight.pk, named.pk}
    assert counted["attempts"] == deleted["attempts"] == 2
    assert ReceivedHtlc.objects.count() == 1
    assert sum(prune().values()) == 0


def test_messages_are_kept_for_ever_unless_told_otherwise():
    message(State.SETTLED)
    assert "messages" not in prune(Keep(events_days=30, messages_days=None))
    assert Message.objects.count() == 1


def test_old_events_go_and_the_newest_stays(monkeypatch):
    monkeypatch.setattr(retention, "PAGE", 2)
    for created_at in (OLD, OLD, OLD, OLD, YOUNG, OLD):
        Event.objects.create(
            message_id=uuid4(), data=b"", service_type="message", amount_sat=1, created_at=created_at
        )
    seqs = list(Event.objects.order_by("seq").values_list("seq", flat=True))
    assert prune()["events"] == 4
    assert list(Event.objects.order_by("seq").values_list("seq", flat=True)) == seqs[4:]


def test_steps_of_a_lease_stay_while_it_runs():
    for state in (LeaseState.ACTIVE, LeaseState.FREED):
        lease = Lease.objects.create(
            contract_id=uuid4(), buyer="02" * 33, nonce=uuid4().hex, wg_key=state, price_sat=1, state=state
        )
        LeaseStep.objects.create(lease=lease, state=LeaseState.CONTRACTED, created_at=OLD)
    assert prune()["steps of leases that are over"] == 1
    assert LeaseStep.objects.get().lease.state == LeaseState.ACTIVE
