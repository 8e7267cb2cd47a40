"""Backups that are made again and again into one directory, of which the newest are kept."""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nodeapi.backups.archive import BackupError, Manifest
from nodeapi.safety_copy import sync

_NAME = re.compile(r"impervious-\d{8}T\d{6}Z\.backup")
# What is left of one that was killed: the backup that was not checked yet, and the directories of the work.
_UNCHECKED = ".unchecked"
_UNFINISHED = re.compile(r"\.+impervious-\d{8}T\d{6}Z\.backup\..+|\.check-.+")


@dataclass(frozen=True)
class Rotated:
    """The new backup, what is in it, and the old ones that were deleted."""

    path: Path
    manifest: Manifest
    deleted: list[Path]


def rotate(
    directory: Path,
    keep: int,
    *,
    make: Callable[[Path], Manifest],
    check: Callable[[Path], object],
    now: datetime | None = None,
) -> Rotated:
    """Makes a backup, checks it, and only then deletes those beyond the newest `keep`. May be killed, and repeated.

    Args:
        directory: Where they stand; made if it is not there. Other files in it are left alone.
        keep: How many are kept, the new one among them; at least 1.
        make: Writes a whole backup to a path, or raises BackupError.
        check: Raises BackupError if the backup at a path is not good.
        now: The time that the new one is named after.

    Raises:
        BackupError: There is no new one, and nothing was deleted.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        with _alone_in(directory):
            _clear_away(directory)
            path = directory / f"impervious-{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}.backup"
            unchecked = directory / f".{path.name}{_UNCHECKED}"
            manifest = make(unchecked)
            check(unchecked)
            unchecked.rename(path)
            sync(directory)
            return Rotated(path, manifest, _delete_old(directory, keep, besides=path))
    except OSError as error:
        raise BackupError(f"{directory} cannot be used: {error.strerror}") from None


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Two at a time would clear away each other's work."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BackupError(f"another backup into {directory} is under way") from None
    finally:
        os.close(descriptor)


def _clear_away(directory: Path) -> None:
    for path in directory.iterdir():
        if not _UNFINISHED.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _delete_old(directory: Path, keep: int, *, besides: Path) -> list[Path]:
    """Whatever the clock says, `besides` is the newest."""
    found = [path for path in directory.iterdir() if _NAME.fullmatch(path.name) and path.is_file()]
    # Their names are in the order of their times.
    others = sorted(path for path in found if path != besides)
    old = others[: max(0, len(others) - (keep - 1))]
    for path in old:
        path.unlink()
    if old:
        sync(directory)
    return old
