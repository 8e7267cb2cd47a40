"""What the inbound policy lets in, on a real database: the same in whatever batches, however often it is told."""

import hashlib
import os
from collections import Counter
from dataclasses import asdict, replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from messaging import clock, peers, policy
from messaging.answers import AnswerTerms
from messaging.envelope import ItemPart
from messaging.inbox import Arrival, store_arrivals
from messaging.joining import Arrived, Bounds, forget_old
from messaging.models import (
    Assembly,
    Direction,
    Event,
    InboundPolicy,
    InboundUse,
    Income,
    Message,
    Origin,
    Peer,
    ReceivedHtlc,
    ReceivedPart,
    Refused,
    State,
)
from messaging.policy import Rules, refused_totals
from messaging.registry import Registry
from tests.support.examples import examples

STRANGER, OTHER, FRIEND, FOE = (f"02{number:064x}" for number in range(1, 5))
BOUNDS = Bounds(max_bytes=20_000, per_peer=64, in_all=1_024, received_bytes=2**26, seconds=90_000)
NOON = 1_800_000_000.0


class Row:
    def __init__(self, service_type: str, number: int):
        self.service_type, self.active, self.custom_record_number = service_type, True, number


REGISTRY = Registry([Row("message", 400_000), Row("websocket", 300_000)])


@pytest.fixture(autouse=True, scope="module")
def migrated():
    call_command("migrate", verbosity=0)
    yield
    clear()
    connection.close()


@pytest.fixture(autouse=True)
def emptied(migrated):
    clear()


def clear() -> None:
    models = (
        ReceivedPart,
        Assembly,
        Message,
        Peer,
        InboundPolicy,
        InboundUse,
        Income,
        Refused,
        ReceivedHtlc,
        Event,
    )
    for model in models:
        model.objects.all().delete()
    peers._touched_at.clear()


def known_ones() -> None:
    Peer.objects.create(pubkey=FRIEND, marked=True)
    Peer.objects.create(pubkey=FOE, marked=True, blocked=True)


def arrival(
    sender: str = STRANGER, *, sat: int = 1, body: bytes = b"hello", service="message", **fields
) -> Arrival:
    message = Message(
        **{
            "message_id": uuid4(),
            "direction": Direction.IN,
            "pubkey": sender,
            "service": service,
            "body": body,
            "amount_msat": sat * 1000,
            "state": State.RECEIVED,
        }
        | fields
    )
    return Arrival(key=os.urandom(32), messages=((REGISTRY.by_type(service), message),))


def parts(
    sender: str = STRANGER, *, count: int = 3, sat: int = 1, body: bytes = b"", **fields
) -> list[Arrival]:
    """A long message, a part in each; every part pays so much."""
    identity, body = uuid4(), body or os.urandom(30 * count)
    each = len(body) // count
    made = [
        ItemPart(
            **{
                "id": identity,
                "reply_to": None,
                "body": body[index * each : (index + 1) * each],
                "amount_msat": sat * 1000,
                "sent_at_ms": 0,
                "compression": 0,
                "index": index,
                "count": count,
                "size": len(body),
                "sha256": hashlib.sha256(body).digest(),
            }
            | fields
        )
        for index in range(count)
    ]
    return [
        Arrival(key=os.urandom(32), messages=(), parts=(Arrived(sender, "message", part),)) for part in made
    ]


NO_LIMITS = Rules()


def take(
    *arrivals: Arrival, rules: Rules = NO_LIMITS, now: float = NOON, strangers_bytes_per_hour: int = 0
) -> Counter:
    """Stores these as one batch; what was refused of it, by service and cause."""
    with transaction.atomic():
        stored = store_arrivals(
            list(arrivals),
            registry=REGISTRY,
            bounds=BOUNDS,
            published=lambda events: None,
            answer_terms=AnswerTerms(),
            policies={"message": rules, "websocket": Rules()},
            strangers_bytes_per_hour=strangers_bytes_per_hour,
            now_seconds=now,
        )
    return stored.refused


