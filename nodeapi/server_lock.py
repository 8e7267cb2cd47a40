"""One runimpd a PostgreSQL database. Loads psycopg: for nodes on PostgreSQL alone."""

import asyncio
import hashlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from messaging import epoch
from messaging.required import required
from nodeapi.errors import StartError

logger = logging.getLogger("nodeapi.server_lock")

WATCH_SECONDS = 1.0
# As for lnd.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
ADVISORY_KEY = int.from_bytes(hashlib.sha256(b"impervious runimpd").digest()[:8], "big", signed=True)
# If the node's machine vanishes, the server frees the lock within a minute; a session that says nothing must stay.
SESSION_SETTINGS = (
    "SET tcp_keepalives_idle = 30",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
    "SET idle_session_timeout = 0",
)
HOLDER = """
    SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid)
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pg_locks.database = pg_stat_activity.datid
    AND datname = current_database() AND classid::bigint << 32 | objid::bigint = %s
"""
# A transaction of the process before that is not over after so long is that of one that was paused, or is cut off.
STUCK_MILLISECONDS = 2_000
STUCK_TIMES = 5
# Whoever checks the epoch holds this lock of its table until the end of its transaction.
END_WRITERS = """
    SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND relation = 'messaging_epoch'::regclass AND mode = 'RowShareLock'
    AND pid <> pg_backend_pid()
"""


def _waits() -> Iterator[float]:
    """Seconds between two tries."""
    seconds = FIRST_WAIT_SECONDS
    while True:
        yield seconds
        seconds = min(LONGEST_WAIT_SECONDS, seconds * 1.5)


class ServerLock:
    """A session's advisory lock in a PostgreSQL database, on a connection that serves nothing else."""

    def __init__(self, parameters: Mapping[str, str]):
        self._name = f"runimpd {os.getpid()} {secrets.token_hex(4)} {socket.gethostname()}"[:63]
        self._parameters = {**parameters, "application_name": self._name}
        self._connection: psycopg.Connection | None = None
        self._epoch: int | None = None

    def __enter__(self) -> "ServerLock":
        for seconds in self.tries():
            time.sleep(seconds)
        return self

    def tries(self) -> Iterator[float]:
        """Tries again at each step, and gives the seconds to wait before the next one; ends when it is held."""
        waits, refusals, told = _waits(), 0, ""
        while True:
            try:
                self._take()
            except psycopg.Error as error:
                text = " ".join(str(error).split())
                # It may have become ready between the two questions.
                refusals = refusals + 1 if self._is_refused(error) else 0
                if refusals > 1:
                    raise StartError(
                        f"database.url: the PostgreSQL database cannot be used ({text}); correct the address, or the server"
                    ) from None
                if text != told:
                    logger.warning("database.url: %s; waiting for the database", text)
                    told = text
                yield next(waits)
            else:
                return

    def _is_refused(self, error: psycopg.Error) -> bool:
        """Whether the server is there and ready, so that no waiting mends what it said, in whatever language: a wrong
        password, no such database. To ask it blocks all threads, which must not happen where its host does not answer.
        """
        if error.pgconn is None:
            return False
        asked = pq.PGconn.ping(make_conninfo(**self._parameters).encode())
        return asked not in (pq.Ping.REJECT, pq.Ping.NO_RESPONSE)

    def __exit__(self, *_) -> None:
        if self._connection:
            self._connection.close()

    def begin(self) -> int:
        """Raises the epoch. Transactions of a process before that do not end are ended, with their sessions."""
        try:
            self._epoch = self._raise_epoch(required(self._connection))
        except psycopg.Error as error:
            raise StartError(
                f"database.url: the database cannot be taken over ({error}); end the sessions of the runimpd before"
            ) from None
        return self._epoch

    def _raise_epoch(self, connection: psycopg.Connection) -> int:
        connection.execute(f"SET lock_timeout = {STUCK_MILLISECONDS}")
        for _ in range(STUCK_TIMES):
            try:
                number: int = required(connection.execute(epoch.RAISE).fetchone())[0]
            except psycopg.errors.LockNotAvailable:
                logger.warning("an unfinished transaction of another runimpd is ended")
                connection.execute(END_WRITERS)
            else:
                return number
        raise psycopg.OperationalError("its last transaction does not end")

    async def watch(self) -> None:
        """Takes the lock again after its connection was lost. Raises StartError when another process has it by then."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await asyncio.to_thread(self._keep)

    def _keep(self) -> None:
        connection = required(self._connection)
        if not connection.closed:
            try:
                connection.execute("SELECT 1")
                return
            except psycopg.Error as error:
                logger.warning(
                    "the connection that locks the database is lost (%s); taking the lock again", error
                )
                connection.close()
        try:
            self._take()
        except psycopg.Error as error:
            logger.debug("the database cannot be locked yet: %s", error)
        else:
            logger.info("the database is locked again")

    def _take(self) -> None:
        connection = psycopg.connect(**dict[str, Any](self._parameters), autocommit=True)
        try:
            for setting in SESSION_SETTINGS:
                connection.execute(setting)
            _refuse_lossy(connection)
            self._lock(connection)
            self._refuse_overtaken(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _lock(self, connection: psycopg.Connection) -> None:
        locked = connection.execute("SELECT pg_try_advisory_lock(%s)", [ADVISORY_KEY]).fetchone()
        if required(locked)[0]:
            return
        holder = connection.execute(HOLDER, [ADVISORY_KEY]).fetchone()
        name = holder[0] if holder else None
        if not holder or name == self._name:
            # The other has just ended; or it is this process's own lost session, of whose end the server does not know.
            raise psycopg.OperationalError("the lock is not free yet")
        words = (name or "").split()
        who = (
            f"process {words[1]} on {words[3]}"
            if words[:1] == ["runimpd"] and len(words) == 4
            else "process unknown"
        )
        raise StartError(
            f"another runimpd ({who}) runs on this database; stop it first (it holds the advisory lock {ADVISORY_KEY}), "
            "or give each node a database of its own by database.url"
        )

    def _refuse_overtaken(self, connection: psycopg.Connection) -> None:
        """Another process may have had the lock while this one had lost it, and be gone again."""
        if self._epoch is None:
            return
        found = connection.execute(epoch.READ).fetchone()
        if found is None or found[0] != self._epoch:
            raise StartError(epoch.OVERTAKEN)


def _refuse_lossy(connection: psycopg.Connection) -> None:
    if required(connection.execute("SHOW synchronous_commit").fetchone())[0] == "off":
        raise StartError(
            "database.url: synchronous_commit is off on this PostgreSQL server: a power cut would lose what was accepted; "
            "set it on (ALTER ROLE … SET synchronous_commit = on)"
        )


def holder(parameters: Mapping[str, str]) -> str:
    """The process that has locked this database as its node, "unknown" where it does not tell; empty if there is none, or
    if the server does not answer.
    """
    try:
        with psycopg.connect(**dict[str, Any](parameters)) as connection:
            found = connection.execute(HOLDER, [ADVISORY_KEY]).fetchone()
    except psycopg.Error:
        return ""
    words = found[0].split() if found and found[0] else []
    return words[1] if words[:1] == ["runimpd"] and len(words) > 1 else "unknown" if found else ""
