"""Carries a node's data from its SQLite file over to PostgreSQL, while the node does not run.

All rows are copied in one transaction, compared, and only then committed. Before the commit the file is marked, so that from
then on no node starts on it: two nodes on one lnd would pay and answer twice. The file itself stays as it is. Killed at
any moment, it can be repeated.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.management.color import no_style
from django.db import connections, models, transaction

from nodeapi.errors import StartError

TARGET, SOURCE = "default", "copied_from"
MARK = "impervious_copied"
BATCH = 500
_REPLACEMENT = "\ufffd"

Told = Callable[[str, int], None]


class CopyError(Exception):
    """Why nothing was copied, for the operator."""


def refuse_copied(file: Path) -> None:
    """Raise StartError when this SQLite file was carried over to PostgreSQL."""
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)) as database:
            found = database.execute(f"SELECT copied_at FROM {MARK}").fetchone()  # noqa: S608 (a constant)
    except sqlite3.Error:
        return
    if found:
        raise StartError(
            f"database.url: {file} was copied to PostgreSQL on {found[0]}: name that database, and beware of two nodes on one "
            "lnd (docs/operating.md#from-sqlite-to-postgresql says how to go back)"
        )


def copy(file: Path, told: Told) -> int:
    """Copies all rows of the SQLite file into the configured database, whose tables are there, and empty.

    Args:
        file: The SQLite file, of this version's schema, which no process has open.
        told: Is given each table's name and number of rows, once they are copied and compared.

    Returns:
        How many characters were replaced that PostgreSQL cannot hold (NUL).

    Raises:
        CopyError: The target has rows, or they differ afterwards; nothing was copied.
        django.db.Error: One of the databases cannot be used; nothing was copied.
    """
    _name_source(file)
    replaced = 0
    try:
        with transaction.atomic(TARGET):
            _require_unused()
            _empty_what_migrations_made()
            for model in _models():
                count, replaced_here = _copy_table(model)
                replaced += replaced_here
                told(model._meta.db_table, count)
            _reset_sequences()
            _mark(file)
        return replaced
    finally:
        connections[SOURCE].close()


def _name_source(file: Path) -> None:
    """As another database of Django's."""
    settings = {
        **connections.settings[TARGET],
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(file),
        "OPTIONS": {"timeout": 20},
    }
    connections.settings[SOURCE] = settings


def _models() -> list[type[models.Model]]:
    return [model for model in apps.get_models(include_auto_created=True) if model._meta.managed]


def _require_unused() -> None:
    for model in _models():
        if not model.__module__.startswith("django.") and model._base_manager.using(TARGET).exists():
            raise CopyError(
                f"database.url: the database is in use already: {model._meta.db_table} has rows. Name an empty one; if FILE was "
                "copied to this one before, there is nothing left to do"
            )


def _empty_what_migrations_made() -> None:
    """Django's own tables, such as the permissions: the file has them with keys of its own."""
    names = ", ".join(connections[TARGET].ops.quote_name(model._meta.db_table) for model in _models())
    with connections[TARGET].cursor() as cursor:
        cursor.execute(f"TRUNCATE {names}")


def _copy_table(model: type[models.Model]) -> tuple[int, int]:
    """How many rows it has, and how many characters were replaced."""
    count = replaced = 0
    rows = model._base_manager.using(SOURCE).order_by("pk").iterator(BATCH)
    while batch := list(islice(rows, BATCH)):
        replaced += sum(map(_replace_nul, batch))
        model._base_manager.using(TARGET).bulk_create(batch)
        _compare(model, batch)
        count += len(batch)
    found = model._base_manager.using(TARGET).count()
    if found != count:
        raise CopyError(f"{model._meta.db_table}: {count} rows, and {found} after they were copied")
    return count, replaced


def _compare(model: type[models.Model], batch: list[models.Model]) -> None:
    """Raises CopyError unless the copies have the same values."""
    # In no order: some models' usual one joins tables that are not copied yet.
    found = model._base_manager.using(TARGET).filter(pk__in=[row.pk for row in batch]).order_by()
    copies = {_plain(row.pk): _values(row) for row in found}
    for row in batch:
        if copies.get(_plain(row.pk)) != _values(row):
            raise CopyError(f"{model._meta.db_table}: the row {row.pk} is another one after it was copied")


def _values(row: models.Model) -> list[Any]:
    return [_plain(getattr(row, field.attname)) for field in row._meta.concrete_fields]


def _plain(value: Any) -> Any:
    """PostgreSQL's driver gives bytes as a memoryview."""
    return bytes(value) if isinstance(value, memoryview) else value


def _replace_nul(row: models.Model) -> int:
    """PostgreSQL's texts have no NUL character; how many there were."""
    replaced = 0
    for field in row._meta.concrete_fields:
        value = getattr(row, field.attname)
        count = _count_nul(value)
        if count:
            setattr(row, field.attname, _without_nul(value))
            replaced += count
    return replaced


def _count_nul(value: Any) -> int:
    if isinstance(value, str):
        return value.count("\0")
    if isinstance(value, dict):
        return sum(_count_nul(key) + _count_nul(inner) for key, inner in value.items())
    return sum(map(_count_nul, value)) if isinstance(value, list) else 0


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", _REPLACEMENT)
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(inner) for key, inner in value.items()}
    return list(map(_without_nul, value)) if isinstance(value, list) else value


def _reset_sequences() -> None:
    with connections[TARGET].cursor() as cursor:
        for statement in connections[TARGET].ops.sequence_reset_sql(no_style(), _models()):
            cursor.execute(statement)


def _mark(file: Path) -> None:
    """On the disk before the target is committed: there is no moment at which a node could start on both."""
    connections[SOURCE].close()
    with closing(sqlite3.connect(file, timeout=20)) as database:
        database.execute("PRAGMA synchronous=FULL")
        with database:
            database.execute(f"CREATE TABLE IF NOT EXISTS {MARK} (copied_at TEXT)")
            database.execute(f"DELETE FROM {MARK}")  # noqa: S608 (a constant)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            database.execute(f"INSERT INTO {MARK} VALUES (?)", (now,))  # noqa: S608 (a constant)