def told() -> list[bytes]:
    """The bodies that the stream tells, and the history keeps: the same."""
    events = [bytes(event.data) for event in Event.objects.order_by("seq")]
    stored = Message.objects.filter(direction=Direction.IN).order_by("pk").values_list("body", flat=True)
    assert sorted(events) == sorted(bytes(body) for body in stored)
    return events


def ask(
    pubkey: str, service: str = "message", *, origin: Origin | None = Origin.CALLER, body: bytes = b"?"
) -> UUID:
    """A message of ours."""
    message = Message.objects.create(
        message_id=uuid4(),
        direction=Direction.OUT,
        pubkey=pubkey,
        service=service,
        body=body,
        amount_msat=1_000,
        state=State.SETTLED,
        origin=origin,
    )
    return message.message_id


@pytest.mark.parametrize(
    ("rules", "sender", "cause"),
    [
        (Rules(), FOE, "blocked"),
        (Rules(only_known=True), STRANGER, "not_known"),
        (Rules(only_known=True), "", "not_known"),
        (Rules(only_known=True), FRIEND, None),
        (Rules(min_amount_sat=2), STRANGER, "amount"),
        (Rules(min_amount_sat=2), FRIEND, "amount"),
        (Rules(min_amount_sat=2), "", "amount"),
        (Rules(min_amount_sat=1), STRANGER, None),
        (Rules(peer_bytes_per_hour=4), FRIEND, "peer_bytes"),
        (Rules(all_bytes_per_hour=4), FRIEND, "all_bytes"),
        (Rules(), STRANGER, None),
    ],
)
def test_who_is_refused_and_why(rules, sender, cause):
    known_ones()
    one = arrival(sender, sat=1)
    for _ in range(3):
        take(one, rules=rules)
    assert refused_totals() == ({("message", cause): 1} if cause else {})
    assert told() == ([] if cause else [b"hello"])
    assert ReceivedHtlc.objects.count() == 1
    if cause:
        row = Refused.objects.get()
        assert (row.count, row.amount_msat) == (1, 1_000)
        assert not Peer.objects.filter(pubkey=STRANGER).exists()


def test_strangers_share_one_quota_of_bytes():
    known_ones()
    limit = {"strangers_bytes_per_hour": 12}
    take(arrival(STRANGER), arrival(OTHER, service="websocket"), **limit)
    take(arrival(STRANGER, body=b"too"), arrival(OTHER, body=b"it"), arrival(""), arrival(FRIEND), **limit)
    take(arrival(OTHER, body=b"x"), **limit)
    assert refused_totals() == {("message", "strangers_bytes"): 3}
    assert told() == [b"hello", b"hello", b"it", b"hello"]


def test_strangers_quota_is_of_an_hour(monkeypatch):
    began = timezone.now()
    limit = {"strangers_bytes_per_hour": 5}
    for minutes, refused in ((0, 0), (55, 1), (66, 1), (67, 2)):
        monkeypatch.setattr(clock, "now", lambda minutes=minutes: began + timedelta(minutes=minutes))
        take(arrival(), **limit)
        assert sum(refused_totals().values()) == refused


def test_long_message_of_a_stranger_counts_when_it_is_whole():
    limit = {"strangers_bytes_per_hour": 100}
    take(*parts(count=3), **limit)
    take(arrival(body=b"11 bytes..."), arrival(body=b"10 bytes.."), **limit)
    take(*parts(count=3), **limit)
    assert refused_totals() == {("message", "strangers_bytes"): 4}
    assert not Assembly.objects.exists()


def test_answer_that_was_asked_for_is_no_strangers_message():
    asked = ask(STRANGER)
    take(arrival(reply_to=asked), strangers_bytes_per_hour=1)
    assert told() == [b"hello"]


def test_rules_are_of_one_service():
    take(arrival(), arrival(service="websocket"), rules=Rules(min_amount_sat=5))
    assert refused_totals() == {("message", "amount"): 1}
    assert Message.objects.get(direction=Direction.IN).service == "websocket"


