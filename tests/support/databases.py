"""The database of each node under test: an SQLite file in its directory, or, where the environment says
TEST_DATABASE=postgresql, a fresh database on the server that tests/services.sh started, which all workers share: it is
neither stopped nor set otherwise (tests/support/servers.py has others for that).
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.support.waiting import GUARD_SECONDS, until

ON_POSTGRES = os.environ.get("TEST_DATABASE") == "postgresql"
only_on_sqlite = pytest.mark.skipif(ON_POSTGRES, reason="about the SQLite file")
only_on_postgres = pytest.mark.skipif(not ON_POSTGRES, reason="about PostgreSQL")

_made: list[str] = []


def new_database_url(directory: Path) -> str:
    if not ON_POSTGRES:
        return f"sqlite:///{directory / 'impervious.sqlite3'}"
    name = f"test_{uuid4().hex}"
    _on_server(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    _made.append(name)
    return urlunsplit(urlsplit(os.environ["TEST_POSTGRES_URL"])._replace(path=f"/{name}"))


def drop_databases() -> None:
    while _made:
        _on_server(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(_made.pop())))


def end_sessions(database_url: str) -> None:
    """The server ends every connection to this database, in the middle of whatever it does."""
    execute(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


def lock_holders(database_url: str) -> set[tuple]:
    """The server's sessions that hold this database as its node's."""
    return set(
        execute(
            database_url,
            "SELECT pid FROM pg_locks JOIN pg_database ON oid = database "
            "WHERE locktype = 'advisory' AND granted AND datname = current_database()",
        )
    )


def until_unlocked(database_url: str) -> None:
    """Until the server has noticed that the process which held this database as its node is gone. A lock on a file is gone
    with its process.
    """
    if database_url.startswith("postgresql"):
        until(lambda: not lock_holders(database_url))


def _on_server(statement: sql.Composable) -> None:
    """Again where the server has waited in vain, for five seconds, for sessions that it has ended itself to be gone."""
    for _ in range(GUARD_SECONDS // 5):
        try:
            with psycopg.connect(os.environ["TEST_POSTGRES_URL"], autocommit=True) as connection:
                connection.execute(statement)
            return
        except psycopg.errors.ObjectInUse as error:
            in_use = error
    raise in_use


def execute(database_url: str, statement: str) -> list[tuple]:
    """Runs one statement beside a node, and commits it; its rows, if it has any."""
    if database_url.startswith("sqlite:///"):
        with (
            closing(sqlite3.connect(database_url.removeprefix("sqlite:///"), timeout=240)) as connection,
            connection,
        ):
            return connection.execute(statement).fetchall()
    with psycopg.connect(database_url) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []
