"""Where the asynchronous world meets the database: one writer thread with grouped commits, one reader thread.

A write is answered after its commit. All jobs that wait while a commit is under way share the next one, so that the price
of a commit is paid once for many. A job is a function without arguments that uses the ORM; it may run a second time when
a neighbour in its group fails, so it changes nothing but the database.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connection, models, transaction

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
MAX_GROUP = 512


def insert_new(model: type[models.Model], rows: list[models.Model]) -> None:
    """Inserts rows whose keys the database gives. A job that runs a second time must not bring the keys that a rolled
    back run was given: others may have them by now."""
    for row in rows:
        row.pk = None
    model.objects.bulk_create(rows)


class Database:
    """Use from one event loop. `write` and `read` raise what their job raised."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._run_writer, name="database-writer", daemon=True)
        self._writer.start()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="database-reader")

    async def write(self, job: Callable[[], Result]) -> Result:
        """The job's result, once it is committed."""
        future = self._loop.create_future()
        self._jobs.put((job, future))
        return await future

    async def read(self, job: Callable[[], Result]) -> Result:
        return await self._loop.run_in_executor(self._reader, job)

    async def close(self) -> None:
        """Ends after all that was handed in is committed."""
        self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)
        await self.read(lambda: connection.close())
        self._reader.shutdown()

    def _run_writer(self) -> None:
        ended = False
        while not ended:
            group = [self._jobs.get()]
            while len(group) < MAX_GROUP and not self._jobs.empty():
                group.append(self._jobs.get_nowait())
            ended = None in group
            answers = _commit_group([entry for entry in group if entry is not None])
            self._loop.call_soon_threadsafe(_answer, answers)
        connection.close()


def _commit_group(group: list) -> list:
    """(future, result, error) for each job, all committed together if all of them succeed, else each by itself."""
    try:
        with transaction.atomic():
            return [(future, job(), None) for job, future in group]
    except Exception as error:
        if len(group) == 1:
            return [(group[0][1], None, error)]
        return [answer for entry in group for answer in _commit_group([entry])]


def _answer(answers: list) -> None:
    for future, result, error in answers:
        if future.cancelled():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
