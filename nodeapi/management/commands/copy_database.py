import os
import sqlite3
from contextlib import closing
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error, connections
from django.db.migrations.loader import MigrationLoader

from nodeapi import database_copy, first_start, welcome
from nodeapi.database_copy import CopyError
from nodeapi.errors import StartError
from nodeapi.locks import FileLock, lock_of
from nodeapi.node_files import give_to_owner_of
from nodeapi.safety_copy import sync


class Command(BaseCommand):
    help = "Copies a node's SQLite database into the PostgreSQL database that the configuration names. The node must be stopped."
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument(
            "file", type=Path, metavar="FILE", help="the SQLite file, such as impervious.sqlite3"
        )

    def handle(self, *args, file: Path, **options):
        config = settings.IMPD
        if config is None:
            raise CommandError(welcome.no_configuration(settings.CONFIG_PLACES))
        if config.database.postgres is None:
            raise CommandError(
                "database.url: names no PostgreSQL database: put the new one into the configuration first"
            )
        file = file.absolute()
        if not file.is_file():
            raise CommandError(f"FILE: there is no database {file}")
        try:
            self._copy(config, file)
        except (CopyError, StartError) as error:
            raise CommandError(f"{error}\nNothing was copied.") from None
        except (Error, sqlite3.Error, OSError) as error:
            raise CommandError(f"it could not be copied: {error}\nNothing was copied.") from None

    def _copy(self, config, file: Path) -> None:
        with FileLock(file), lock_of(config.database):
            _close_journal(file)
            _require_this_version(file)
            first_start.migrate(config)
            # Before the rows: without it nothing that is sealed under it could be opened.
            _copy_key(file.with_suffix(".secret_key"), config.database.secret_key_path)
            replaced = database_copy.copy(file, self._told)
            connections["default"].close()
        if replaced:
            self.stdout.write(
                f"{replaced} NUL characters in texts became U+FFFD: PostgreSQL cannot hold them."
            )
        self.stdout.write(
            f"The node's data are in the PostgreSQL database. {file} is as it was, but no node starts on it any more; its "
            "secret key was copied too. Keep both until you have a backup: ./impervious backup."
        )

    def _told(self, table: str, count: int) -> None:
        if count:
            self.stdout.write(f"{table}: {count} rows")


def _close_journal(file: Path) -> None:
    """Whoever has the file open could still write to it."""
    with closing(sqlite3.connect(file, timeout=2)) as database:
        try:
            database.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.OperationalError:
            raise CopyError(
                f"FILE: another process has {file} open: end the daphnes beside the node, and commands that read it"
            ) from None


def _require_this_version(file: Path) -> None:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        try:
            applied = set(database.execute("SELECT app, name FROM django_migrations"))
        except sqlite3.Error:
            raise CopyError(f"FILE: {file} is no database of a node") from None
    known = set(MigrationLoader(None).disk_migrations)
    if applied != known:
        which = (
            "a newer version"
            if applied - known
            else "an older version: start the node on it once, which migrates it"
        )
        raise CopyError(f"FILE: {file} is of {which}")


def _key_in(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _copy_key(source: Path, target: Path) -> None:
    key, there = _key_in(source), _key_in(target)
    if not key:
        raise CopyError(f"FILE: its secret key {source} is missing")
    if there == key:
        return
    if there:
        raise CopyError(f"{target} holds another secret key: it belongs to another database; move it away")
    unfinished = target.with_name(f".{target.name}.copied")
    with open(unfinished, "w") as file:
        unfinished.chmod(0o600)
        file.write(key)
        give_to_owner_of(target.parent, file.fileno())
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(target)
    sync(target.parent)
