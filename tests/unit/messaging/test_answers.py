"""What unasked messages may cost, on a real database: no more than was paid for them before, in whatever order they come."""

import os
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from messaging import answers, deliveries, income, peers
from messaging.answers import AnswerTerms, admit, give_back, paid_from, pay_in
from messaging.budget import spent_on_messages
from messaging.models import Account, Direction, Event, Income, Message, Origin, Peer, State
from messaging.outgoing import new_message
from tests.support.outboxes import OTHER_PUBKEY, PUBKEY
from tests.support.tables import emptied

pytestmark = pytest.mark.sql

TERMS = AnswerTerms(fee_limit_msat=lambda amount_msat: 10_000)


@pytest.fixture(autouse=True)
def tables(migrated: None) -> Iterator[None]:
    peers._touched_at.clear()
    yield from emptied([Message, Account, Income, Peer, Event])


def item(amount_msat: int) -> Message:
    """What a stranger has sent, and paid for."""
    received = Message.objects.create(
        message_id=uuid4(),
        direction=Direction.IN,
        pubkey=PUBKEY,
        service="message",
        body=b"?",
        amount_msat=amount_msat,
        state=State.RECEIVED,
    )
    income.note(amount_msat)
    return received


def answer(received: Message | None = None, **fields) -> Message:
    return new_message(
        **{
            "service": "message",
            "pubkey": PUBKEY,
            "body": b"!",
            "reply_to": received.message_id if received else None,
        }
        | fields
    )


def costs(messages: list[Message]) -> list[tuple[int, int]]:
    """Amount and fee limit of each."""
    return [(message.amount_msat, message.fee_limit_msat or 0) for message in messages]


@pytest.mark.parametrize(
    ("paid_msat", "expected"),
    [
        (0, []),
        (999, []),
        (1_000, [(1_000, 0)]),
        (2_500, [(1_000, 1_500)]),
        (11_000, [(1_000, 10_000)]),
        (50_000, [(1_000, 10_000)]),
    ],
)
def test_answer_costs_what_its_item_paid_and_never_more_than_usual(paid_msat, expected):
    received = item(paid_msat)
    found = admit([answer(received, amount_sat=7)], TERMS, item=received)
    assert costs(found.messages) == expected
    assert found.refused == Counter({} if expected else {("message", "unpaid"): 1})
    stored = list(Message.objects.filter(direction=Direction.OUT))
    assert costs(stored) == expected
    for message in stored:
        assert (message.origin, message.max_attempts, message.paid_by) == (Origin.ANSWER, 1, received.pk)
        assert message.cost_msat == message.amount_msat + message.fee_limit_msat


def test_several_answers_share_what_was_paid():
    received = item(5_000)
    found = admit([answer(received) for _ in range(3)], TERMS, item=received)
    assert costs(found.messages) == [(1_000, 666)] * 3
    received.refresh_from_db()
    found = admit([answer(received)], TERMS, item=received)
    assert (found.messages, found.refused) == ([], {("message", "unpaid"): 1})


def test_answer_that_a_worker_stores_later_is_paid_by_what_it_answers():
    received = item(5_000)
    assert len(admit([answer(received)], TERMS).messages) == 1
    assert admit([answer(received)], TERMS).refused == {("message", "unpaid"): 1}
    # Of another node, of nothing, or of a message that was sent from here.
    ours = admit([answer(item(3_000))], TERMS).messages[0]
    for other in (answer(received, pubkey=OTHER_PUBKEY), answer(), answer(ours)):
        assert admit([other], TERMS).refused == {("message", "unpaid"): 1}


@pytest.mark.parametrize("origin", Origin)
def test_what_a_service_says_of_an_answer_does_not_matter(origin):
    received = item(1_000)
    claimed = answer(received, origin=origin)
    claimed.fee_limit_msat, claimed.max_attempts, claimed.cost_msat = 1_000_000, None, 0
    (stored,) = admit([claimed], TERMS, item=received).messages
    assert (stored.origin, stored.fee_limit_msat, stored.max_attempts, stored.cost_msat) == (
        Origin.ANSWER,
        0,
        1,
        1_000,
    )


def test_answer_that_is_too_long_for_one_payment_is_not_sent():
    received = item(900_000)
    found = admit([answer(received, body=os.urandom(1_300))], TERMS, item=received)
    assert (found.messages, found.refused) == ([], {("message", "too_long"): 1})
    text = b" ".join(b"line %d of a text" % number for number in range(150))
    assert admit([answer(received, body=text)], TERMS, item=received).messages


def test_nobody_is_answered_who_names_no_key():
    received = item(9_000)
    found = admit([answer(received, pubkey="")], TERMS, item=received)
    assert found.refused == {("message", "no_recipient"): 1}


