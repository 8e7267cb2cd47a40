"""Room in an SQLite file, on files of the tests' own."""

import asyncio
import shutil
import sqlite3
from collections import namedtuple
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from django.db import connection

from impervious_site.databases import sqlite_settings
from impervious_site.sqlite.base import DatabaseWrapper
from nodeapi import sqlite_space
from nodeapi.errors import StartError

Usage = namedtuple("Usage", "total used free")
ROWS, ROW_BYTES = 4_000, 2_000


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "node.sqlite3"


@pytest.fixture
def wrapper(file, monkeypatch) -> Iterator[DatabaseWrapper]:
    """The connection that the functions use."""
    made = DatabaseWrapper({**connection.settings_dict, **sqlite_settings(str(file))})
    made.inc_thread_sharing()
    monkeypatch.setattr(sqlite_space, "connection", made)
    yield made
    made.close()


def fill(wrapper: DatabaseWrapper) -> None:
    """A table from which nearly all has been deleted."""
    with wrapper.cursor() as cursor:
        cursor.execute("CREATE TABLE t (x BLOB)")
        cursor.execute("BEGIN")
        cursor.executemany("INSERT INTO t VALUES (zeroblob(%s))", [(ROW_BYTES,)] * ROWS)
        cursor.execute("DELETE FROM t WHERE rowid % 100")
        cursor.execute("COMMIT")
    sqlite_space.checkpoint()


def rows(wrapper: DatabaseWrapper) -> int:
    with wrapper.cursor() as cursor:
        return cursor.execute("SELECT count(*) FROM t").fetchone()[0]


def test_new_file_gives_room_back_but_for_a_tenth(file, wrapper):
    fill(wrapper)
    full_bytes = file.stat().st_size
    before = sqlite_space.read_pages()
    assert before.can_shrink
    released = sqlite_space.release_here()
    after = sqlite_space.read_pages()
    assert after.all == before.all - released
    assert after.excess == 0
    assert 0 < after.free <= after.all // 10
    assert file.stat().st_size < full_bytes // 5
    assert rows(wrapper) == ROWS // 100
    assert sqlite_space.release_here() == 0


def test_one_step_is_bounded(wrapper):
    fill(wrapper)
    before = sqlite_space.read_pages()
    sqlite_space.release_step(7)
    assert sqlite_space.read_pages().all == before.all - 7


class Direct:
    """Runs jobs at once, as messaging.database.Database runs them in its threads."""

    def __init__(self, wrapper: DatabaseWrapper):
        self._wrapper = wrapper
        self.writes = 0

    async def read(self, job):
        return await asyncio.to_thread(job)

    async def write(self, job):
        self.writes += 1
        return await asyncio.to_thread(self._commit, job)

    def _commit(self, job):
        with self._wrapper.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            result = job()
            cursor.execute("COMMIT")
        return result


def test_running_node_gives_it_back_in_steps(wrapper):
    fill(wrapper)
    database = Direct(wrapper)
    excess = sqlite_space.read_pages().excess
    released = asyncio.run(sqlite_space.release(database))
    assert released >= excess
    assert database.writes >= released / sqlite_space.STEP_PAGES


def make_old(file: Path) -> None:
    """As earlier versions made it."""
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE of_old (x)")


def test_older_file_shrinks_once_it_was_written_anew(file, wrapper):
    make_old(file)
    fill(wrapper)
    assert not sqlite_space.read_pages().can_shrink
    assert sqlite_space.release_here() == 0
    before, after = sqlite_space.compact(file)
    assert after < before // 5
    assert after == file.stat().st_size
    assert rows(wrapper) == ROWS // 100
    assert sqlite_space.read_pages() == sqlite_space.Pages(after // 4096, 0, True)
    with wrapper.cursor() as cursor:
        assert cursor.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_nothing_is_written_anew_without_room_for_it(file, wrapper, monkeypatch):
    make_old(file)
    fill(wrapper)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1_000))
    before = file.read_bytes()
    with pytest.raises(StartError, match="nothing was changed"):
        sqlite_space.compact(file)
    assert file.read_bytes() == before
