"""The life of messages as steps on a real database, in any order, repeated, with a process that forgets everything: nothing
is forgotten, told twice or paid twice.
"""

import json
import os
from collections import Counter
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle as Names
from hypothesis.stateful import RuleBasedStateMachine, consumes, invariant, multiple, rule

from messaging import ledger
from messaging.models import UNFINISHED, Attempt, Division, Event, Message, Origin, Part, State
from messaging.outgoing import new_message
from messaging.packing import divide
from messaging.traffic import WHOLE, Key
from protos import envelope_pb2
from tests.support.examples import examples
from tests.support.outboxes import PREIMAGES

PUBKEYS = ["02" + "bb" * 32, "02" + "cc" * 32]
ROOM_BYTES = 420
ENDS = (State.SETTLED, State.FAILED)


@pytest.fixture(autouse=True, scope="module")
def migrated():
    call_command("migrate", verbosity=0)
    yield
    clear()
    connection.close()


def clear() -> None:
    for model in (Part, Division, Message, Attempt, Event):
        model.objects.all().delete()


class Carrier:
    safe_room_bytes = ROOM_BYTES

    def new_secret(self) -> bytes:
        return os.urandom(32)

    def name_of(self, secret: bytes) -> bytes:
        return bytes(reversed(secret))

    def fee_limit_msat(self, amount_msat: int) -> int:
        return 10_000


PAYER = ledger.Payer(pubkey="02" + "aa" * 32, carrier=Carrier(), preimages=PREIMAGES, hints=lambda: ())


class Lives(RuleBasedStateMachine):
    """`paid` is what the far end got: how often each (message, part) was in a payment that lnd settled."""

    attempts = Names("attempts")

    def __init__(self) -> None:
        super().__init__()
        clear()
        self.paid: Counter[tuple[bytes, int]] = Counter()

    # steps

    @rule(
        count=st.integers(1, 4),
        pubkey=st.sampled_from(PUBKEYS),
        size=st.sampled_from([10, 120, 900, 1_500]),
        late=st.booleans(),
    )
    def accept(self, count, pubkey, size, late):
        messages = [
            new_message(service="message", pubkey=pubkey, body=os.urandom(size), origin=Origin.CALLER)
            for _ in range(count)
        ]
        for message in messages:
            if late:
                message.expires_at = timezone.now() - timedelta(seconds=1)
        ledger.store_accepted(messages, [], [])

    @rule(target=attempts, most=st.integers(1, 5), pubkey=st.sampled_from(PUBKEYS))
    def start(self, most, pubkey):
        """What waits for one node, as a new process would find it."""
        keys = [key for key, peer, _ in ledger.waiting_keys() if peer == pubkey]
        started = ledger.start_attempts(keys, PAYER, most=most)
        self._nothing_forgotten(keys, started)
        if started.long:
            division, parts = divide(started.long, room_bytes=ROOM_BYTES)
            assert ledger.start_divided(division, parts, cost_msat=1)
            # Another process that came too late with the same message.
            assert ledger.start_divided(*divide(started.long, room_bytes=ROOM_BYTES), cost_msat=1) == []
        return multiple(*(attempt.pk for attempt, _ in started.attempts))

    def _nothing_forgotten(self, keys: list[Key], started: ledger.Started) -> None:
        gone = [
            (one.message_id, one.index) if isinstance(one, Part) else (one.pk, WHOLE)
            for _, carried in started.attempts
            for one in carried
        ]
        assert sorted(gone + started.left) == sorted(keys)

    @rule(
        name=consumes(attempts),
        how=st.sampled_from(["settle", "settle", "fail", "retry", "retry alone"]),
        times=st.integers(1, 2),
    )
    def end(self, name, how, times):
        """An attempt ends; a process that was killed before it knew that this was stored does it again."""
        attempt = Attempt.objects.get(pk=name)
        # One whose end is stored: nothing of this may change anything.
        if how == "settle" and attempt.state == Attempt.State.IN_FLIGHT:
            self.paid.update(
                (item.id, item.part.index) for item in envelope_pb2.Packet.FromString(attempt.packet).items
            )
        for _ in range(times):
            carried = ledger._carried_by(attempt)
            if how == "settle":
                ledger.settle([(attempt, carried, 7)], published=_nobody)
            elif how == "fail":
                ledger.fail(attempt, carried, cause="no", published=_nobody)
            else:
                ledger.retry(
                    attempt,
                    carried,
                    cause="later",
                    delay_seconds=0,
                    alone=how == "retry alone",
                    published=_nobody,
                )

    @rule(target=attempts)
    def forget_all(self):
        """A new process takes up what is under way, with what it carries."""
        for _, carried in ledger.unfinished_attempts():
            assert carried
        return multiple(*Attempt.objects.filter(state=Attempt.State.IN_FLIGHT).values_list("pk", flat=True))

    @rule()
    def expire(self):
        ledger.expire(published=_nobody)

    @rule(pubkey=st.sampled_from(PUBKEYS))
    def no_way_now(self, pubkey):
        message = Message.objects.filter(
            pubkey=pubkey, parts=1, state__in=(State.QUEUED, State.RETRYING)
        ).first()
        if message:
            ledger.put_off(message, cause="no route", delay_seconds=0, published=_nobody)

    # what always holds

    @invariant()
    def each_end_is_told_once(self):
        told = Counter(
            event.message_id
            for event in Event.objects.all()
            if json.loads(bytes(event.data))["state"] in ENDS
        )
        ended = set(Message.objects.filter(state__in=ENDS).values_list("message_id", flat=True))
        assert set(told) == ended
        assert set(told.values()) <= {1}

    @invariant()
    def nothing_is_paid_twice(self):
        assert not [name for name, times in self.paid.items() if times > 1]

    @invariant()
    def settled_means_that_all_of_it_was_paid(self):
        for message in Message.objects.all():
            paid = sum(1 for identity, _ in self.paid if identity == message.message_id.bytes)
            if message.state == State.SETTLED:
                assert paid == message.parts
            elif message.parts == 1:
                assert paid == 0
            if message.state == State.FAILED and paid:
                assert f"on {paid} of {message.parts} parts" in message.error

    @invariant()
    def what_has_not_ended_waits_or_is_under_way(self):
        waiting = {key[0] for key, _, _ in ledger.waiting_keys()}
        under_way = {
            one.message_id if isinstance(one, Part) else one.pk
            for _, carried in ledger.unfinished_attempts()
            for one in carried
        }
        assert (
            set(Message.objects.filter(state__in=UNFINISHED).values_list("pk", flat=True))
            == waiting | under_way
        )
        assert not Division.objects.exclude(message__state__in=UNFINISHED).exists()

    @invariant()
    def nothing_fails_while_it_may_be_paid(self):
        for _, carried in ledger.unfinished_attempts():
            for one in carried:
                message = one.message if isinstance(one, Part) else one
                assert message.state == State.IN_FLIGHT


