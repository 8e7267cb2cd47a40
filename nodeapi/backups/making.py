"""Makes a backup, of one moment, while the node runs or not."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from django.utils.module_loading import import_string

from nodeapi.backups import archive
from nodeapi.backups.archive import CONFIGURATION, DATABASES, VPN_KEY, BackupError, Manifest
from nodeapi.backups.places import home_of, places_of
from nodeapi.backups.scratch import remove_left_over, scratch_in
from nodeapi.safety_copy import sync

MIGRATIONS = "SELECT app, name FROM django_migrations ORDER BY app, name"
LAST_SEQ = "SELECT COALESCE(MAX(seq), 0) FROM messaging_event"


def make_backup(
    config, target: Path, *, version: str, force: bool = False, with_vpn_key: bool = True
) -> Manifest:
    """Writes the archive; with `force` over an older one. BackupError, and nothing is left of it then."""
    target = target.absolute()
    if target.exists() and not force:
        raise BackupError(f"{target} exists; name another file, or let it be replaced: --force")
    # Of a pipe, or a check, that was killed.
    remove_left_over(home_of(config))
    with _scratch_in(target.parent) as scratch:
        manifest, files = _collect(config, scratch, version, with_vpn_key)
        whole = scratch / "whole"
        archive.write(whole, manifest, files)
        os.replace(whole, target)
        sync(target.parent)
        return manifest


def stream_backup(config, stream: IO[bytes], *, version: str, with_vpn_key: bool = True) -> Manifest:
    """Writes the archive into a pipe. What has room for a copy of the database is the node's own directory. BackupError:
    what was written is not a whole backup.
    """
    with _scratch_in(home_of(config)) as scratch:
        manifest, files = _collect(config, scratch, version, with_vpn_key)
        archive.write_to(stream, manifest, files)
        stream.flush()
        return manifest


@contextmanager
def _scratch_in(directory: Path) -> Iterator[Path]:
    try:
        with scratch_in(directory) as scratch:
            yield scratch
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"the backup could not be made in {directory}: {error}") from None


def _collect(config, scratch: Path, version: str, with_vpn_key: bool) -> tuple[Manifest, dict[str, Path]]:
    """The database of one moment, and the files beside it."""
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    kind = "postgresql" if config.database.postgres else "sqlite"
    copy = scratch / DATABASES[kind]
    if config.database.postgres:
        # By its name, because it imports psycopg, which a node on SQLite does without.
        dump_of_a_moment = import_string("nodeapi.backups.on_postgresql.dump_of_a_moment")
        migrations, last_seq = dump_of_a_moment(config.database.postgres.get_secret_value(), copy)
    else:
        migrations, last_seq = _copy(config.database.sqlite_path, copy)
    files = {DATABASES[kind]: copy, **_beside(config, scratch, with_vpn_key)}
    manifest = Manifest(
        version=version,
        made_at=made_at,
        database=kind,
        last_seq=last_seq,
        migrations=migrations,
        files={name: archive.describe(path) for name, path in files.items()},
    )
    return manifest, files


def _copy(database: Path, copy: Path) -> tuple[list[list[str]], int]:
    """By SQLite's backup API: of one moment, and nobody waits for it."""
    if not database.exists():
        raise BackupError(f"there is no database {database} yet")
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(database, timeout=20)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)
        # One file, without a log beside it.
        new.execute("PRAGMA journal_mode=DELETE")
        check_whole(new)
        return [list(row) for row in new.execute(MIGRATIONS)], new.execute(LAST_SEQ).fetchone()[0]


def check_whole(database: sqlite3.Connection, *, thorough: bool = False) -> None:
    """Raises BackupError. `thorough`: its indexes against its tables, too."""
    check = "integrity_check" if thorough else "quick_check"
    try:
        found = database.execute(f"PRAGMA {check}(1)").fetchone()[0]
    except sqlite3.OperationalError:
        # Says something of this machine.
        raise
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise BackupError(f"the database is damaged: {found}")


def _beside(config, scratch: Path, with_vpn_key: bool) -> dict[str, Path]:
    """Copies of the files beside the database, by their names in the archive."""
    wanted = {name: place for name, place in places_of(config).items() if with_vpn_key or name != VPN_KEY}
    if config.path:
        wanted[CONFIGURATION] = config.path
    files = {}
    for name, place in wanted.items():
        try:
            content = place.read_bytes()
        except FileNotFoundError:
            continue
        except PermissionError:
            advice = "; run this as root, or leave it out: --without-vpn-key" if name == VPN_KEY else ""
            raise BackupError(f"{place} cannot be read{advice}") from None
        files[name] = scratch / name
        files[name].write_bytes(content)
    return files
