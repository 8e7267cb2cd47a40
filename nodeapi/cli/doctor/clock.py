"""This machine's clock against others that are at hand: the chain's newest block, what was stored, the database's
server. What leases, federations and retries end by is this clock.
"""

import ctypes
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from nodeapi import terminal
from nodeapi.cli.doctor.findings import Finding, Patient, note, ok, wrong

# Bitcoin's rule: a block may be of up to two hours ahead of its receivers' clocks.
BLOCK_AHEAD = timedelta(hours=2)
# On these networks a block comes every ten minutes; no block for so long has hardly ever been.
BUSY_NETWORKS = ("mainnet", "testnet", "testnet4", "signet")
BLOCK_OLD = timedelta(hours=6)
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
    seconds = patient.lnd_info.best_header_timestamp if patient.lnd_info else 0
    return datetime.fromtimestamp(seconds, UTC) if 0 < seconds < 2**33 else None


def _by_block(patient: Patient, now: datetime) -> Iterator[Finding]:
    block_at, lnd_info = _block_at(patient), patient.lnd_info
    if block_at is None or lnd_info is None:
        return
    if block_at - now > BLOCK_AHEAD:
        yield wrong(
            f"the clock is behind: lnd has a block of {block_at:%Y-%m-%d %H:%M} UTC, "
            f"{terminal.duration((block_at - now).total_seconds())} from now",
            SET_IT,
        )
    network = lnd_info.chains[0].network if lnd_info.chains else ""
    if network in BUSY_NETWORKS and lnd_info.synced_to_chain and now - block_at > BLOCK_OLD:
        yield note(
            f"lnd's newest block is {terminal.duration((now - block_at).total_seconds())} old: the clock may be "
            "ahead",
            SET_IT,
        )


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
