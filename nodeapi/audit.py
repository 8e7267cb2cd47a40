"""The audit log: who sent, paid or changed what, and what was refused. Rows for the admin, and JSON log lines ("audit").

A call that sends or pays has its rows written with its messages (nodeapi/calling.py), for they keep the key's budget. All
else is written behind the call, in groups. Refusals are bounded, so that nobody fills the disk with them: of a caller so
many a minute, and of those without a key only log lines.
"""

import asyncio
import logging
import time
from collections import Counter
from functools import partial
from uuid import UUID

from google.protobuf.message import Message

from messaging.database import Database, insert_new
from nodeapi.calling import Call
from nodeapi.errors import ApiError
from nodeapi.models import AuditEntry
from nodeapi.rates import WINDOW_SECONDS

logger = logging.getLogger("audit")

Outcome = AuditEntry.Outcome
REFUSALS_A_MINUTE = 60
AGAIN_SECONDS = 2.0
MAX_WAITING = 10_000
CALLER_LEFT = "the caller did not wait for the answer"
MAX_DETAIL_CHARACTERS = 300

# Rows by their keys, the outcome and its detail.
Ending = tuple[list[int], str, str]


class AuditLog:
    """Use from one event loop. `stores` in the runimpd process; others only write log lines. `run` until cancelled, then
    `close`.
    """

    def __init__(self, database: Database, *, stores: bool):
        self._database = database
        self._stores = stores
        self._new: list[AuditEntry] = []
        self._endings: list[Ending] = []
        self._arrived = asyncio.Event()
        self._refusals = Thinned(REFUSALS_A_MINUTE)

    def done(self, call: Call, reply: Message, *, once: bool) -> None:
        """A call has ended well. One that is done once, has stored no message or payment, and does not say itself that it
        is done now, was done before.
        """
        if not call.rows:
            outcome = Outcome.REPEATED if once and call.outcome != Outcome.DONE else Outcome.DONE
            self._add(call.row(outcome), _id_of(reply))
            return
        if call.outcome:
            self._end(call, call.outcome, "")
            _tell(call, call.outcome, "")
        else:
            # The log tells the end of each of these messages; who has asked for them is in the table.
            _tell(call, Outcome.ACCEPTED, "", level=logging.DEBUG)

    def refused(self, call: Call, error: ApiError) -> None:
        """A call has ended with an error: before anything was stored, or, as a payment that fails, after that."""
        if work := call.unfinished:
            work.add_done_callback(lambda _: self.refused(call, error))
            return
        detail = error.message.replace("\0", "\ufffd")[:MAX_DETAIL_CHARACTERS]
        if any(row.committed for row in call.rows.values()):
            self._end(call, error.status_name, detail)
            _tell(call, error.status_name, detail)
        elif self._refusals.permits(call.caller.name):
            call.rows.clear()
            self._add(call.row(error.status_name, detail), None)

    def left(self, call: Call, why: str = CALLER_LEFT) -> None:
        """The call ends before its answer. What was stored goes on without it, and what is being stored: whether
        the call has done something is known at its end.
        """
        if work := call.unfinished:
            work.add_done_callback(lambda _: self.left(call, why))
            return
        if any(row.committed for row in call.rows.values()):
            _tell(call, Outcome.ACCEPTED, why)
        elif self._refusals.permits(call.caller.name):
            call.rows.clear()
            self._add(call.row("Cancelled", why), None)

    def refused_at_the_door(self, error: ApiError, *, operation: str, address: str, name: str = "") -> None:
        """A line, no row. `name` is the key's, where it is known."""
        if self._refusals.permits(name):
            fields = {"key": name, "operation": operation, "outcome": error.status_name, "client": address}
            logger.info("refused", extra=fields | {"detail": error.message[:MAX_DETAIL_CHARACTERS]})

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(WINDOW_SECONDS):
                    await self._arrived.wait()
            except TimeoutError:
                pass
            self._arrived.clear()
            self._refusals.roll()
            try:
                await self.flush()
            except Exception as error:
                logger.error("audit entries could not be stored: %s; trying again", error)
                await asyncio.sleep(AGAIN_SECONDS)
                self._arrived.set()

    async def flush(self) -> None:
        """Stores what waits. Raises django.db.Error."""
        new, endings = self._new[:], self._endings[:]
        if new or endings:
            await self._database.write(partial(_store, new, endings))
            del self._new[: len(new)], self._endings[: len(endings)]

    async def close(self) -> None:
        """Stores what waits, if that can be done."""
        try:
            await self.flush()
        except Exception as error:
            logger.error("audit entries could not be stored: %s", error)

    def _add(self, row: AuditEntry, message_id: UUID | None) -> None:
        row.message_id = message_id
        _tell_row(row)
        if self._stores and len(self._new) < MAX_WAITING:
            self._new.append(row)
            self._arrived.set()

    def _end(self, call: Call, outcome: str, detail: str) -> None:
        if len(self._endings) < MAX_WAITING:
            self._endings.append(([row.pk for row in call.rows.values()], outcome, detail))
            self._arrived.set()


class Thinned:
    """At most `most` a minute of each name; how many were left out is told afterwards."""

    def __init__(self, most: int):
        self._most = most
        self._counts: Counter[str] = Counter()
        self._until = 0.0

    def permits(self, name: str) -> bool:
        self.roll()
        self._counts[name] += 1
        return self._counts[name] <= self._most

    def roll(self) -> None:
        now = time.monotonic()
        if now < self._until:
            return
        for name, count in self._counts.items():
            if count > self._most:
                logger.warning(
                    "refused calls that are not told one by one",
                    extra={"key": name, "count": count - self._most},
                )
        self._counts.clear()
        self._until = now + WINDOW_SECONDS


def _store(new: list[AuditEntry], endings: list[Ending]) -> None:
    insert_new(AuditEntry, new)
    for keys, outcome, detail in endings:
        AuditEntry.objects.filter(pk__in=keys).update(outcome=outcome, detail=detail)


def _tell(call: Call, outcome: str, detail: str, *, level: int = logging.INFO) -> None:
    rows = list(call.rows.values())
    if len(rows) == 1:
        _tell_row(rows[0], outcome, detail, level=level)
        return
    fields = _fields(rows[0], outcome, detail) | {"peer": "", "message_id": ""}
    fields["amount_msat"] = sum(row.amount_msat for row in rows)
    logger.log(level, "call", extra=fields | {"messages": [str(row.message_id) for row in rows]})


def _tell_row(row: AuditEntry, outcome: str = "", detail: str = "", *, level: int = logging.INFO) -> None:
    logger.log(level, "call", extra=_fields(row, outcome or row.outcome, detail or row.detail))


def _fields(row: AuditEntry, outcome: str, detail: str) -> dict:
    return {
        "key": row.caller,
        "operation": row.operation,
        "peer": row.peer,
        "amount_msat": row.amount_msat,
        "outcome": str(outcome),
        "detail": detail,
        "client": row.address,
        "message_id": str(row.message_id) if row.message_id else "",
    }


def _id_of(reply: Message) -> UUID | None:
    try:
        return UUID(getattr(reply, "id", ""))
    except ValueError:
        return None
