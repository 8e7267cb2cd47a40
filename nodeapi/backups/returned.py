"""A database that has come back from a backup: the mark that says so, and what the node does about it at its start.

The node's present is in its database; lnd's is not. So, in one transaction:
- The event log goes on far beyond what the lost database can have written: no seq is ever used again, and the cursors
  of clients stay good.
- What the operator asked for in the admin, and the node had not done yet, is given up, as it may have been done since.
- What waited to be sent is given up: it may have been sent, and paid, after the backup. What was under way is asked for
  in lnd as always, and not tried again if it failed.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.core.management.color import no_style
from django.db import connection, transaction

from federation import worker as federation_worker
from messaging import events, ledger, operator_actions
from messaging.models import Event
from nodeapi import operators
from nodeapi.backups.archive import SECRET_KEY
from nodeapi.backups.places import exchange, kept, places_of, staged
from nodeapi.errors import StartError
from nodeapi.stream import NOTICE
from vpn import wishes

logger = logging.getLogger("nodeapi.backups.returned")

TABLE = "impervious_restored"
_GONE = "a backup of {}: what was noted since is not here, but in the log"


@dataclass(frozen=True)
class Mark:
    """When the backup was made, when it was put back, the first seq from then on, and the files that belong to it, each
    with its SHA-256, by their names in the archive.
    """

    made_at: str
    stamp: str
    seq: int
    files: dict[str, str]

    def statements(self, *, placeholder: str) -> list[tuple[str, tuple]]:
        columns = ", ".join([placeholder] * 4)
        return [
            (f"DROP TABLE IF EXISTS {TABLE}", ()),
            (f"CREATE TABLE {TABLE} (made_at text, stamp text, seq bigint, files text)", ()),
            (
                f"INSERT INTO {TABLE} VALUES ({columns})",  # noqa: S608 (constants)
                (self.made_at, self.stamp, self.seq, json.dumps(self.files)),
            ),
        ]

    def script(self) -> str:
        """The same as SQL text for psql."""
        values = (self.made_at, self.stamp, str(self.seq), json.dumps(self.files))
        quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
        return (
            f"DROP TABLE IF EXISTS public.{TABLE};\n"
            f"CREATE TABLE public.{TABLE} (made_at text, stamp text, seq bigint, files text);\n"
            f"INSERT INTO public.{TABLE} VALUES ({quoted});\n"
        )


def take_files(config, mark: Mark) -> list[Path]:
    """Puts the files that wait in their places; the names under which what was there goes on. Can be done again.
    StartError when one is gone.
    """
    asides = []
    for name, place in places_of(config).items():
        if name not in mark.files:
            continue
        waiting, aside = staged(place), kept(place, mark.stamp)
        if waiting.exists() and _sum(waiting) == mark.files[name]:
            exchange(waiting, place, aside)
        elif not place.exists() or _sum(place) != mark.files[name]:
            raise StartError(f"{place} is not the one of the restored database: restore the backup again")
        if aside.exists():
            asides.append(aside)
    return asides


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def finish(config) -> None:
    """At the node's start, after the migrations: does what is still to be done, once, if the database has come back."""
    mark = _read()
    if mark is None:
        return
    take_files(config, mark)
    if SECRET_KEY in mark.files:
        settings.SECRET_KEY = config.database.secret_key_path.read_text()
    with transaction.atomic():
        _go_on(mark)
        operators.note(
            "restore", operators.Actor(name="at the command line"), detail=_GONE.format(mark.made_at)
        )
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE {TABLE}")
    logger.warning(
        "the database was restored from a backup", extra={"made_at": mark.made_at, "seq": mark.seq}
    )


def _read() -> Mark | None:
    if TABLE not in connection.introspection.table_names():
        return None
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT made_at, stamp, seq, files FROM {TABLE}")  # noqa: S608 (a constant)
        made_at, stamp, seq, files = cursor.fetchone()
    return Mark(made_at, stamp, seq, json.loads(files))


def _go_on(mark: Mark) -> None:
    text = (
        f"this node's database was restored from a backup of {mark.made_at}: what was received since is told again, "
        "under the same ids; what was sent since is not known here"
    )
    first = Event(
        seq=max(mark.seq, events.last_seq() + 1),
        message_id=UUID(int=0),
        data=json.dumps({"error": text}, separators=(",", ":")).encode(),
        service_type=NOTICE,
        amount_sat=0,
    )
    events.append([first], published=_nobody_listens)
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), [Event]):
            cursor.execute(statement)
    cause = f"restored from a backup of {mark.made_at}: whether it was sent after that is not known here"
    ledger.give_up_unsent(cause, published=_nobody_listens)
    undone = f"restored from a backup of {mark.made_at}: whether it was done after that is not known here; ask again"
    given_up = wishes.give_up(undone) + federation_worker.give_up(undone) + operator_actions.drop(undone)
    if given_up:
        logger.warning("actions of the operator were given up", extra={"actions": given_up})


def _nobody_listens(_: list[Event]) -> None:
    """No stream is open yet."""