def test_quota_of_one_peer_is_its_own_and_comes_again():
    rules = Rules(peer_messages_per_hour=2)
    take(*(arrival() for _ in range(5)), arrival(OTHER), rules=rules)
    assert refused_totals() == {("message", "peer_messages"): 3}
    take(arrival(), rules=rules, now=NOON + 3_599)
    assert refused_totals() == {("message", "peer_messages"): 4}
    take(arrival(), rules=rules, now=NOON + 3_900)
    assert refused_totals() == {("message", "peer_messages"): 4}
    assert len(told()) == 4


def test_unsigned_records_share_one_quota():
    take(*(arrival("") for _ in range(3)), arrival(), rules=Rules(peer_messages_per_hour=1))
    assert refused_totals() == {("message", "peer_messages"): 2}


def test_strangers_leave_half_of_what_may_come_in_all_to_known_peers():
    known_ones()
    rules = Rules(all_messages_per_hour=6)
    strangers = [arrival(f"03{number:064x}") for number in range(10)]
    take(*strangers, rules=rules)
    assert refused_totals() == {("message", "all_messages"): 7}
    take(*(arrival(FRIEND) for _ in range(4)), rules=rules)
    assert refused_totals() == {("message", "all_messages"): 8}
    assert len(told()) == 6


def test_answers_to_our_messages_pass_but_not_of_blocked_peers():
    known_ones()
    closed = Rules(only_known=True, min_amount_sat=1_000, peer_messages_per_hour=1)
    ours, to_another, of_another_service = ask(STRANGER), ask(OTHER), ask(STRANGER, "websocket")
    take(arrival(reply_to=ours), arrival(reply_to=ours), rules=closed)
    assert (len(told()), refused_totals()) == (2, {})
    take(
        arrival(reply_to=to_another),
        arrival(reply_to=of_another_service),
        arrival(reply_to=uuid4()),
        rules=closed,
    )
    assert (len(told()), refused_totals()) == (2, {("message", "not_known"): 3})
    take(arrival(FOE, reply_to=ask(FOE)), rules=closed)
    assert refused_totals()["message", "blocked"] == 1
    # A long one too.
    take(*parts(reply_to=ours), rules=closed)
    assert len(told()) == 3


def test_so_many_answers_pass_and_no_more():
    asked = [ask(STRANGER) for _ in range(30)]
    rules = Rules(min_amount_sat=1_000)
    for _ in range(4):
        take(*(arrival(reply_to=ours) for ours in asked), rules=rules)
    assert len(told()) == policy.MAX_FREE_ANSWERS
    assert refused_totals() == {("message", "amount"): 120 - policy.MAX_FREE_ANSWERS}


@pytest.mark.parametrize("batches", [1, 3])
def test_one_message_lets_few_answers_in(batches):
    ours, rules = ask(STRANGER), Rules(min_amount_sat=1_000)
    for _ in range(batches):
        take(*(arrival(reply_to=ours) for _ in range(30)), rules=rules)
    take(*parts(reply_to=ours), rules=rules)
    assert len(told()) == policy.MAX_FREE_ANSWERS_TO_ONE
    refused = 30 * batches - policy.MAX_FREE_ANSWERS_TO_ONE + 1
    assert refused_totals() == {("message", "amount"): refused}
    # Who pays the price answers as often as it likes.
    take(*(arrival(reply_to=ours, sat=1_000) for _ in range(10)), rules=rules)
    assert len(told()) == policy.MAX_FREE_ANSWERS_TO_ONE + 10


@pytest.mark.parametrize("origin", [Origin.ANSWER, Origin.SALE])
def test_what_this_node_was_made_to_say_lets_nothing_in(origin):
    """Else one paid message would bring a refusal, and its id everything else for nothing."""
    ours = ask(STRANGER, origin=origin)
    take(arrival(reply_to=ours), rules=Rules(min_amount_sat=30))
    take(*parts(reply_to=ours, sat=1), rules=Rules(min_amount_sat=30))
    assert (told(), refused_totals()) == ([], {("message", "amount"): 2})


