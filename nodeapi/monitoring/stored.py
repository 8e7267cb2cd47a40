"""Numbers of the database for the metrics. Each query walks a small partial index, or is bounded: a million stored messages do
not make it slow. Synchronous; run by Database.read.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from django.db import connection
from django.db.models import BooleanField, Count
from django.db.models.expressions import RawSQL

from messaging import events
from messaging.answers import AnswerBudget, budget
from messaging.models import UNFINISHED
from messaging.policy import refused_totals
from vpn.models import Lease, PurchasedLease

# Of more unfinished messages than these the oldest so many are counted.
MOST_UNFINISHED = 10_000


@dataclass(frozen=True)
class Numbers:
    """Unfinished messages and what they may cost (msat) by service and state; leases by direction and state;
    what the inbound policy has refused, by service and cause; what answers cost of what others have paid; the ends of the event log; bytes of the database.
    """

    unfinished: dict[tuple[str, str], tuple[int, int]]
    leases: dict[tuple[str, str], int]
    refused: dict[tuple[str, str], int]
    answers: AnswerBudget
    first_seq: int
    last_seq: int
    database_bytes: int


def read_numbers(file: Path | None) -> Numbers:
    """`file` is that of an SQLite database."""
    first_seq, last_seq = events.kept()
    return Numbers(
        unfinished=_unfinished(),
        leases=_leases(),
        refused=refused_totals(),
        answers=budget(0),
        first_seq=first_seq,
        last_seq=last_seq,
        database_bytes=_file_bytes(file) if file else _server_bytes(),
    )


def _unfinished() -> dict[tuple[str, str], tuple[int, int]]:
    # As text: SQLite takes a partial index only where its condition stands in the query as it is.
    states = ", ".join(f"'{state.value}'" for state in UNFINISHED)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT service, state, count(*), sum(cost_msat) FROM "  # noqa: S608 (constants)
            "(SELECT service, state, cost_msat FROM messaging_message "
            f"WHERE state IN ({states}) ORDER BY id LIMIT {MOST_UNFINISHED}) AS unfinished GROUP BY service, state"
        )
        return {(service, state): (count, int(cost)) for service, state, count, cost in cursor.fetchall()}


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
