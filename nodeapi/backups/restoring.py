"""Puts a backup back in place of what is there, while the node does not run.

All is unpacked and checked first. The exchange of the database is the one moment that counts: before it all is as it
was, and after it the database itself says (returned.py) what is still to be done, which the node's next start makes good
if this process has died.
"""

import os
import sqlite3
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

from django.utils.module_loading import import_string

from nodeapi.backups import archive, returned
from nodeapi.backups.archive import DATABASES, BackupError, Manifest
from nodeapi.backups.making import LAST_SEQ, check_whole
from nodeapi.backups.places import exchange, home_of, kept, places_of, staged
from nodeapi.backups.returned import Mark
from nodeapi.backups.scratch import scratch_in
from nodeapi.locks import lock_of
from nodeapi.node_files import give_to_owner_of
from nodeapi.safety_copy import sync

# More events than a node writes in a second (docs/performance.md), and as many again that it may have written unseen.
SEQS_A_SECOND = 10_000
SEQS_AT_LEAST = 1_000_000
VALID_KEYS = (
    "SELECT name FROM nodeapi_apikey WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > CURRENT_TIMESTAMP) "
    "ORDER BY name"
)


@dataclass(frozen=True)
class Restored:
    """What was put back, the files under which what was there before goes on, and the names of the API keys that are valid
    now: some of them may have been revoked since the backup. None: its version had no keys.
    """

    manifest: Manifest
    kept: list[Path]
    keys: list[str] | None


class Target(Protocol):
    """The configured database as what a backup is put in place of. `kind`: "sqlite" or "postgresql"; `home`: where files
    of the work may stand; `valid_keys`: the API keys' names, known when it has been replaced.
    """

    kind: str
    name: str
    home: Path
    valid_keys: list[str] | None

    def is_empty(self) -> bool: ...

    def last_seq(self) -> int:
        """Of the database that is there; 0 where it cannot be told."""

    def check(self, scratch: Path, *, only_check: bool = False) -> None:
        """Raises BackupError when the unpacked database is damaged. `only_check`: it is looked through more thoroughly, and
        will not be put back.
        """

    def replace(self, scratch: Path, mark: Mark) -> list[Path]:
        """The files under which what was there goes on."""


def check_backup(
    config,
    source: Path | IO[bytes],
    *,
    known_migrations: Collection[tuple[str, str]],
    room: Path | None = None,
) -> Manifest:
    """All that a restore would check, and more; nothing is changed, and the node may run.

    Args:
        config: The node's configuration.
        source: The backup, a file or a pipe.
        known_migrations: Those of this version.
        room: A directory with room for the unpacked backup; that of the node's database if none is named.

    Raises:
        BackupError: The backup is not good for this node.
    """
    target = _target(config)
    try:
        with scratch_in(room or target.home) as scratch:
            return _unpack(source, scratch, target, known_migrations, only_check=True)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"the backup could not be checked: {error}") from None


def restore_backup(
    config, source: Path | IO[bytes], *, force: bool, known_migrations: Collection[tuple[str, str]]
) -> Restored:
    """BackupError, or StartError while a node runs, and nothing is changed then. With `force` over a database that is
    there, which is kept under another name.
    """
    with lock_of(config.database):
        # Rights must fit files that are made here.
        before = os.umask(0o077)
        try:
            return _restore(config, source, force, known_migrations)
        except (OSError, sqlite3.Error) as error:
            raise BackupError(f"the backup could not be put back: {error}") from None
        finally:
            os.umask(before)


def _unpack(
    source: Path | IO[bytes],
    scratch: Path,
    target: Target,
    known_migrations: Collection[tuple[str, str]],
    *,
    only_check: bool = False,
) -> Manifest:
    """Checks the whole of it."""
    manifest = archive.extract(source, scratch)
    _check(manifest, target, known_migrations)
    target.check(scratch, only_check=only_check)
    return manifest


def _restore(
    config, source: Path | IO[bytes], force: bool, known_migrations: Collection[tuple[str, str]]
) -> Restored:
    target = _target(config)
    if not force and not target.is_empty():
        raise BackupError(
            f"{target.name} holds a node's data; put the backup in its place: --force (it is kept)"
        )
    _clear_away(config)
    with scratch_in(target.home) as scratch:
        manifest = _unpack(source, scratch, target, known_migrations)
        mark = _mark(manifest, target.last_seq())
        files = {name: place for name, place in places_of(config).items() if name in manifest.files}
        for name, place in files.items():
            _stage(scratch / name, staged(place))
        asides = target.replace(scratch, mark)
        asides += returned.take_files(config, mark)
        return Restored(manifest, asides, target.valid_keys)


