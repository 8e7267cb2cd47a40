"""One runimpd a database: a lock that is freed when the process ends, however it ends."""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from io import FileIO
from pathlib import Path
from typing import Protocol

from django.db import Error as DatabaseError
from django.db import connection
from django.utils.module_loading import import_string

from messaging import epoch
from nodeapi.errors import StartError
from nodeapi.node_files import lock_path, make_private, problem_of_access


class Lock(AbstractContextManager, Protocol):
    """Entered, it is held, or StartError raised. Whoever has other work meanwhile steps through `tries` instead, and ends it
    by `__exit__`.
    """

    def tries(self) -> Iterator[float]:
        """Try again at each step, and give the seconds to wait before the next; end when it is held. Raises StartError."""

    def begin(self) -> int:
        """The epoch in which this process writes (messaging/epoch.py), once the tables are there. From then on no earlier
        one does. Raises StartError.
        """

    async def watch(self) -> None:
        """To be awaited while it is held. Raises StartError when another process has it."""


def lock_of(database) -> Lock:
    """The lock of a configured database's engine."""
    if database.postgres:
        # By its name, because it imports psycopg, 10 MB that a node on SQLite does without.
        return import_string("nodeapi.server_lock.ServerLock")(database.postgres.get_secret_value())
    return FileLock(database.sqlite_path)


class FileLock:
    """A lock on a file beside an SQLite database."""

    def __init__(self, database: Path):
        self._database = database
        self._path = lock_path(database)
        self._file: FileIO | None = None

    def __enter__(self) -> "FileLock":
        self._take()
        return self

    def tries(self) -> Iterator[float]:
        """The first one takes it, or nothing does."""
        self._take()
        yield from ()

    def _take(self) -> None:
        self._make()
        file = open(self._path, "a+b", buffering=0)  # noqa: SIM115 (it is locked as long as it is open)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().decode(errors="replace").strip() or "unknown"
            file.close()
            raise StartError(
                f"another runimpd (process {holder}) runs on this database; stop it first ({self._path} is locked), "
                "or give each node a file of its own by database.url"
            ) from None
        # The process is named for people only: on a full disk the lock holds without it.
        with suppress(OSError):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        self._file = file

    def _make(self) -> None:
        if problem := problem_of_access(self._database):
            raise StartError(problem)
        try:
            make_private(self._path)
        except OSError as error:
            raise StartError(f"{self._path} cannot be made: {error.strerror}") from None

    def __exit__(self, *_) -> None:
        if self._file:
            self._file.close()

    def begin(self) -> int:
        try:
            return epoch.begin()
        except DatabaseError as error:
            raise StartError(f"database.url: the database cannot be taken over ({error})") from None
        finally:
            connection.close()

    async def watch(self) -> None:
        """Ends never: what the system has locked stays so."""
        await asyncio.get_running_loop().create_future()