@pytest.mark.parametrize(
    ("service", "question", "answer", "passes"),
    [
        ("vpn", b'{"type": "quote_request"}', b'{"type": "refusal", "reason": "full"}', True),
        ("vpn", b'{"type": "quote_request"}', b'{"type": "quote_request"}', False),
        ("vpn", b'{"type": "refusal", "reason": "full"}', b'{"type": "refusal", "reason": "full"}', False),
        ("federate", b'{"type": "request", "ttl": 60}', b'{"type": "refuse"}', True),
        ("federate", b'{"type": "request", "ttl": 60}', b'{"type": "leave"}', False),
        ("federate", b'{"type": "leave"}', b'{"type": "refuse"}', False),
    ],
)
def test_only_what_was_asked_for_passes(service, question, answer, passes):
    ours = ask(STRANGER, service, body=question)
    item = policy.Item(
        sender=STRANGER,
        service=service,
        reply_to=ours,
        amount_msat=1_000,
        size_bytes=len(answer),
        body=answer,
    )
    judge = policy.Judge({service: Rules(min_amount_sat=30)}, [item], NOON)
    assert judge.admits(item) == passes


def test_long_message_pays_what_its_parts_pay():
    take(*parts(count=3, sat=2), rules=Rules(min_amount_sat=6))
    assert (len(told()), refused_totals()) == (1, {})
    short = parts(count=3, sat=2)
    for one in short:
        take(one, rules=Rules(min_amount_sat=7))
    take(*short, rules=Rules(min_amount_sat=7))
    assert (len(told()), refused_totals()) == (1, {("message", "amount"): 1})
    assert Refused.objects.get().amount_msat == 6_000
    assert not Assembly.objects.exists()
    assert not ReceivedPart.objects.exists()


@pytest.mark.parametrize(("sender", "rules"), [(FOE, Rules()), (STRANGER, Rules(only_known=True))])
def test_parts_of_those_who_may_not_send_take_no_room(sender, rules):
    known_ones()
    for one in parts(sender):
        take(one, rules=rules)
    assert sum(refused_totals().values()) == 3
    assert not Assembly.objects.exists()
    assert not Message.objects.exists()


def test_long_message_does_not_begin_when_the_quota_is_used_up():
    rules = Rules(peer_messages_per_hour=1)
    begun, late = parts(), parts()
    take(begun[0], rules=rules)
    take(arrival(), rules=rules)
    take(*late, rules=rules)
    assert refused_totals() == {("message", "peer_messages"): 3}
    assert Assembly.objects.count() == 1
    # What had begun is judged when it is whole.
    take(*begun[1:], rules=rules)
    assert refused_totals() == {("message", "peer_messages"): 4}
    assert not Assembly.objects.exists()
    assert len(told()) == 1


def test_declared_size_that_is_too_much_takes_no_room():
    take(*parts(), rules=Rules(all_bytes_per_hour=100))
    assert refused_totals() == {("message", "all_bytes"): 3}
    assert not Assembly.objects.exists()
    assert not Peer.objects.exists()


def test_what_is_incomplete_of_a_peer_that_is_blocked_is_forgotten():
    take(*parts()[:2])
    take(*parts(OTHER)[:2])
    Peer.objects.filter(pubkey=STRANGER).update(blocked=True)
    assert forget_old(BOUNDS) == 1
    assert Assembly.objects.get().pubkey == OTHER


def test_the_admin_overrides_the_configuration_at_once():
    configured = Rules(min_amount_sat=5, peer_messages_per_hour=100)
    policy.tell_configured({"message": configured, "websocket": Rules()})
    take(arrival(sat=4), rules=configured)
    row = InboundPolicy.objects.get(pk="message")
    assert row.configured == asdict(configured)
    row.min_amount_sat = 0
    row.only_known = False
    row.save()
    take(arrival(sat=4), rules=configured)
    assert (len(told()), refused_totals()) == (1, {("message", "amount"): 1})
    # A start with another configuration leaves what the admin said.
    policy.tell_configured({"message": replace(configured, min_amount_sat=9)})
    row.refresh_from_db()
    assert (row.min_amount_sat, row.configured["min_amount_sat"]) == (0, 9)