def test_known_peers_have_a_second_attempt():
    Peer.objects.create(pubkey=PUBKEY, written_to=True)
    received = item(9_000)
    (stored,) = admit([answer(received)], TERMS, item=received).messages
    assert stored.max_attempts == 2


def end(message: Message, state: State, cost_msat: int) -> None:
    Message.objects.filter(pk=message.pk).update(state=State.IN_FLIGHT)
    message.cost_msat = cost_msat
    for _ in range(2):
        deliveries.move([message], state, timezone.now(), published=lambda events: None)


@pytest.mark.parametrize(("state", "cost_msat"), [(State.SETTLED, 1_500), (State.FAILED, 0)])
def test_what_an_answer_has_not_cost_is_there_for_the_next(state, cost_msat):
    received = item(4_000)
    (first,) = admit([answer(received)], TERMS, item=received).messages
    end(first, state, cost_msat)
    received.refresh_from_db()
    assert received.answers_msat == cost_msat
    (second,) = admit([answer(received)], TERMS).messages
    assert costs([second]) == [(1_000, 3_000 - cost_msat)]


def sale(account: str = "lease 1") -> Message:
    return paid_from(new_message(service="message", pubkey=PUBKEY, body=b"!"), account)


def test_what_is_told_of_a_sale_is_paid_by_its_price():
    pay_in("lease 1", 10_000)
    found = admit([sale() for _ in range(5)], TERMS)
    assert costs(found.messages) == [(1_000, 4_000), (1_000, 1_500), (1_000, 250), (1_000, 0)]
    assert found.refused == {("message", "unpaid"): 1}
    account = Account.objects.get()
    assert account.spent_msat == sum(amount + limit for amount, limit in costs(found.messages))
    end(found.messages[0], State.SETTLED, 1_000)
    account.refresh_from_db()
    assert account.spent_msat == 9_750 - 4_000
    # What is paid later counts, and what was paid before once.
    for _ in range(2):
        pay_in("lease 1", 40_000)
    assert costs(admit([sale()], TERMS).messages) == [(1_000, 10_000)]


def test_sale_that_nobody_has_paid_for_tells_nothing():
    assert admit([sale("lease 2")], TERMS).refused == {("message", "unpaid"): 1}
    pay_in("lease 2", 0)
    assert admit([sale("lease 2")], TERMS).refused == {("message", "unpaid"): 1}


def test_budget_is_what_others_have_paid_lately_and_the_allowance():
    old, received = item(3_000), item(2_000)
    # What was paid long ago permits nothing today.
    Income.objects.all().delete()
    assert admit([answer(old)], TERMS).refused == {("message", "over_budget"): 1}
    income.note(1_000)
    assert costs(admit([answer(received)], TERMS).messages) == [(1_000, 0)]
    assert admit([answer(old)], TERMS).refused == {("message", "over_budget"): 1}
    generous = AnswerTerms(fee_limit_msat=lambda amount_msat: 10_000, allowance_msat=1_500)
    assert costs(admit([answer(old)], generous).messages) == [(1_000, 500)]
    assert (answers.budget(1_500).limit_msat, answers.budget(1_500).used_msat) == (2_500, 2_500)


def test_income_is_forgotten_after_a_day():
    income.note(5_000)
    step = Income.objects.get().step
    Income.objects.update(step=step - 288)
    assert answers.budget(0).limit_msat == 0
    income.note(1_000)
    income.note(1_000)
    assert answers.budget(0).limit_msat == 2_000
    Income.objects.filter(step=step).delete()
    Income.objects.create(step=step - 289, paid_msat=1)
    income.note(1_000)
    assert Income.objects.filter(step__gte=step - 288).count() == Income.objects.count()


def test_answers_do_not_count_for_the_operators_budget():
    received = item(9_000)
    admit([answer(received)], TERMS, item=received)
    since = timezone.now() - timedelta(hours=1)
    assert spent_on_messages(since) == 0
    for origin in (Origin.CALLER, None):
        Message.objects.create(
            message_id=uuid4(),
            direction=Direction.OUT,
            pubkey=PUBKEY,
            service="message",
            body=b"!",
            amount_msat=1_000,
            cost_msat=7_000,
            state=State.QUEUED,
            origin=origin,
        )
    assert spent_on_messages(since) == 14_000
    assert answers.budget(0).used_msat == 9_000


def test_giving_back_nothing_changes_nothing():
    received = item(1_000)
    (stored,) = admit([answer(received)], TERMS, item=received).messages
    give_back(stored)
    received.refresh_from_db()
    assert received.answers_msat == 1_000


def test_service_hears_of_an_answer_that_is_not_sent(monkeypatch):
    told = []
    monkeypatch.setattr(
        answers, "on_failed", lambda service: lambda message, cause: told.append((message, cause)) or []
    )
    refused = answer(item(0))
    admit([refused], TERMS)
    assert told == [(refused, "what was paid does not pay for the answer")]
