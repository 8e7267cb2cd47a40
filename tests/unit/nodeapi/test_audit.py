"""The audit log: rows and lines of calls and refusals, bounded, and none lost while the database is away."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import grpc
import pytest
from django.db import OperationalError

from messaging import notes
from messaging.database import Database
from nodeapi import audit
from nodeapi.audit import REFUSALS_A_MINUTE, AuditLog, Thinned
from nodeapi.calling import Call
from nodeapi.errors import ApiError, invalid
from nodeapi.models import AuditEntry
from protos import lightning_pb2, messaging_pb2, socket_pb2
from tests.support.doors import ADDRESS, PUBKEY, SEND_MESSAGE, caller
from tests.support.monotonic import MonotonicClock
from tests.support.waiting import until_in_loop

NO_REPLY = socket_pb2.StartSocketResponse()


@pytest.fixture
def clock(monkeypatch) -> MonotonicClock:
    clock = MonotonicClock()
    monkeypatch.setattr(audit, "time", clock)
    return clock


@pytest.fixture
def log(database) -> AuditLog:
    return AuditLog(database, stores=True)


@pytest.fixture(autouse=True)
def lines(caplog) -> Callable[[], Iterator[dict]]:
    caplog.set_level(logging.DEBUG, "audit")
    return lambda: (vars(record) for record in caplog.records if record.name == "audit")


def call(name: str = "app", **fields) -> Call:
    return Call(caller=caller(name, "send"), operation=SEND_MESSAGE, address=ADDRESS, **fields)


async def with_messages(database: Database, count: int = 1, *, committed: bool = True) -> Call:
    """A call that has stored so many messages, of 1000 msat, 2000 msat, …."""
    noted = call()
    made = [noted.note(item_id=uuid4(), peer=PUBKEY, amount_msat=1000 * n) for n in range(1, count + 1)]
    if committed:
        await database.write(lambda: notes.store(made))
    return noted


async def rows(log: AuditLog, database: Database, *names: str) -> list[tuple]:
    await log.flush()
    return await database.read(lambda: list(AuditEntry.objects.order_by("pk").values_list(*names)))


# how calls end


@pytest.mark.parametrize(
    ("said", "outcome"),
    [("", "repeated"), (AuditEntry.Outcome.PAID, "repeated"), (AuditEntry.Outcome.DONE, "done")],
)
async def test_call_that_stores_no_message_says_whether_it_was_done_now(log, database, said, outcome):
    """An invoice that is made under a key, and one that was made, or paid, under it before."""
    log.done(call(outcome=said), NO_REPLY, once=True)
    assert await rows(log, database, "outcome") == [(outcome,)]


@pytest.mark.parametrize(
    ("reply", "message_id"),
    [
        (NO_REPLY, None),
        (lightning_pb2.PayInvoiceResponse(), None),
        (messaging_pb2.SendMessageResponse(id="no UUID"), None),
        (
            messaging_pb2.SendMessageResponse(id="5fedffdc-c883-4aaf-95bc-358d7a79b7db"),
            UUID("5fedffdc-c883-4aaf-95bc-358d7a79b7db"),
        ),
    ],
)
@pytest.mark.parametrize(("once", "outcome"), [(False, "done"), (True, "repeated")])
async def test_call_that_stored_nothing(log, database, lines, reply, message_id, once, outcome):
    log.done(call(peer=PUBKEY, amount_msat=5_000), reply, once=once)
    names = ("caller", "operation", "peer", "amount_msat", "outcome", "detail", "address", "message_id")
    assert await rows(log, database, *names, "spends") == [
        ("app", SEND_MESSAGE, PUBKEY, 5_000, outcome, "", ADDRESS, message_id, False)
    ]
    (line,) = lines()
    assert (line["msg"], line["levelname"]) == ("call", "INFO")
    expected = {
        "key": "app",
        "operation": SEND_MESSAGE,
        "peer": PUBKEY,
        "amount_msat": 5_000,
        "outcome": outcome,
        "detail": "",
        "client": ADDRESS,
        "message_id": str(message_id or ""),
    }
    assert expected.items() <= line.items()


async def test_message_has_its_row_already(log, database, lines):
    noted = await with_messages(database)
    log.done(noted, messaging_pb2.SendMessageResponse(), once=True)
    (message_id,) = noted.rows
    assert await rows(log, database, "outcome", "message_id", "amount_msat", "spends") == [
        ("accepted", message_id, 1_000, True)
    ]
    (line,) = lines()
    assert (line["outcome"], line["message_id"]) == ("accepted", str(message_id))
    # At info the log tells the message's end, once.
    assert line["levelname"] == "DEBUG"


async def test_many_messages_have_a_row_each_and_one_line(log, database, lines):
    noted = await with_messages(database, 3)
    log.done(noted, NO_REPLY, once=True)
    assert await rows(log, database, "amount_msat") == [(1_000,), (2_000,), (3_000,)]
    (line,) = lines()
    assert (line["amount_msat"], line["peer"], line["message_id"]) == (6_000, "", "")
    assert line["messages"] == [str(message_id) for message_id in noted.rows]


async def test_payment_that_ended_well(log, database):
    noted = await with_messages(database, 2)
    noted.outcome = AuditEntry.Outcome.PAID
    log.done(noted, NO_REPLY, once=True)
    assert await rows(log, database, "outcome") == [("paid",), ("paid",)]


async def test_payment_that_failed_after_it_was_stored(log, database, lines):
    noted = await with_messages(database)
    log.refused(noted, ApiError(grpc.StatusCode.FAILED_PRECONDITION, "no route"))
    assert await rows(log, database, "outcome", "detail", "spends") == [
        ("FailedPrecondition", "no route", True)
    ]
    assert [(line["outcome"], line["detail"]) for line in lines()] == [("FailedPrecondition", "no route")]


async def test_refusal_before_the_commit_spends_nothing(log, database):
    noted = await with_messages(database, 2, committed=False)
    log.refused(noted, invalid("amount", "is wrong"))
    assert await rows(log, database, "outcome", "detail", "message_id", "spends") == [
        ("InvalidArgument", "amount: is wrong", None, False)
    ]


@pytest.mark.parametrize(
    ("message", "detail"),
    [("x" * 301, "x" * 300), ("a\0b", "a\N{REPLACEMENT CHARACTER}b"), ("zwölf", "zwölf")],
)
async def test_detail_fits_its_column(log, database, message, detail):
    log.refused(call(), ApiError(grpc.StatusCode.NOT_FOUND, message))
    assert await rows(log, database, "detail") == [(detail,)]


@pytest.mark.parametrize("committed", [True, False])
async def test_caller_who_left(log, database, lines, committed):
    noted = await with_messages(database, committed=committed)
    log.left(noted)
    detail = "the caller did not wait for the answer"
    expected = ("accepted", "", True) if committed else ("Cancelled", detail, False)
    assert await rows(log, database, "outcome", "detail", "spends") == [expected]
    assert [(line["outcome"], line["detail"]) for line in lines()] == [(expected[0], detail)]


async def test_refusal_at_the_door_is_a_line(log, database, lines):
    error = ApiError(grpc.StatusCode.UNAUTHENTICATED, "y" * 301)
    log.refused_at_the_door(error, operation=SEND_MESSAGE, address=ADDRESS, name="app")
    (line,) = lines()
    expected = {"key": "app", "operation": SEND_MESSAGE, "outcome": "Unauthenticated", "client": ADDRESS}
    assert (expected | {"msg": "refused", "detail": "y" * 300}).items() <= line.items()
    assert await rows(log, database, "pk") == []


async def test_process_beside_runimpd_writes_lines_only(database, lines):
    log = AuditLog(database, stores=False)
    log.done(call(), NO_REPLY, once=False)
    log.refused(call(), invalid("x", "is wrong"))
    assert [line["outcome"] for line in lines()] == ["done", "InvalidArgument"]
    assert await rows(log, database, "pk") == []


# bounds


@pytest.mark.parametrize("how", ["refused", "left"])
async def test_refusals_of_a_key_are_bounded(log, database, lines, clock, how):
    def refuse(name: str) -> None:
        if how == "left":
            log.left(call(name))
        else:
            log.refused(call(name), invalid("x", "is wrong"))

    for _ in range(REFUSALS_A_MINUTE + 3):
        refuse("clumsy")
    refuse("other")
    assert len(list(lines())) == REFUSALS_A_MINUTE + 1
    assert len(await rows(log, database, "pk")) == REFUSALS_A_MINUTE + 1
    clock.seconds += 60
    refuse("clumsy")
    (left_out,) = [line for line in lines() if line["levelname"] == "WARNING"]
    assert (left_out["key"], left_out["count"]) == ("clumsy", 3)
    assert len(await rows(log, database, "pk")) == REFUSALS_A_MINUTE + 2


async def test_calls_that_ended_well_are_not_thinned(log, database):
    for _ in range(REFUSALS_A_MINUTE + 3):
        log.done(call(), NO_REPLY, once=False)
    assert len(await rows(log, database, "pk")) == REFUSALS_A_MINUTE + 3


async def test_failed_payments_are_not_thinned(log, database):
    for _ in range(REFUSALS_A_MINUTE + 1):
        log.refused(call(), invalid("x", "is wrong"))
    log.refused(await with_messages(database), ApiError(grpc.StatusCode.FAILED_PRECONDITION, "no route"))
    assert (await rows(log, database, "outcome"))[0] == ("FailedPrecondition",)


async def test_what_waits_is_bounded(log, database, monkeypatch):
    monkeypatch.setattr(audit, "MAX_WAITING", 2)
    for _ in range(3):
        log.done(call(), NO_REPLY, once=False)
    assert len(await rows(log, database, "pk")) == 2
    log.done(call(), NO_REPLY, once=False)
    assert len(await rows(log, database, "pk")) == 3


def test_thinned(clock, caplog):
    thinned = Thinned(2)
    assert [thinned.permits("a") for _ in range(4)] == [True, True, False, False]
    assert thinned.permits("b")
    clock.seconds += 59.9
    thinned.roll()
    assert not thinned.permits("a")
    assert not caplog.records
    clock.seconds += 0.1
    thinned.roll()
    assert [(record.key, record.count) for record in caplog.records] == [("a", 3)]
    assert thinned.permits("a")
    clock.seconds += 60
    thinned.roll()
    assert len(caplog.records) == 1


# storing behind the calls


class Failing:
    """A database that is away as often as is asked of it."""

    def __init__(self, database: Database, times: int):
        self._database, self.left = database, times

    async def write(self, job):
        if self.left:
            self.left -= 1
            raise OperationalError("away")
        return await self._database.write(job)


async def until_stored(database: Database, count: int) -> None:
    async def stored() -> bool:
        return await database.read(AuditEntry.objects.count) == count

    await until_in_loop(stored)


async def test_rows_are_stored_when_the_database_is_back(database, monkeypatch, lines):
    monkeypatch.setattr(audit, "AGAIN_SECONDS", 0)
    log = AuditLog(Failing(database, 2), stores=True)
    running = asyncio.create_task(log.run())
    log.done(call("first"), NO_REPLY, once=False)
    log.done(call("second"), NO_REPLY, once=False)
    await until_stored(database, 2)
    log.done(call("third"), NO_REPLY, once=False)
    await until_stored(database, 3)
    running.cancel()
    await asyncio.wait({running})
    assert await rows(log, database, "caller") == [("first",), ("second",), ("third",)]
    problems = [line["message"] for line in lines() if line["levelname"] == "ERROR"]
    assert problems == ["audit entries could not be stored: away; trying again"] * 2


class Interrupted:
    """A database at whose first write something else happens."""

    def __init__(self, database: Database, meanwhile: Callable[[], None]):
        self._database, self._meanwhile = database, meanwhile

    async def write(self, job):
        await self._database.write(job)
        self._meanwhile()
        self._meanwhile = lambda: None


async def test_what_comes_while_others_are_stored_is_stored_next(database):
    during = await with_messages(database)

    def meanwhile() -> None:
        log.done(call("during"), NO_REPLY, once=False)
        log.refused(during, ApiError(grpc.StatusCode.FAILED_PRECONDITION, "no route"))

    log = AuditLog(Interrupted(database, meanwhile), stores=True)
    log.done(call("before"), NO_REPLY, once=False)
    await log.flush()
    assert await rows(log, database, "caller", "outcome") == [
        ("app", "FailedPrecondition"),
        ("before", "done"),
        ("during", "done"),
    ]
    await log.flush()
    assert await database.read(AuditEntry.objects.count) == 3


async def test_outcome_waits_with_the_rows(database):
    log = AuditLog(Failing(database, 1), stores=True)
    noted = await with_messages(database)
    log.refused(noted, invalid("x", "is wrong"))
    with pytest.raises(OperationalError):
        await log.flush()
    assert await rows(log, database, "outcome") == [("InvalidArgument",)]


async def test_end_of_the_process(database, lines):
    log = AuditLog(database, stores=True)
    log.done(call(), NO_REPLY, once=False)
    await log.close()
    assert await database.read(AuditEntry.objects.count) == 1
    lost = AuditLog(Failing(database, 1), stores=True)
    lost.done(call(), NO_REPLY, once=False)
    await lost.close()
    assert [line["message"] for line in lines() if line["levelname"] == "ERROR"] == [
        "audit entries could not be stored: away"
    ]
