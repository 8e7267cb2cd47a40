"""Room in an SQLite file. Rows that are deleted leave free pages; those beyond a reserve go back to the disk in small steps.

SQLite does so in files that were made with `auto_vacuum=INCREMENTAL`, as impervious_site/sqlite makes new ones; `compact`
makes an older file one of these. On PostgreSQL there is nothing to do: its autovacuum gives room to what comes next.
"""

import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from django.db import connection

from messaging.database import Database
from nodeapi.errors import StartError

# 2 MB with pages of 4 kB: other writes wait for a step that long.
STEP_PAGES = 500
# A tenth of the file stays free for what comes next: else it would shrink and grow each day.
RESERVE_DIVISOR = 10
INCREMENTAL = 2


@dataclass(frozen=True)
class Pages:
    """Of the file: how many it has, how many of these are free, and whether free ones can be given back."""

    all: int
    free: int
    can_shrink: bool

    @property
    def excess(self) -> int:
        """Free pages that are to be given back."""
        return max(0, self.free - self.all // RESERVE_DIVISOR) if self.can_shrink else 0


def read_pages() -> Pages:
    """Of the database of this thread's connection; none where that is not SQLite. Raises django.db.Error."""
    if connection.vendor != "sqlite":
        return Pages(0, 0, False)
    return Pages(_pragma("page_count"), _pragma("freelist_count"), _pragma("auto_vacuum") == INCREMENTAL)


def release_step(pages: int) -> None:
    """Gives so many free pages back, in the caller's transaction."""
    with connection.cursor() as cursor:
        # Python's module takes one step of such a statement, which gives one page back, whatever number it names.
        for _ in range(pages):
            cursor.execute("PRAGMA incremental_vacuum(1)")


def checkpoint() -> None:
    """Empties the write-ahead log into the database, and cuts it off, unless others read just now. Outside a transaction."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


async def release(database: Database) -> int:
    """Gives back what is free beyond the reserve, in steps between which others write; how many pages."""
    first = last = await database.read(read_pages)
    while last.excess:
        await database.write(partial(release_step, min(last.excess, STEP_PAGES)))
        before, last = last, await database.read(read_pages)
        if last.all >= before.all:
            # Others write more than is given back.
            break
    if last.all < first.all:
        await database.read(checkpoint)
    return max(0, first.all - last.all)


def release_here() -> int:
    """The same in a process of its own, beside a node or not."""
    first = last = read_pages()
    while last.excess:
        release_step(min(last.excess, STEP_PAGES))
        checkpoint()
        before, last = last, read_pages()
        if last.all >= before.all:
            break
    return max(0, first.all - last.all)


def compact(path: Path) -> tuple[int, int]:
    """Writes the file anew, without free pages, so that it shrinks by itself from then on; its size before and after, in
    bytes. While no node runs. Raises StartError, and django.db.Error.
    """
    before = path.stat().st_size
    used_bytes = before - _pragma("freelist_count") * _pragma("page_size")
    # A copy of what is used, and the log that carries it into the file.
    needed_bytes, free_bytes = 2 * used_bytes, shutil.disk_usage(path.parent).free
    if free_bytes < needed_bytes:
        raise StartError(
            f"to write the database anew takes {needed_bytes / 2**20:,.0f} MB of free disk beside {path}, and "
            f"{free_bytes / 2**20:,.0f} MB are free; nothing was changed"
        )
    # SQLite reads it when it makes the copy: /tmp may be small.
    os.environ["SQLITE_TMPDIR"] = str(path.parent)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")
        cursor.execute("VACUUM")
    checkpoint()
    return before, path.stat().st_size


def _pragma(name: str) -> int:
    with connection.cursor() as cursor:
        value: int = cursor.execute(f"PRAGMA {name}").fetchone()[0]
        return value
