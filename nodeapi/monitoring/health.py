"""Whether this process can do its work, and if not, why: one truth for /health/ready, gRPC's health service and the metrics.

What is told is told to everyone: it names no address, key, path or version.
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shutil import disk_usage
from typing import Any

from django.db import Error as DatabaseError
from django.db import connection

from lightning.client import Trouble
from messaging.database import Database
from messaging.required import required
from nodeapi.clock_check import clock_error
from nodeapi.lnd_status import LndStatus
from nodeapi.monitoring.asking import Asked, NoAnswer
from nodeapi.stream import Hub

logger = logging.getLogger("nodeapi.monitoring.health")

KEEP_SECONDS = 1.0
DISK_KEEP_SECONDS = 2.0
FULL_BYTES = 32 * 2**20
NEARLY_FULL_BYTES = 2**30
PROBE_BYTES = 8_192
STARTING, STOPPING = "starting", "stopping"

# What can be wrong, by part and reason, in words. A part that is in no report is well.
TEXTS = {
    ("node", "starting"): "the node is starting",
    ("node", "stopping"): "the node is stopping",
    ("lnd", "away"): "lnd does not answer",
    ("lnd", "starting"): "lnd is starting",
    ("lnd", "locked"): "lnd's wallet is locked: run `lncli unlock`",
    ("lnd", "busy"): "lnd does not answer in time",
    ("lnd", "not_synced"): "lnd is not in sync with the chain yet",
    ("lnd", "refused"): "lnd refuses what it is asked; the node's log tells more",
    ("lnd", "no_keysend"): "keysend is switched off in lnd (accept-keysend=true): nothing is received",
    (
        "lnd",
        "dead_payments",
    ): "lnd calls payments under way that no channel holds; messages and invoices wait for them",
    ("database", "away"): "the database does not answer",
    ("database", "read_only"): "the database takes no writes",
    ("disk", "full"): "the disk is full: what cannot be stored is refused",
    ("disk", "nearly_full"): "less than 1 GiB is free on the disk",
    ("redis", "away"): "Redis is away: streams look at the event log ten times a second instead",
    (
        "clock",
        "behind",
    ): "this machine's clock is behind: lnd has a block that is more than two hours ahead of it",
    ("clock", "ahead"): "this machine's clock may be ahead: lnd's newest block is more than six hours old",
    (
        "configuration",
        "refused",
    ): "the configuration cannot be used as it is now: the node goes on with that of before, and could not start with this",
    ("runimpd", "away"): "runimpd does not answer: history and streams are served, other calls are not",
}
# The node works on with these; all others make it unready.
DEGRADING = frozenset(
    {
        ("lnd", "no_keysend"),
        ("lnd", "dead_payments"),
        ("disk", "nearly_full"),
        ("redis", "away"),
        ("clock", "behind"),
        ("clock", "ahead"),
        ("configuration", "refused"),
    }
)
PARTS = tuple(dict.fromkeys(part for part, _ in TEXTS))


@dataclass(frozen=True)
class Fault:
    part: str
    reason: str

    @property
    def text(self) -> str:
        return TEXTS[self.part, self.reason]

    @property
    def degrades_only(self) -> bool:
        return (self.part, self.reason) in DEGRADING

    def as_json(self) -> dict[str, str]:
        return {"part": self.part, "reason": self.reason, "text": self.text}


@dataclass(frozen=True)
class Report:
    faults: tuple[Fault, ...]

    @property
    def ready(self) -> bool:
        return all(fault.degrades_only for fault in self.faults)

    def stops(self, parts: Iterable[str]) -> bool:
        """Whether something is wrong with one of these parts that does not only degrade it."""
        parts = set(parts)
        return any(fault.part in parts and not fault.degrades_only for fault in self.faults)

    def as_json(self) -> dict[str, Any]:
        reasons = [fault.as_json() for fault in self.faults if not fault.degrades_only]
        warnings = [fault.as_json() for fault in self.faults if fault.degrades_only]
        status = "unready" if reasons else "degraded" if warnings else "ready"
        return {"status": status, "reasons": reasons, "warnings": warnings}

    def encode(self) -> str:
        """Words that `decode_report` understands."""
        return ",".join(f"{fault.part}:{fault.reason}" for fault in self.faults)


def decode_report(text: str) -> Report:
    """What `encode` made; what this version does not know is passed over."""
    pairs = [tuple(word.split(":", 1)) for word in text.split(",") if ":" in word]
    return Report(tuple(Fault(part, reason) for part, reason in pairs if (part, reason) in TEXTS))


class Health:
    """The parts come as the process makes them. `look` may be called as often as anybody likes."""

    def __init__(self) -> None:
        self._phase: str | None = STARTING
        self._lnd: LndStatus | None = None
        self._hub: Hub | None = None
        self._awaits_database = False
        self._configuration_refused = False
        self._dead_payments: Callable[[], int] = lambda: 0
        self._probes: list[tuple[Asked, Fault]] = []
        self._report = Report((Fault("node", "starting"),))
        self._told = {Fault("node", "starting")}
        self._looked_at = 0.0
        self._looking: asyncio.Task | None = None

    def watch_database(self, database: Database, file: Path | None) -> None:
        """`file` is that of an SQLite database, whose disk is looked at too."""
        self._probe(lambda: ask_database(database), Fault("database", "away"), KEEP_SECONDS)
        if file:
            self._probe(
                lambda: asyncio.to_thread(ask_disk, file.parent), Fault("disk", "full"), DISK_KEEP_SECONDS
            )

    def wait_for_database(self, waits: bool) -> None:
        """Before it can be watched."""
        self._awaits_database = waits
        self._looked_at = 0.0

    def refuse_configuration(self, refused: bool) -> None:
        """Whether the last one that was read while the process runs could not be used."""
        self._configuration_refused = refused
        self._looked_at = 0.0

    def watch_lnd(self, lnd: LndStatus) -> None:
        self._lnd = lnd

    def watch_payments(self, dead_payments: Callable[[], int]) -> None:
        """`dead_payments` is how many payments lnd seems to hold for ever."""
        self._dead_payments = dead_payments

    def watch_redis(self, hub: Hub) -> None:
        self._hub = hub

    def watch_runimpd(self, ask: Callable[[], Awaitable[list[Fault]]]) -> None:
        self._probe(ask, Fault("runimpd", "away"), KEEP_SECONDS)

    def _probe(
        self, ask: Callable[[], Awaitable[list[Fault]]], unanswered: Fault, keep_seconds: float
    ) -> None:
        self._probes.append((Asked(ask, keep_seconds=keep_seconds), unanswered))
        self._looked_at = 0.0

    @property
    def phase(self) -> str | None:
        """Before its work, or after: starting, stopping."""
        return self._phase

    @phase.setter
    def phase(self, phase: str | None) -> None:
        self._phase = phase
        self._looked_at = 0.0

    async def look(self) -> Report:
        if time.monotonic() - self._looked_at >= KEEP_SECONDS:
            # Those who ask at the same time share one look.
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            await asyncio.shield(self._looking)
        return self._report

    async def _look(self) -> None:
        answers = await asyncio.gather(*(_faults(asked, unanswered) for asked, unanswered in self._probes))
        faults = [Fault("database", "away")] if self._awaits_database else []
        faults += lnd_faults(self._lnd) + clock_faults(self._lnd) if self._lnd else []
        if self._configuration_refused:
            faults.append(Fault("configuration", "refused"))
        if self._dead_payments():
            faults.append(Fault("lnd", "dead_payments"))
        faults += [fault for answer in answers for fault in answer]
        if self._hub and not self._hub.listening:
            faults.append(Fault("redis", "away"))
        # What keeps it from starting says more than that it starts.
        if self.phase and not (self.phase == STARTING and not Report(tuple(faults)).ready):
            faults.insert(0, Fault("node", self.phase))
        self._tell(faults)
        self._report, self._looked_at = Report(tuple(dict.fromkeys(faults))), time.monotonic()

    def _tell(self, faults: list[Fault]) -> None:
        if self.phase:
            return
        for fault in set(faults) - self._told:
            logger.warning("health: %s", fault.text, extra={"health": f"{fault.part}:{fault.reason}"})
        for fault in self._told - set(faults):
            logger.info("health: no longer: %s", fault.text, extra={"health": f"{fault.part}:{fault.reason}"})
        self._told = set(faults)


async def _faults(asked: Asked, unanswered: Fault) -> list[Fault]:
    try:
        return await asked.answer()
    except NoAnswer:
        return [unanswered]
    except Exception:
        logger.exception("health: %s could not be looked at", unanswered.part)
        return [unanswered]


def lnd_faults(lnd: LndStatus) -> list[Fault]:
    """From what is known of it: lnd itself is not asked."""
    if not lnd.was_asked:
        return []
    if not lnd.reachable:
        reason = required(lnd.problem).value
        return [Fault("lnd", reason if ("lnd", reason) in TEXTS else "refused")]
    if not lnd.info.synced_to_chain:
        return [Fault("lnd", "not_synced")]
    return [] if lnd.takes_keysend else [Fault("lnd", Trouble.NO_KEYSEND.value)]


def clock_faults(lnd: LndStatus) -> list[Fault]:
    """While lnd is away its last answer grows old by itself."""
    error = clock_error(lnd.info, datetime.now(UTC)) if lnd.reachable else None
    return [Fault("clock", error.value)] if error else []


async def ask_database(database: Database) -> list[Fault]:
    try:
        writable = await database.read(_database_answers)
    except DatabaseError:
        return [Fault("database", "away")]
    return [] if writable else [Fault("database", "read_only")]


def _database_answers() -> bool:
    """Whether it takes writes. Raises django.db.Error."""
    with connection.cursor() as cursor:
        if connection.vendor != "postgresql":
            cursor.execute("SELECT 1")
            return cursor.fetchone()[0] == 1
        cursor.execute("SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'")
        return cursor.fetchone()[0]


def ask_disk(directory: Path) -> list[Fault]:
    """Whether the node's files can grow there: by the free space, and by trying, because of quotas and read-only disks."""
    try:
        free = disk_usage(directory).free
        with tempfile.TemporaryFile(dir=directory, buffering=0) as probe:
            probe.write(bytes(PROBE_BYTES))
    except OSError:
        return [Fault("disk", "full")]
    if free < FULL_BYTES:
        return [Fault("disk", "full")]
    return [Fault("disk", "nearly_full")] if free < NEARLY_FULL_BYTES else []
