"""A backup's file: a tar archive for its owner alone, whose manifest says what is in it, with checksums."""

import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from messaging.required import required

FORMAT = 1
MANIFEST, MANIFEST_SUM = "manifest.json", "manifest.sha256"
MAX_MANIFEST_BYTES = 1_000_000
# What may be in it beside the manifest. The configuration is for people: a restore leaves it in the archive.
DATABASES = {"sqlite": "database.sqlite3", "postgresql": "database.dump"}
SECRET_KEY, VPN_STATE, VPN_KEY, CONFIGURATION = "secret_key", "vpn.json", "vpn.key", "config.yml"
NAMES = frozenset({*DATABASES.values(), SECRET_KEY, VPN_STATE, VPN_KEY, CONFIGURATION})
PIPE = "standard input"
_CHUNK = 2**20


class BackupError(Exception):
    """Why there is no backup, or why it is not put back, for the operator."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`files`: bytes and SHA-256 by name. `last_seq`: of the event log. `migrations`: (app, name) of all that were
    applied. `made_at` is in RFC 3339.
    """

    version: str
    made_at: str
    database: str
    last_seq: int
    migrations: list[list[str]]
    files: dict[str, dict[str, Any]]
    format: int = FORMAT


def describe(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write(target: Path, manifest: Manifest, files: Mapping[str, Path]) -> None:
    """A new file, on the disk when this returns, readable by its owner alone."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        write_to(file, manifest, files)
        file.flush()
        os.fsync(descriptor)


def write_to(stream: IO[bytes], manifest: Manifest, files: Mapping[str, Path]) -> None:
    """The archive into a file or a pipe. What is broken off in the middle is no whole archive."""
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        content = json.dumps(asdict(manifest), indent=1).encode()
        _add(archive, MANIFEST, io.BytesIO(content), len(content))
        checksum = hashlib.sha256(content).hexdigest().encode()
        _add(archive, MANIFEST_SUM, io.BytesIO(checksum), len(checksum))
        for name, path in files.items():
            with open(path, "rb") as content_file:
                _add(archive, name, content_file, path.stat().st_size)


def _add(archive: tarfile.TarFile, name: str, content: BinaryIO, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(time.time())
    archive.addfile(member, content)


def extract(source: Path | IO[bytes], directory: Path) -> Manifest:
    """All files of an archive, a file or a pipe, into a directory, checked. BackupError when anything is missing, added or
    changed.
    """
    with _opened(source) as archive:
        manifest = _read_manifest(archive)
        try:
            for name in manifest.files:
                _take(archive, name, manifest.files[name], directory / name)
        except OSError as error:
            # It may be whole: the disk may be full.
            raise BackupError(
                f"{_name_of(archive)} could not be unpacked in {directory.parent}: {error.strerror}"
            ) from None
        left = archive.next()
        if left is not None:
            raise BackupError(
                f"{_name_of(archive)} has a file that its manifest does not name: {left.name!r}"
            )
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Of an archive that is not checked otherwise. Raises BackupError."""
    with _opened(path) as archive:
        return _read_manifest(archive)


@contextmanager
def _opened(source: Path | IO[bytes]) -> Iterator[tarfile.TarFile]:
    try:
        with _open(source) as archive:
            yield archive
    except tarfile.TarError as error:
        raise BackupError(f"{_name_of(source)} is no whole backup: {error}") from None
    except OSError as error:
        raise BackupError(f"{_name_of(source)} cannot be read: {error.strerror}") from None


def _open(source: Path | IO[bytes]) -> tarfile.TarFile:
    if isinstance(source, Path):
        return tarfile.open(source, mode="r:")
    return tarfile.open(fileobj=source, mode="r|")


def _next(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    member = archive.next()
    if member is None or member.name != name or not member.isreg():
        raise BackupError(f"{_name_of(archive)} is no whole backup: {name} is missing")
    return required(archive.extractfile(member))


def _name_of(source: tarfile.TarFile | Path | IO[bytes]) -> str:
    if isinstance(source, tarfile.TarFile):
        return str(source.name or PIPE)
    return str(source) if isinstance(source, Path) else PIPE


def _read_manifest(archive: tarfile.TarFile) -> Manifest:
    content = _next(archive, MANIFEST).read(MAX_MANIFEST_BYTES)
    told = _next(archive, MANIFEST_SUM).read(100)
    problem = BackupError(f"{_name_of(archive)} is no whole backup: its manifest is damaged")
    if hashlib.sha256(content).hexdigest().encode() != told:
        raise problem
    try:
        fields = json.loads(content)
        if fields["format"] != FORMAT:
            raise BackupError(
                f"{_name_of(archive)} has the format {fields['format']}; this version reads {FORMAT}"
            )
        manifest = Manifest(**fields)
    except (ValueError, TypeError, KeyError):
        raise problem from None
    if not manifest.files.keys() <= NAMES or DATABASES.get(manifest.database) not in manifest.files:
        raise problem
    return manifest


def _take(archive: tarfile.TarFile, name: str, told: dict[str, Any], target: Path) -> None:
    source, digest, size = _next(archive, name), hashlib.sha256(), 0
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if (size, digest.hexdigest()) != (told["bytes"], told["sha256"]):
        raise BackupError(f"{_name_of(archive)} is damaged: {name} is not what its manifest says")
