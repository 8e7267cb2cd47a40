"""Files of the node that hold messages, preimages or keys: readable by its user alone, whoever runs a command.

The node's user is the owner of the directory. A command run as root must not leave files there that this user cannot open.
"""

import os
import shlex
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from pwd import getpwuid

PRIVATE = 0o600


def lock_path(database: Path) -> Path:
    return database.with_name(database.name + ".lock")


def files_in_use(database: Path) -> list[Path]:
    """The SQLite database, its log and its lock: those that are there."""
    beside = (database, Path(f"{database}-wal"), Path(f"{database}-shm"), lock_path(database))
    return [path for path in beside if path.exists()]


def copies_of(database: Path) -> list[Path]:
    """What it was before an update or a restore."""
    return list(database.parent.glob(f"{database.name}.*before-*"))


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
    try:
        give_to_owner_of(path.parent, descriptor)
    finally:
        os.close(descriptor)


def give_to_owner_of(directory: Path, descriptor: int) -> None:
    """What root puts beside a node must not lock out the user who runs it. By its descriptor: in a directory of another
    user's a name may lead anywhere.
    """
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def tighten(paths: Iterable[Path]) -> list[Path]:
    """Takes the rights of all other users away, as far as this user may, and returns the files that had given some."""
    changed = []
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            with suppress(PermissionError):
                path.chmod(mode & ~0o077)
                changed.append(path)
    return changed


def problem_of_access(database: Path) -> str:
    """Say which files of an SQLite database this user cannot read and write, whose they are, and what to do; return nothing
    if all is well.
    """
    needed = dict.fromkeys(files_in_use(database), os.R_OK | os.W_OK)
    needed[database.parent] = os.R_OK | os.W_OK | os.X_OK
    closed = [path for path, rights in needed.items() if path.exists() and not os.access(path, rights)]
    if not closed:
        return ""
    user, owners = _name(os.geteuid()), sorted({_name(path.stat().st_uid) for path in closed})
    names = shlex.join(map(str, closed))
    return (
        f"the user {user} cannot read and write {names} (of {', '.join(owners)}): run the node as their owner, or, as root: "
        f"chown {user} {names}"
    )


def _name(uid: int) -> str:
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
