"""Grouped commits and what they store, on a real database."""

import asyncio
from functools import partial
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection

from messaging import database as databases
from messaging import epoch, ledger
from messaging.database import Database, _commit_group
from messaging.epoch import OvertakenError
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


# another process takes over


def test_nothing_is_written_by_who_was_overtaken():
    number = epoch.begin()
    row = message()
    assert _commit_group([(partial(store, row), None)], [], number)[0][2] is None
    epoch.begin()
    jobs = [(partial(store, message()), None), (partial(store, message()), None)]
    errors = [error for _, _, error in _commit_group(jobs, [], number)]
    assert [type(error) for error in errors] == [OvertakenError, OvertakenError]
    assert Message.objects.count() == 1


async def test_who_was_overtaken_is_told_and_may_not_go_on(monkeypatch):
    database = Database(epoch=await asyncio.to_thread(in_a_thread, epoch.begin))
    await database.write(Message.objects.count)
    watching = asyncio.create_task(database.watch_epoch())
    await asyncio.to_thread(in_a_thread, epoch.begin)
    monkeypatch.setattr(databases, "CONFIRMED_SECONDS", 0)
    with pytest.raises(OvertakenError, match="another runimpd has taken over this database"):
        await database.confirm()
    with pytest.raises(OvertakenError):
        await watching
    await database.close()


async def test_what_was_just_written_needs_no_further_confirmation(monkeypatch):
    monkeypatch.setattr(databases, "CONFIRMED_SECONDS", 3_600)
    database = Database(epoch=await asyncio.to_thread(in_a_thread, epoch.begin))
    await database.write(Message.objects.count)
    await asyncio.to_thread(in_a_thread, epoch.begin)
    await database.confirm()
    await database.close()


def in_a_thread(job):
    try:
        return job()
    finally:
        connection.close()
