"""This machine's clock against others that are at hand: the chain's newest block, what was stored, the database's
server. What leases, federations and retries end by is this clock.
"""

import ctypes
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from nodeapi import terminal
from nodeapi.cli.doctor.findings import Finding, Patient, note, ok, wrong
from nodeapi.clock_check import ClockError, block_at, clock_error

DIFFERENCE = timedelta(minutes=1)
SET_IT = "set this machine's clock, and let it be kept right (systemd-timesyncd, chrony)"


# What adjtimex(2) returns for a clock that nothing disciplines.
TIME_ERROR = 5
UNKEPT = "that no program keeps this machine's clock right"


def check(patient: Patient) -> Iterator[Finding]:
    now = datetime.now(UTC)
    findings = [*_by_block(patient, now), *_by_log(patient, now), *_by_server(patient, now)]
    yield from findings
    if not findings:
        yield ok(f"the clock says {now:%Y-%m-%d %H:%M} UTC, and {_compared(patient)}")
    if _kernel_state() == TIME_ERROR:
        yield note(f"the kernel says {UNKEPT}", SET_IT)


def _kernel_state() -> int:
    """Of the clock, by adjtimex(2), which only reads with modes of 0; negative where it may not be asked."""
    timex = ctypes.create_string_buffer(512)
    return ctypes.CDLL(None).adjtimex(timex)


def _compared(patient: Patient) -> str:
    clocks = {
        "lnd's newest block": _block_at(patient),
        "what was stored": patient.newest_event_at,
        "the database's server": patient.database_now,
    }
    others = [name for name, moment in clocks.items() if moment]
    return f"agrees with {', '.join(others)}" if others else "there is nothing to compare it with"


def _block_at(patient: Patient) -> datetime | None:
    return block_at(patient.lnd_info) if patient.lnd_info else None


def _by_block(patient: Patient, now: datetime) -> Iterator[Finding]:
    block, lnd_info = _block_at(patient), patient.lnd_info
    if block is None or lnd_info is None:
        return
    error = clock_error(lnd_info, now)
    apart = terminal.duration(abs(block - now).total_seconds())
    if error is ClockError.BEHIND:
        yield wrong(
            f"the clock is behind: lnd has a block of {block:%Y-%m-%d %H:%M} UTC, {apart} from now", SET_IT
        )
    if error is ClockError.AHEAD:
        yield note(f"lnd's newest block is {apart} old: the clock may be ahead", SET_IT)


def _by_log(patient: Patient, now: datetime) -> Iterator[Finding]:
    stored_at = patient.newest_event_at
    if stored_at is not None and stored_at - now > DIFFERENCE:
        yield wrong(
            f"the clock went back: the newest event was stored at {stored_at:%Y-%m-%d %H:%M} UTC, "
            f"{terminal.duration((stored_at - now).total_seconds())} from now",
            SET_IT,
        )


def _by_server(patient: Patient, now: datetime) -> Iterator[Finding]:
    if patient.database_now is not None and abs(patient.database_now - now) > DIFFERENCE:
        apart = terminal.duration(abs(patient.database_now - now).total_seconds())
        yield wrong(f"this machine's clock and the database server's are {apart} apart", SET_IT)
