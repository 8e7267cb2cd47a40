"""Numbers of the database for the metrics. Each query walks a small partial index, or is bounded: a million stored messages do
not make it slow. Synchronous; run by Database.read.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from django.db import connection
from django.db.models import BooleanField, Count, QuerySet
from django.db.models.expressions import RawSQL
from django.utils.dateparse import parse_datetime

from messaging import events
from messaging.answers import AnswerBudget, budget
from messaging.models import UNFINISHED, Attempt
from messaging.policy import refused_totals
from messaging.required import required
from nodeapi.backups import record
from vpn.models import Lease, PurchasedLease

# Of more unfinished messages than these the oldest so many are counted.
MOST_UNFINISHED = 10_000


@dataclass(frozen=True)
class Unfinished:
    """Messages of one service and state: how many, what they may cost, and when the oldest was accepted."""

    count: int
    cost_msat: int
    oldest_at: datetime


@dataclass(frozen=True)
class Numbers:
    """Unfinished messages by service and state; when the oldest payment under way began; leases by direction and state;
    what the inbound policy has refused, by service and cause; what answers cost of what others have paid; the ends of the event log; bytes of the database;
    of when the last backup is.
    """

    unfinished: dict[tuple[str, str], Unfinished]
    oldest_payment_at: datetime | None
    leases: dict[tuple[str, str], int]
    refused: dict[tuple[str, str], int]
    answers: AnswerBudget
    first_seq: int
    last_seq: int
    database_bytes: int
    last_backup_at: datetime | None


def read_numbers(file: Path | None) -> Numbers:
    """`file` is that of an SQLite database."""
    first_seq, last_seq = events.kept()
    return Numbers(
        unfinished=_unfinished(),
        oldest_payment_at=_payments_in_flight().values_list("created_at", flat=True).first(),
        leases=_leases(),
        refused=refused_totals(),
        answers=budget(0),
        first_seq=first_seq,
        last_seq=last_seq,
        database_bytes=_file_bytes(file) if file else _server_bytes(),
        last_backup_at=record.last_backup_at(),
    )


def _unfinished() -> dict[tuple[str, str], Unfinished]:
    # As text: SQLite takes a partial index only where its condition stands in the query as it is.
    states = ", ".join(f"'{state.value}'" for state in UNFINISHED)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT service, state, count(*), sum(cost_msat), min(created_at) FROM "  # noqa: S608 (constants)
            "(SELECT service, state, cost_msat, created_at FROM messaging_message "
            f"WHERE state IN ({states}) ORDER BY id LIMIT {MOST_UNFINISHED}) AS unfinished GROUP BY service, state"
        )
        return {
            (service, state): Unfinished(count, int(cost_msat), _moment(oldest))
            for service, state, count, cost_msat, oldest in cursor.fetchall()
        }


def _moment(value: str | datetime) -> datetime:
    """As the driver of SQLite, or of PostgreSQL, gives it where no model says what it is."""
    moment = required(parse_datetime(value)) if isinstance(value, str) else value
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _payments_in_flight() -> QuerySet[Attempt]:
    """The oldest first, by their own index."""
    return Attempt.objects.filter(state=Attempt.State.IN_FLIGHT).order_by("created_at")


def _leases() -> dict[tuple[str, str], int]:
    holding = Lease.objects.filter(RawSQL('"vpn_lease"."holds_key"', (), output_field=BooleanField()))
    not_ended = RawSQL('NOT ("vpn_purchasedlease"."state" = \'ended\')', (), output_field=BooleanField())
    found = {}
    for direction, rows in (("sold", holding), ("bought", PurchasedLease.objects.filter(not_ended))):
        for state, count in rows.values_list("state").annotate(Count("pk")).order_by():
            found[direction, state] = count
    return found


def _file_bytes(file: Path) -> int:
    """Of the file and its write-ahead log."""
    total = 0
    for name in (file, file.with_name(file.name + "-wal")):
        try:
            total += os.stat(name).st_size
        except OSError:
            continue
    return total


def _server_bytes() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        return cursor.fetchone()[0]
