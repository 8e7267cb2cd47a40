"""Where the asynchronous world meets the database: one writer thread with grouped commits, one reader thread.

A write is answered after its commit. All jobs that wait while a commit is under way share the next one, so that the price
of a commit is paid once for many. A job is a function without arguments that uses the ORM; it may run a second time when
a neighbour in its group fails, so it changes nothing but the database.

A database server may go away. What is asked of it meanwhile fails; a job that finds its connection lost, but the server
there, runs again. Only a write whose commit was sent and not answered waits until the server is back and says what
became of it.

The node's own process gives its epoch (messaging/epoch.py): when another process has taken over, nothing is written any
more, and whoever waits in `watch_epoch` is told.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import DataError, Error, InterfaceError, OperationalError, connection, models, transaction

from messaging import epoch, metrics
from messaging.clock import steady_seconds
from messaging.epoch import OvertakenError

logger = logging.getLogger("messaging.database")

Result = TypeVar("Result")
Row = TypeVar("Row", bound=models.Model)
# A job and who waits for it; what that one gets: a result, or an error.
Entry = tuple[Callable[[], Any], asyncio.Future[Any]]
Answer = tuple[asyncio.Future[Any], Any, Exception | None]
MAX_GROUP = 512
DOUBT_SECONDS = 0.5
# For so long after a transaction that checked the epoch nobody else can have taken over and begun to work.
CONFIRMED_SECONDS = 1.0


def insert_new(model: type[Row], rows: Sequence[Row]) -> None:
    """Inserts rows whose keys the database gives. A job that runs a second time must not bring the keys that a rolled
    back run was given: others may have them by now.
    """
    for row in rows:
        row.pk = None
    model._default_manager.bulk_create(rows)


@dataclass(frozen=True)
class Doubt:
    """A group whose commit was sent when the server went away: its transaction's id there, and what its callers get:
    `answers` if it was committed, `error` if not.
    """

    transaction: str
    answers: list[Answer]
    error: Exception


class Database:
    """Use from one event loop. `write` and `read` raise what their job raised: django.db.Error if the database is away.
    With an epoch, `write` raises OvertakenError as soon as another one holds.
    """

    def __init__(self, *, epoch: int | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoch = epoch
        self._confirmed_at = float("-inf")
        self._overtaken = asyncio.Event()
        self._jobs: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._run_writer, name="database-writer", daemon=True)
        self._writer.start()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="database-reader")

    async def write(self, job: Callable[[], Result]) -> Result:
        """The job's result, once it is committed."""
        future: asyncio.Future[Result] = self._loop.create_future()
        self._jobs.put((job, future))
        return await future

    async def read(self, job: Callable[[], Result]) -> Result:
        return await self._loop.run_in_executor(self._reader, _read, job)

    async def confirm(self) -> None:
        """Makes sure that no other process has taken over, before something is done that a rollback does not undo. Raises
        OvertakenError and django.db.Error.
        """
        if self._epoch is not None and steady_seconds() - self._confirmed_at > CONFIRMED_SECONDS:
            await self.write(_nothing)

    async def watch_epoch(self) -> None:
        """Waits until another process has taken over. Raises OvertakenError then."""
        await self._overtaken.wait()
        raise OvertakenError

    async def close(self) -> None:
        """Ends after all that was handed in is committed."""
        self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)
        # By the lambda it is the reading thread's own connection; `connection.close` would be that of this thread.
        await self.read(lambda: connection.close())  # noqa: PLW0108 (see above)
        self._reader.shutdown()

    def _run_writer(self) -> None:
        ended = False
        doubts: list[Doubt] = []
        while not ended:
            group = self._next_group(DOUBT_SECONDS if doubts else None)
            ended = None in group
            # Before anything new: the server gives the id of a transaction that it lost to another one.
            answers, doubts = _resolve(doubts)
            answers += self._commit([entry for entry in group if entry is not None], doubts)
            if ended:
                answers += [answer for doubt in doubts for answer in _failed(doubt)]
            self._loop.call_soon_threadsafe(_answer, answers)
        connection.close()

    def _commit(self, group: list[Entry], doubts: list[Doubt]) -> list[Answer]:
        began_at = steady_seconds()
        answers = _commit_counted(group, doubts, self._epoch)
        if any(isinstance(error, OvertakenError) for _, _, error in answers):
            self._loop.call_soon_threadsafe(self._overtaken.set)
        elif any(error is None for _, _, error in answers):
            self._confirmed_at = began_at
        return answers

    def _next_group(self, seconds: float | None) -> list[Entry | None]:
        """What waits, or comes within so many seconds."""
        try:
            group = [self._jobs.get(timeout=seconds)]
        except queue.Empty:
            return []
        while len(group) < MAX_GROUP and not self._jobs.empty():
            group.append(self._jobs.get_nowait())
        return group


