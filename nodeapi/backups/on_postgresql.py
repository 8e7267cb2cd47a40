"""Backups of a node on PostgreSQL. Loads psycopg: imported by its name, for such nodes alone."""

import os
from collections.abc import Mapping
from pathlib import Path

import psycopg

from messaging.required import required
from nodeapi.backups import postgres
from nodeapi.backups.archive import DATABASES, BackupError
from nodeapi.backups.making import LAST_SEQ, MIGRATIONS
from nodeapi.backups.places import home_of, kept
from nodeapi.backups.restoring import VALID_KEYS
from nodeapi.backups.returned import Mark


def dump_of_a_moment(parameters: Mapping[str, str], copy: Path) -> tuple[list[list[str]], int]:
    """Dumps to `copy`; the migrations and the last event's number in it. Raises BackupError."""
    with postgres.connect(parameters) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot = required(connection.execute("SELECT pg_export_snapshot()").fetchone())[0]
        try:
            migrations = [list(row) for row in connection.execute(MIGRATIONS)]
            last_seq = required(connection.execute(LAST_SEQ).fetchone())[0]
        except psycopg.errors.UndefinedTable:
            raise BackupError("no node has run on this database yet") from None
        postgres.dump(parameters, copy, snapshot=snapshot)
        return migrations, last_seq


class Postgres:
    """The configured database on a server as what a backup is put in place of."""

    kind = "postgresql"
    valid_keys: list[str] | None = None

    def __init__(self, config):
        self._parameters = config.database.postgres.get_secret_value()
        self.name = f"the database {self._parameters.get('dbname', '')}"
        self._beside: Path = config.database.secret_key_path
        self.home = home_of(config)

    def is_empty(self) -> bool:
        return postgres.is_empty(self._parameters)

    def last_seq(self) -> int:
        with postgres.connect(self._parameters) as connection:
            try:
                return required(connection.execute(LAST_SEQ).fetchone())[0]
            except psycopg.Error:
                return 0

    def check(self, scratch: Path, *, only_check: bool = False) -> None:
        # The script is several times as large as the dump.
        script = Path(os.devnull) if only_check else scratch / "script.sql"
        postgres.script_of(scratch / DATABASES[self.kind], script)

    def replace(self, scratch: Path, mark: Mark) -> list[Path]:
        asides = []
        if not self.is_empty():
            aside = kept(self._beside.with_suffix(".dump"), mark.stamp)
            postgres.dump(self._parameters, aside)
            asides.append(aside)
        marking = scratch / "mark.sql"
        marking.write_text(mark.script())
        postgres.replace(self._parameters, scratch / "script.sql", marking)
        self.valid_keys = self._names_of_keys()
        return asides

    def _names_of_keys(self) -> list[str] | None:
        """The backup is in place: nothing that goes wrong here may end the restore."""
        try:
            with postgres.connect(self._parameters) as connection:
                return [name for (name,) in connection.execute(VALID_KEYS)]
        except (BackupError, psycopg.Error):
            return None
