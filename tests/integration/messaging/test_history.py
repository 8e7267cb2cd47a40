"""The history, and what looks up messages, among many: no more steps of the database than the answer needs."""

from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.utils import timezone

from messaging.budget import expenses_of_messages, spent_on_messages
from messaging.models import UNFINISHED, Direction, Message, State, named
from messaging.services import message_list, messages_pubkeys
from nodeapi.spending import spent_by
from tests.support.databases import only_on_sqlite
from tests.support.outboxes import OTHER_PUBKEY, PUBKEY, empty_database

MANY = 2_000
# An answer of a few rows takes some hundreds, a look at each of the others three times their number.
MAX_STEPS = 2_000
STEPS = 50

SENT = {"direction": Direction.OUT, "state": State.SETTLED, "cost_msat": 1_500}
RECEIVED = {"direction": Direction.IN, "state": State.RECEIVED}

migrated = pytest.fixture(autouse=True)(empty_database)


def message(**fields) -> Message:
    values = {
        "message_id": uuid4(),
        "pubkey": PUBKEY,
        "service": "message",
        "body": b"hello",
        "amount_msat": 1_000,
    }
    return Message(**values | fields)


def store_many(few: list[Message], **fields) -> None:
    """`few` in the middle of many others."""
    others = [message(**{"created_at": timezone.now() - timedelta(days=3)} | fields) for _ in range(MANY)]
    Message.objects.bulk_create([*others[: MANY // 2], *few, *others[MANY // 2 :]])


def steps_of(job) -> int:
    """Of SQLite's machine."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += STEPS

    connection.connection.set_progress_handler(count, STEPS)
    try:
        job()
    finally:
        connection.connection.set_progress_handler(None, 0)
    return steps


def ids(messages: list[dict]) -> list[UUID]:
    return [UUID(found["id"]) for found in messages]


RARE = {
    "direction": (SENT, {"direction": "out"}, RECEIVED),
    "service": (RECEIVED | {"service": "vpn"}, {"service": "vpn"}, RECEIVED),
    "service and direction": (SENT, {"service": "message", "direction": "out"}, RECEIVED),
    "service and state": (SENT | {"service": "vpn"}, {"service": "vpn", "state": "settled"}, SENT),
    "settled": (SENT, {"state": "settled"}, RECEIVED),
    "received": (RECEIVED, {"state": "received"}, SENT),
    "failed": (SENT | {"state": State.FAILED}, {"state": "failed", "direction": "out"}, SENT),
    "retrying": (SENT | {"state": State.RETRYING}, {"state": "retrying", "service": "message"}, SENT),
    "peer": (RECEIVED | {"pubkey": OTHER_PUBKEY}, {"pubkey": OTHER_PUBKEY, "direction": "in"}, RECEIVED),
}


@pytest.mark.parametrize("case", RARE)
@only_on_sqlite
def test_page_of_few_messages_is_found_among_many(case):
    fields, asked, others = RARE[case]
    few = [message(**fields) for _ in range(3)]
    store_many(few, **others)
    assert ids(message_list(**asked)) == [one.message_id for one in reversed(few)]
    assert steps_of(partial(message_list, **asked)) < MAX_STEPS


@pytest.mark.parametrize("state", UNFINISHED)
def test_messages_that_are_under_way_are_listed_by_their_state(state):
    waiting = [message(**SENT | {"state": each}) for each in UNFINISHED]
    Message.objects.bulk_create(waiting)
    (found,) = message_list(state=state)
    assert (found["state"], UUID(found["id"])) == (state, waiting[UNFINISHED.index(state)].message_id)


@only_on_sqlite
def test_messages_are_found_by_their_ids_among_many():
    few = [message(**SENT) for _ in range(3)]
    store_many(few, **SENT)
    wanted = [one.message_id for one in few]
    assert {UUID(found["id"]) for found in messages_pubkeys(wanted)} == set(wanted)
    assert steps_of(partial(messages_pubkeys, wanted)) < MAX_STEPS
    assert steps_of(lambda: list(named(Direction.OUT, wanted))) < MAX_STEPS
    assert not named(Direction.IN, wanted)
    assert steps_of(partial(spent_by, "shop", lambda msat: 0, timezone.now())) < MAX_STEPS


@only_on_sqlite
def test_the_day_is_summed_without_the_days_before():
    few = [message(**SENT) for _ in range(3)]
    store_many(few, **SENT)
    since = timezone.now() - timedelta(days=1)
    assert spent_on_messages(since) == 4_500
    assert [cost for _, cost in expenses_of_messages(since)] == [1_500] * 3
    assert steps_of(partial(spent_on_messages, since)) < MAX_STEPS
    assert steps_of(partial(expenses_of_messages, since)) < MAX_STEPS


def test_pages_follow_each_other():
    sent = [message(**(SENT if index % 3 else RECEIVED)) for index in range(10)]
    Message.objects.bulk_create(sent)
    newest = [one.message_id for one in reversed(sent)]
    for asked in ({}, {"service": "message"}, {"pubkey": PUBKEY}):
        first = ids(message_list(**asked, limit=4))
        assert first == newest[:4]
        assert ids(message_list(**asked, before=first[-1])) == newest[4:]
    assert ids(message_list(direction="in")) == [
        one.message_id for one in reversed(sent) if one.direction == Direction.IN
    ]
    assert message_list(state="received", direction="out") == []
    assert message_list(before=uuid4()) is None