def _target(config) -> Target:
    if config.database.postgres:
        # By its name, because it imports psycopg, which a node on SQLite does without.
        return import_string("nodeapi.backups.on_postgresql.Postgres")(config)
    return Sqlite(config)


def _stage(source: Path, target: Path) -> None:
    """Perhaps on another disk."""
    with open(target, "wb") as file:
        file.write(source.read_bytes())
        give_to_owner_of(target.parent, file.fileno())
        file.flush()
        os.fsync(file.fileno())
    sync(target.parent)


def _clear_away(config) -> None:
    """What a restore that was killed has left, but the files that a database which has come back waits for."""
    path = config.database.sqlite_path
    for other_name in path.parent.glob(f"{path.name}.*.before-restore") if path and path.exists() else ():
        if other_name.samefile(path):
            other_name.unlink()


def _check(manifest: Manifest, target: Target, known_migrations: Collection[tuple[str, str]]) -> None:
    if manifest.database != target.kind:
        raise BackupError(
            f"the backup is of a node on {manifest.database}, and database.url names {target.kind}: "
            "restore it on one of its own kind (./impervious copy_database carries a node over to PostgreSQL)"
        )
    unknown = [f"{app}.{name}" for app, name in manifest.migrations if (app, name) not in known_migrations]
    if unknown:
        raise BackupError(
            f"the backup is of a newer version ({manifest.version}; this one does not know {unknown[-1]}): update first"
        )


def _mark(manifest: Manifest, last_seq: int) -> Mark:
    now = datetime.now(UTC)
    seconds = max(0.0, (now - datetime.fromisoformat(manifest.made_at)).total_seconds())
    jump = max(SEQS_AT_LEAST, int(seconds * SEQS_A_SECOND))
    return Mark(
        made_at=manifest.made_at,
        stamp=now.strftime("%Y%m%dT%H%M%S.%fZ"),
        seq=max(manifest.last_seq + jump, last_seq + 1),
        files={name: told["sha256"] for name, told in manifest.files.items()},
    )


class Sqlite:
    """The configured file as what a backup is put in place of."""

    kind = "sqlite"
    # Known when it has been replaced.
    valid_keys: list[str] | None = None

    def __init__(self, config):
        self._path: Path = config.database.sqlite_path
        self.name = str(self._path)
        self.home = home_of(config)

    def is_empty(self) -> bool:
        return not self._path.exists() or self._path.stat().st_size == 0

    def last_seq(self) -> int:
        """Of the database that is there; 0 where it cannot be told: perhaps that is why it is replaced."""
        try:
            with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=5)) as database:
                return database.execute(LAST_SEQ).fetchone()[0]
        except sqlite3.Error:
            return 0

    def check(self, scratch: Path, *, only_check: bool = False) -> None:
        with closing(sqlite3.connect(scratch / DATABASES[self.kind])) as database:
            check_whole(database, thorough=only_check)

    def replace(self, scratch: Path, mark: Mark) -> list[Path]:
        new, aside = scratch / DATABASES[self.kind], kept(self._path, mark.stamp)
        with closing(sqlite3.connect(new)) as database:
            database.execute("PRAGMA synchronous=FULL")
            with database:
                for statement, values in mark.statements(placeholder="?"):
                    database.execute(statement, values)
            self.valid_keys = self._names_of_keys(database)
        with open(new, "rb") as database_file:
            give_to_owner_of(self.home, database_file.fileno())
        self._close_log(aside)
        existed = self._path.exists()
        exchange(new, self._path, aside)
        return [aside] if existed else []

    def _names_of_keys(self, database: sqlite3.Connection) -> list[str] | None:
        try:
            return [name for (name,) in database.execute(VALID_KEYS)]
        except sqlite3.OperationalError:
            return None

    def _close_log(self, aside: Path) -> None:
        """What stands in the log (-wal) goes into the database: beside another one it would be written into that."""
        if not self._path.exists():
            return
        try:
            with closing(sqlite3.connect(self._path, timeout=2)) as database:
                database.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorname in ("SQLITE_BUSY", "SQLITE_LOCKED"):
                raise BackupError(
                    f"another process has {self._path} open: end the daphnes beside the node, and commands that read it"
                ) from None
            # Too damaged to be opened: its log is of no use but beside it.
            for suffix in ("-wal", "-shm"):
                log = Path(f"{self._path}{suffix}")
                if log.exists():
                    log.rename(f"{aside}{suffix}")