def test_strangers_without_end_leave_nothing_but_a_count():
    rules = Rules(only_known=True, peer_messages_per_hour=5, all_bytes_per_hour=1_000_000)
    for start in range(0, 3_000, 500):
        take(*(arrival(f"03{number:064x}") for number in range(start, start + 500)), rules=rules)
    assert refused_totals() == {("message", "not_known"): 3_000}
    assert [model.objects.count() for model in (Peer, InboundUse, Message, Event)] == [0, 0, 0, 0]


def test_refusals_of_peers_that_are_stored_stand_with_them():
    known_ones()
    take(arrival(FOE), arrival(FOE), arrival())
    assert dict(Peer.objects.values_list("pubkey", "refused")) == {FOE: 2, FRIEND: 0, STRANGER: 0}


def test_uses_that_are_over_are_forgotten():
    take(arrival(), rules=Rules(peer_messages_per_hour=1))
    policy.forget_old_uses(NOON + 3_600)
    assert InboundUse.objects.count() == 1
    policy.forget_old_uses(NOON + 4_200)
    assert InboundUse.objects.count() == 0


rules_drawn = st.builds(
    Rules,
    min_amount_sat=st.integers(0, 3),
    only_known=st.booleans(),
    peer_messages_per_hour=st.integers(0, 4),
    peer_bytes_per_hour=st.integers(0, 40),
    all_messages_per_hour=st.integers(0, 8),
    all_bytes_per_hour=st.integers(0, 80),
)
senders_drawn = st.sampled_from(["", STRANGER, OTHER, FRIEND, FOE])
singles = st.builds(
    lambda sender, sat, size: [arrival(sender, sat=sat, body=b"x" * size)],
    senders_drawn,
    st.integers(0, 4),
    st.integers(1, 20),
)
longs = st.builds(
    lambda sender, sat, size: parts(sender, count=2, sat=sat, body=os.urandom(2 * size)),
    senders_drawn.filter(bool),
    st.integers(0, 2),
    st.integers(1, 10),
)


@settings(max_examples=examples(40), deadline=None)
@given(
    rules_drawn, st.lists(st.one_of(singles, singles, longs), max_size=12), st.randoms(use_true_random=False)
)
def test_the_same_whatever_the_batches_and_however_often_told(rules, drawn, dice):
    """One payment at a time, or in batches of which some were told before, as a stream and a walk do."""
    arrivals = [one for group in drawn for one in group]
    results, refused_of = [], []
    for batched in (False, True):
        clear()
        known_ones()
        rest = list(arrivals)
        while rest:
            count = dice.randint(1, 5) if batched else 1
            told_before = arrivals[: len(arrivals) - len(rest)]
            again = dice.sample(told_before, 1) if batched and told_before else []
            take(*rest[:count], *again, rules=rules)
            rest = rest[count:]
        refused_of.append(dict(Peer.objects.values_list("pubkey", "refused")))
        known = {pubkey: refused_of[-1][pubkey] for pubkey in (FRIEND, FOE)}
        results.append((sorted(told()), refused_totals(), known, refused_of[-1].keys()))
    # Whole messages of a batch come before those that become whole in it: with long ones quotas may fall otherwise.
    if all(len(group) == 1 for group in drawn):
        assert results[0] == results[1]
        # A stranger's refusals count once it is stored, which may be done in the batch that refuses.
        assert all(refused_of[0][pubkey] <= refused_of[1][pubkey] for pubkey in refused_of[0])
    total = sum(results[1][1].values()) + len(results[1][0])
    assert total <= len(arrivals)


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.integers(0, 1_500), max_size=30), st.integers(1, 5))
def test_no_hour_sees_more_than_the_quota(pauses, quota):
    clear()
    now, taken = NOON, []
    for pause in pauses:
        now += pause
        if not take(arrival(), rules=Rules(peer_messages_per_hour=quota), now=now):
            taken.append(now)
    assert all(sum(start <= moment < start + 3_600 for moment in taken) <= quota for start in taken)
