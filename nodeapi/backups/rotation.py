"""Backups that are made again and again into one directory, of which the newest are kept."""

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nodeapi.backups.archive import SECRET_KEY, BackupError, Manifest, describe, read_manifest
from nodeapi.node_files import give_to_owner_of
from nodeapi.safety_copy import sync

_NAME = re.compile(r"impervious-\d{8}T\d{6}Z\.backup")
# Until it is checked; what a killed one leaves.
_UNCHECKED = re.compile(r"\.impervious-\d{8}T\d{6}Z\.backup\.unchecked")


@dataclass(frozen=True)
class Rotated:
    """The new backup, what is in it, the old ones that were deleted, and why others could not be."""

    path: Path
    manifest: Manifest
    deleted: list[Path]
    problems: list[str]


def rotate(
    directory: Path,
    keep: int,
    *,
    secret_key: Path,
    make: Callable[[Path], Manifest],
    check: Callable[[Path], object],
    now: datetime | None = None,
) -> Rotated:
    """Makes a backup, checks it, and only then deletes those beyond the newest `keep`. May be killed, and repeated.

    Args:
        directory: Where they stand; made if it is not there. Other files in it are left alone.
        keep: How many are kept, the new one among them; at least 1.
        secret_key: The node's, by which its backups are told from another node's.
        make: Writes a whole backup to a path, or raises BackupError.
        check: Raises BackupError if the backup at a path is not good.
        now: The time that the new one is named after.

    Raises:
        BackupError: There is no new one, and nothing was deleted.
    """
    try:
        _make_directory(directory, node=secret_key.parent)
        with _alone_in(directory):
            _clear_away(directory)
            _refuse_another_nodes(directory, secret_key)
            path = directory / f"impervious-{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}.backup"
            unchecked = directory / f".{path.name}.unchecked"
            manifest = make(unchecked)
            check(unchecked)
            unchecked.rename(path)
            sync(directory)
            return Rotated(path, manifest, *_delete_old(directory, keep, besides=path))
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


def _make_directory(directory: Path, *, node: Path) -> None:
    """One that root makes among the files of the node's user is for that user, who makes the next backup perhaps."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        return
    if directory.parent.stat().st_uid == node.stat().st_uid:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            give_to_owner_of(directory.parent, descriptor)
        finally:
            os.close(descriptor)


def _clear_away(directory: Path) -> None:
    for path in directory.iterdir():
        if _UNCHECKED.fullmatch(path.name):
            path.unlink()


def _refuse_another_nodes(directory: Path, secret_key: Path) -> None:
    """Each would delete the other's, even the last one of a node that makes none any more."""
    try:
        own = describe(secret_key)["sha256"]
    except OSError:
        # The backup itself tells why.
        return
    for path in _backups_in(directory):
        try:
            held = read_manifest(path).files.get(SECRET_KEY)
        except BackupError:
            continue
        if held and held["sha256"] != own:
            raise BackupError(
                f"--directory: {path} was made under another secret key, by another node perhaps: name a directory that "
                "is this node's alone, or move that file away"
            )


def _backups_in(directory: Path) -> list[Path]:
    """In the order of their times, which is that of their names."""
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name) and path.is_file())


def _delete_old(directory: Path, keep: int, *, besides: Path) -> tuple[list[Path], list[str]]:
    """Whatever the clock says, `besides` is the newest. The deleted ones, and why others were not."""
    others = [path for path in _backups_in(directory) if path != besides]
    deleted, problems = [], []
    for path in others[: max(0, len(others) - (keep - 1))]:
        try:
            path.unlink()
            deleted.append(path)
        except OSError as error:
            problems.append(f"{path} cannot be deleted: {error.strerror}")
    sync(directory)
    return deleted, problems
