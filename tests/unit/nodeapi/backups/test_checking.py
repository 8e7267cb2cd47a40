"""What `restore --check` finds in a backup: on archives with a small database of SQLite."""

import io
import os
import sqlite3
import tarfile
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from nodeapi.backups import archive
from nodeapi.backups.archive import BackupError, Manifest
from nodeapi.backups.restoring import check_backup

KNOWN = {("messaging", "0001_initial")}


@pytest.fixture
def config(tmp_path) -> SimpleNamespace:
    """Of a node on SQLite, on a machine where it has not run yet."""
    home = tmp_path / "home"
    home.mkdir()
    database = SimpleNamespace(
        postgres=None,
        sqlite_path=home / "impervious.sqlite3",
        secret_key_path=home / "impervious.secret_key",
    )
    return SimpleNamespace(database=database, path=home / "config.yml")


def database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE message (id integer PRIMARY KEY, body text)")
        connection.execute("CREATE INDEX of_bodies ON message (body)")
        connection.executemany(
            "INSERT INTO message (body) VALUES (?)", [(f"message {number}",) for number in range(100)]
        )


def packed(tmp_path: Path, *, change=lambda path: None, **fields) -> Path:
    """A backup whose checksums fit, whatever `change` has done to its database."""
    files = {"database.sqlite3": tmp_path / "copy.sqlite3", "secret_key": tmp_path / "secret_key"}
    database(files["database.sqlite3"])
    files["secret_key"].write_text("secret")
    change(files["database.sqlite3"])
    manifest = Manifest(
        **{
            "version": "0.2.0",
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "database": "sqlite",
            "last_seq": 0,
            "migrations": [["messaging", "0001_initial"]],
            "files": {name: archive.describe(path) for name, path in files.items()},
            **fields,
        }
    )
    archive.write(tmp_path / "node.backup", manifest, files)
    return tmp_path / "node.backup"


def checked(config, source) -> Manifest:
    """Nothing is left of it either way."""
    try:
        return check_backup(config, source, known_migrations=KNOWN)
    finally:
        assert not list(config.path.parent.iterdir())


def test_good_one(tmp_path, config):
    path = packed(tmp_path)
    assert checked(config, path).version == "0.2.0"
    assert checked(config, io.BytesIO(path.read_bytes())).files.keys() == {"database.sqlite3", "secret_key"}


def members_of(path: Path) -> dict[str, range]:
    """Where the content of each file stands."""
    with tarfile.open(path) as backup:
        return {member.name: range(member.offset_data, member.offset_data + member.size) for member in backup}


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "database.sqlite3", "secret_key"])
def test_changed_byte_of_each_file_is_noticed(tmp_path, config, name):
    path = packed(tmp_path)
    content, where = bytearray(path.read_bytes()), members_of(path)[name]
    content[where[len(where) // 2]] ^= 1
    with pytest.raises(BackupError, match="damaged"):
        checked(config, io.BytesIO(content))


def test_changed_byte_of_a_header_raises_nothing_else(tmp_path, config):
    whole = packed(tmp_path).read_bytes()
    for offset in range(0, 512, 11):
        changed = bytearray(whole)
        changed[offset] ^= 0x15
        with suppress(BackupError):
            checked(config, io.BytesIO(changed))


def cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "database.sqlite3", "secret_key"])
@pytest.mark.parametrize("where", ["before", "within"])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_one_that_was_broken_off(tmp_path, config, name, where, kind):
    path = packed(tmp_path)
    content = members_of(path)[name]
    cut(path, content[0] - 512 if where == "before" else content[2])
    told = path if kind == "file" else "standard input"
    with pytest.raises(BackupError, match=f"^{told} is no whole backup: "):
        checked(config, path if kind == "file" else io.BytesIO(path.read_bytes()))


def forget_rows_of_the_index(path: Path) -> None:
    """Each page is sound, and the index does not fit its table: checksums, and a quick check, are content."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, '(body)', '(id)') WHERE type = 'index'"
        )


def overwrite_a_page(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)


def not_a_database(path: Path) -> None:
    path.write_bytes(b"x" * 10_000)


@pytest.mark.parametrize("change", [forget_rows_of_the_index, overwrite_a_page, not_a_database])
def test_damaged_database_whose_checksum_fits(tmp_path, config, change):
    with pytest.raises(BackupError, match="the database is damaged: "):
        checked(config, packed(tmp_path, change=change))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"migrations": [["messaging", "9999_later"]], "version": "9.0"}, "of a newer version .9.0"),
        ({"format": 2}, "has the format 2; this version reads 1"),
    ],
)
def test_one_that_this_version_cannot_put_back(tmp_path, config, fields, problem):
    with pytest.raises(BackupError, match=problem):
        checked(config, packed(tmp_path, **fields))


def test_one_of_the_other_kind_of_database(tmp_path, config):
    dump = tmp_path / "database.dump"
    dump.write_text("PGDMP")
    manifest = Manifest(
        version="0.2.0",
        made_at=datetime.now(UTC).isoformat(),
        database="postgresql",
        last_seq=0,
        migrations=[],
        files={"database.dump": archive.describe(dump)},
    )
    archive.write(tmp_path / "other.backup", manifest, {"database.dump": dump})
    with pytest.raises(BackupError, match=r"is of a node on postgresql, and database\.url names sqlite"):
        checked(config, tmp_path / "other.backup")


def test_full_disk_is_not_taken_for_a_damaged_backup(tmp_path, config, monkeypatch):
    """Who believes that it is damaged deletes it."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = packed(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackupError) as refused:
        checked(config, path)
    assert str(refused.value) == (
        f"{path} could not be unpacked in {config.path.parent}: No space left on device"
    )


def test_file_that_is_not_there(tmp_path, config):
    with pytest.raises(BackupError, match=r"none\.backup cannot be read: No such file or directory"):
        checked(config, tmp_path / "none.backup")