def _nothing() -> None:
    """A job for the sake of its transaction."""


def _read(job: Callable[[], Result]) -> Result:
    try:
        return job()
    except Error:
        if not _drop_lost_connection():
            metrics.DATABASE_ERRORS.labels("read").inc()
            raise
    try:
        return job()
    except Error:
        metrics.DATABASE_ERRORS.labels("read").inc()
        raise


def _commit_counted(group: list[Entry], doubts: list[Doubt], number: int | None) -> list[Answer]:
    if not group:
        return []
    began = time.perf_counter()
    answers = _commit_group(group, doubts, number)
    metrics.COMMIT_SECONDS.observe(time.perf_counter() - began)
    metrics.COMMIT_JOBS.observe(len(group))
    failed = sum(isinstance(error, Error) for _, _, error in answers)
    metrics.DATABASE_ERRORS.labels("write").inc(failed)
    return answers


def _commit_group(
    group: list[Entry], doubts: list[Doubt], number: int | None = None, *, again: bool = False
) -> list[Answer]:
    """(future, result, error) for each job, all committed together if all of them succeed, else each by itself, and none
    unless the epoch of this number holds. A group whose commit the server has not answered is added to `doubts` instead.
    """
    if not group:
        return []
    committing, used = None, connection.connection
    try:
        with transaction.atomic():
            if number is not None:
                epoch.check(number)
            answers: list[Answer] = [(future, job(), None) for job, future in group]
            committing = _transaction_id()
        return answers
    except OvertakenError as error:
        return [(future, None, error) for _, future in group]
    except Exception as error:
        away = isinstance(error, Error) and _drop_lost_connection()
        if committing and isinstance(error, (OperationalError, InterfaceError)):
            doubts.append(Doubt(committing, answers, error))
            return []
        if away:
            return [(future, None, error) for _, future in group]
        if len(group) > 1:
            return [answer for entry in group for answer in _commit_group([entry], doubts, number)]
        # Its connection was lost, perhaps long ago, and Django has made a new one: the server is there.
        if used is not None and connection.connection is not used and not again:
            return _commit_group(group, doubts, number, again=True)
        return [(group[0][1], None, error)]


def _transaction_id() -> str | None:
    """Under which id the server can be asked what became of this transaction; None where that is never in doubt."""
    if connection.vendor != "postgresql":
        return None
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id_if_assigned()::text")
        transaction_id: str | None = cursor.fetchone()[0]
        return transaction_id


def _resolve(doubts: list[Doubt]) -> tuple[list[Answer], list[Doubt]]:
    """The answers of those whose end the server tells, and the others."""
    answers: list[Answer] = []
    left: list[Doubt] = []
    for doubt in doubts:
        committed = _was_committed(doubt.transaction)
        if committed is None:
            left.append(doubt)
        else:
            answers += doubt.answers if committed else _failed(doubt)
    return answers, left


def _was_committed(transaction_id: str) -> bool | None:
    """None while the server does not tell."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_xact_status(%s::xid8)", [transaction_id])
            status = cursor.fetchone()[0]
    except DataError:
        # An id of the future: a crash of the server took the whole transaction with it.
        return False
    except Error:
        _drop_lost_connection()
        return None
    return None if status == "in progress" else status == "committed"


def _failed(doubt: Doubt) -> list[Answer]:
    return [(future, None, doubt.error) for future, _, _ in doubt.answers]


def _drop_lost_connection() -> bool:
    """Whether this thread's connection is lost; the next job makes a new one then."""
    if connection.connection is not None and connection.is_usable():
        return False
    connection.close()
    return True


def _answer(answers: list[Answer]) -> None:
    for future, result, error in answers:
        if future.cancelled():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