def _nobody(events) -> None:
    """The events are in the log."""


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=examples(30), stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([None, None], 10_000),
        ([1_500], 1_500),
        ([1_500, 0], 1_500),
        ([None, 1_500], 10_000),
        ([99_000], 10_000),
    ],
)
def test_payment_has_no_more_fee_limit_than_what_it_carries_permits(limits, expected):
    """And never more than usual."""
    clear()
    messages = [
        new_message(service="message", pubkey=PUBKEYS[0], body=b"x", origin=Origin.CALLER) for _ in limits
    ]
    for message, limit in zip(messages, limits, strict=True):
        message.fee_limit_msat = limit
    ledger.store_accepted(messages, [], [])
    keys = [key for key, _, _ in ledger.waiting_keys()]
    started = ledger.start_attempts(keys, PAYER, most=5)
    assert [attempt.fee_limit_msat for attempt, _ in started.attempts] == [expected]
    assert Attempt.objects.get().fee_limit_msat == expected


def test_what_was_asked_for_and_answers_wait_in_queues_of_their_own():
    clear()
    messages = [
        new_message(service="message", pubkey=PUBKEYS[0], body=b"x", origin=origin)
        for origin in (Origin.CALLER, None, Origin.ANSWER, Origin.SALE)
    ]
    Message.objects.bulk_create(messages)
    keys = list(Message.objects.order_by("pk").values_list("pk", flat=True))
    assert [key[0] for key, _, _ in ledger.waiting_keys()] == keys[:2]
    assert [message.pk for message, _ in ledger.waiting_answers()] == keys[2:]


# what somebody else has moved since it was read


def stored(size: int = 10) -> Message:
    message = new_message(service="message", pubkey=PUBKEYS[0], body=os.urandom(size), origin=Origin.CALLER)
    ledger.store_accepted([message], [], [])
    return message


@pytest.mark.parametrize("state", [State.IN_FLIGHT, State.SETTLED, State.FAILED])
def test_message_that_does_not_wait_any_more_is_not_started(monkeypatch, state):
    clear()
    message = stored()
    read = ledger._waiting

    def read_then_moved(keys):
        found = read(keys)
        Message.objects.filter(pk=message.pk).update(state=state)
        return found

    monkeypatch.setattr(ledger, "_waiting", read_then_moved)
    with pytest.raises(ledger.ChangedMeanwhileError), transaction.atomic():
        ledger.start_attempts([(message.pk, WHOLE)], PAYER, most=1)
    assert not Attempt.objects.exists()


def test_part_that_does_not_wait_any_more_is_not_started(monkeypatch):
    clear()
    division, parts = divide(stored(1_500), room_bytes=ROOM_BYTES)
    keys = ledger.start_divided(division, parts, cost_msat=1)
    read = ledger._waiting

    def read_then_moved(keys):
        found = read(keys)
        Part.objects.filter(index=1).update(state=State.SETTLED)
        return found

    monkeypatch.setattr(ledger, "_waiting", read_then_moved)
    with pytest.raises(ledger.ChangedMeanwhileError), transaction.atomic():
        ledger.start_attempts(keys, PAYER, most=9)
    assert not Attempt.objects.exists()


def test_message_that_does_not_wait_any_more_is_not_divided(monkeypatch):
    clear()
    message = stored(1_500)
    division, parts = divide(message, room_bytes=ROOM_BYTES)
    read = ledger._waiting

    def read_then_moved(keys):
        found = read(keys)
        Message.objects.filter(pk=message.pk).update(state=State.IN_FLIGHT)
        return found

    monkeypatch.setattr(ledger, "_waiting", read_then_moved)
    with pytest.raises(ledger.ChangedMeanwhileError), transaction.atomic():
        ledger.start_divided(division, parts, cost_msat=1)
    assert not Division.objects.exists()
