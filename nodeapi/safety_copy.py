"""A copy of an SQLite database before it is changed for good."""

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from nodeapi.errors import StartError


def copy_before_migration(database: Path, migration: str) -> Path:
    """The path of a whole copy beside the database, readable by the node's user alone, whose name says before which
    migration and when it was made. StartError when it cannot be made; nothing is left of it then.
    """
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    copy = database.with_name(f"{database.name}.{now}.before-{migration}")
    unfinished = copy.with_name(copy.name + ".unfinished")
    try:
        try:
            _copy(database, unfinished)
            unfinished.rename(copy)
            sync(copy.parent)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    except (OSError, sqlite3.Error) as error:
        megabytes = database.stat().st_size // 2**20 + 1
        raise StartError(
            f"the database has to be migrated and cannot be copied to {copy} first ({error}); it is as it was: "
            f"make room for {megabytes} MB there and start again"
        ) from None
    return copy


def _copy(source: Path, target: Path) -> None:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
    sync(target)


def sync(path: Path) -> None:
    """Waits until a file, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
