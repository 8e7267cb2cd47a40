"""Grouped commits and what they store, on a real database."""

from functools import partial
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection

from messaging import ledger
from messaging.database import _commit_group
from messaging.models import Direction, Event, Message, State


@pytest.fixture(autouse=True)
def migrated():
    call_command("migrate", verbosity=0)
    Message.objects.all().delete()
    Event.objects.all().delete()
    yield
    connection.close()


def message() -> Message:
    return Message(
        message_id=uuid4(),
        direction=Direction.OUT,
        pubkey="02" * 33,
        service="message",
        body=b"x",
        amount_msat=1000,
        state=State.QUEUED,
    )


def store(row: Message) -> None:
    ledger.store_accepted([row], [], [])


def fail() -> None:
    raise OperationalError("disk is full")


def results(*jobs) -> list[Exception | None]:
    return [error for _, _, error in _commit_group([(job, None) for job in jobs], [])]


def test_one_job_that_fails_fails_alone():
    first, last = message(), message()
    errors = results(partial(store, first), fail, partial(store, last))
    assert [type(error) for error in errors] == [type(None), OperationalError, type(None)]
    assert set(Message.objects.values_list("message_id", flat=True)) == {first.message_id, last.message_id}


def test_job_that_was_rolled_back_runs_again_after_others_took_its_keys():
    retried = message()

    def store_and_fail() -> None:
        store(retried)
        fail()

    assert isinstance(results(store_and_fail)[0], OperationalError)
    other = message()
    assert results(partial(store, other), partial(store, retried)) == [None, None]
    assert Message.objects.count() == 2
