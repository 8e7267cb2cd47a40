"""Whether what has to be stored finds room."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nodeapi.cli.doctor.findings import Finding, Patient, note, ok, wrong

FEW_BYTES = 64 * 2**20
SOME_BYTES = 2**30
PROBE_BYTES = 4096


def check(patient: Patient) -> Iterator[Finding]:
    database = patient.config.database
    path = database.sqlite_path or database.secret_key_path
    yield _room(path.parent)
    if patient.pending_migrations and database.sqlite_path and database.sqlite_path.exists():
        yield from _room_for_copy(database.sqlite_path)


def _room(directory: Path) -> Finding:
    try:
        free = _free_bytes(directory)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
    except PermissionError:
        return wrong(
            f"{directory} cannot be written to",
            "run this as the node's user, or give the directory to that user",
        )
    except OSError as error:
        return wrong(
            f"nothing can be stored in {directory}: {error.strerror}",
            "make room: until then what is sent is refused, and what arrives stays with lnd",
        )
    words = f"{_size(free)} are free in {directory}"
    if free < FEW_BYTES:
        return wrong(
            f"only {words}",
            "make room: with a full disk what is sent is refused, and what arrives stays with lnd",
        )
    if free < SOME_BYTES:
        return note(words, "make room soon")
    return ok(words)


def _room_for_copy(path: Path) -> Iterator[Finding]:
    needed = path.stat().st_size
    if _free_bytes(path.parent) < needed:
        yield wrong(
            f"there is no room for the copy that is made before the migration ({_size(needed)})", "make room"
        )


def _free_bytes(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _size(size_bytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= size:
            return f"{size_bytes / size:,.1f} {unit}"
    return f"{size_bytes} bytes"
