"""Files of the node that hold messages, preimages or keys: readable by its user alone, whoever runs a command.

The node's user is the owner of the directory. A command run as root must not leave files there that this user cannot open.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from pwd import getpwuid

from nodeapi.errors import StartError

PRIVATE = 0o600


def lock_path(database: Path) -> Path:
    return database.with_name(database.name + ".lock")


def database_files(database: Path) -> list[Path]:
    """The SQLite database, and what stands beside it: its log, its lock, copies of what it was. Those that are there."""
    beside = (database, Path(f"{database}-wal"), Path(f"{database}-shm"), lock_path(database))
    copies = database.parent.glob(f"{database.name}.*before-*")
    return [path for path in (*beside, *copies) if path.exists()]


def make_private(path: Path) -> None:
    """Makes an empty file, and its directory, unless it is there. Raises OSError."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE)
    except FileExistsError:
        # Another process was faster.
        return
    os.close(descriptor)
    give_to_owner_of(path.parent, path)


def give_to_owner_of(directory: Path, path: Path) -> None:
    """What root puts beside a node must not lock out the user who runs it."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def tighten(paths: Iterable[Path]) -> list[Path]:
    """Takes the rights of all other users away, and returns the files that had given some."""
    changed = []
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            path.chmod(mode & ~0o077)
            changed.append(path)
    return changed


def require_access(paths: Iterable[Path]) -> None:
    """StartError when this user cannot read and write one of them, with its owner and what to do."""
    for path in paths:
        if not os.access(path, os.R_OK | os.W_OK):
            user = _name(os.geteuid())
            raise StartError(
                f"{path} cannot be read and written by the user {user}: it belongs to {_name(path.stat().st_uid)}; "
                f"run the node as its owner, or, as root: chown {user} {path}"
            )


def _name(uid: int) -> str:
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
