"""The database: there, usable, migrated, and one that loses nothing."""

from collections.abc import Iterator
from typing import Any, cast

from django.db import Error, connection

from messaging.models import Event
from nodeapi import schema
from nodeapi.cli.doctor.findings import Finding, Patient, note, ok, wrong

OLDEST_SERVER = 140_000


def check(patient: Patient) -> Iterator[Finding]:
    path = patient.config.database.sqlite_path
    if path is not None and not path.exists():
        yield ok(f"there is no database yet: the first start makes {path}")
        return
    what = str(path) if path else "the PostgreSQL database"
    try:
        findings = [*_server(patient), *_migrations(patient, what)]
        _look_at_clocks(patient)
    except Error as error:
        advice = "start the server, or correct database.url"
        if path:
            advice = f"see that its user may read and write {path}, and that the disk works; else put back a backup"
        yield wrong(f"{what} cannot be used: {' '.join(str(error).split())}", advice)
        return
    finally:
        connection.close()
    yield from findings


def _server(patient: Patient) -> Iterator[Finding]:
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('synchronous_commit'), current_setting('server_version'), now()"
        )
        synchronous, version, patient.database_now = cursor.fetchone()
    if cast("Any", connection).pg_version < OLDEST_SERVER:
        yield wrong(f"the server is PostgreSQL {version}", "14 or newer is needed")
    if synchronous == "off":
        yield wrong(
            "synchronous_commit is off on this PostgreSQL server: a power cut would lose what was accepted",
            "ALTER ROLE … SET synchronous_commit = on",
        )


def _migrations(patient: Patient, what: str) -> Iterator[Finding]:
    found = schema.read()
    patient.pending_migrations = list(found.pending)
    if found.newer:
        yield wrong(
            f"{what} was made by {found.made_by}, and this is version {patient.version}: the node does not start on it",
            "install that version, or put back the copy from before its update (docs/upgrading.md)",
        )
    elif found.pending and found.is_empty:
        yield ok(f"{what} is empty: the first start fills it")
    elif found.pending:
        words = f"{what} is not migrated: {_some(patient.pending_migrations)} missing"
        advice = "start the node again: a start migrates it" + (
            "" if connection.vendor == "postgresql" else ", and keeps a copy of what it was"
        )
        yield wrong(words, advice) if patient.running else note(words, advice)
    else:
        yield ok(f"{what} works, with all migrations")


def _some(names: list[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (
        f" and {more} more are" if more > 0 else " are" if len(names) > 1 else " is"
    )


def _look_at_clocks(patient: Patient) -> None:
    if not any(name.startswith("messaging.") for name in patient.pending_migrations):
        patient.newest_event_at = Event.objects.order_by("-seq").values_list("created_at", flat=True).first()
