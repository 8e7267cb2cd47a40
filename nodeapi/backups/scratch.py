"""Directories for the parts of a backup. They end with the work; those of a process that was killed, when the next begins."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nodeapi.backups.archive import BackupError

PREFIX = ".impervious-scratch-"


@contextmanager
def scratch_in(parent: Path) -> Iterator[Path]:
    """A new directory in `parent`, for this user alone. Raises BackupError when it cannot be made."""
    try:
        remove_left_over(parent)
        directory, descriptor = _make(parent)
    except OSError as error:
        raise BackupError(f"{parent} cannot be written to: {error.strerror}") from None
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(descriptor)


def _make(parent: Path) -> tuple[Path, int]:
    """Locked as long as its process lives. Before it is, another process may take it for left over."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):
            descriptor = _open(directory)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if directory.exists():
                return directory, descriptor
            os.close(descriptor)


def remove_left_over(parent: Path) -> None:
    """Those that nobody has locked."""
    for directory in parent.glob(f"{PREFIX}*"):
        # Of another user, in /tmp perhaps, or just removed.
        with suppress(OSError):
            descriptor = _open(directory)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(descriptor)


def _open(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
