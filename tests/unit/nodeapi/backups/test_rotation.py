"""Backups that are made again and again into one directory."""

import fcntl
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from nodeapi.backups import archive
from nodeapi.backups.archive import SECRET_KEY, BackupError, Manifest
from nodeapi.backups.rotation import Rotated, rotate
from nodeapi.backups.scratch import scratch_in

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
NEW = "impervious-20260506T070809Z.backup"


def make(path: Path) -> SimpleNamespace:
    path.write_text("backup")
    return SimpleNamespace()


def rotated(
    directory: Path,
    keep: int = 2,
    *,
    make=make,
    check=lambda path: None,
    now=NOW,
    secret_key=Path("/nowhere/secret_key"),
) -> Rotated:
    return rotate(directory, keep, secret_key=secret_key, make=make, check=check, now=now)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def older(directory: Path, days: int) -> str:
    path = directory / f"impervious-{NOW - timedelta(days=days):%Y%m%dT%H%M%SZ}.backup"
    path.write_text("older")
    return path.name


@pytest.fixture
def secret_key(tmp_path) -> Path:
    path = tmp_path / "node" / "impervious.secret_key"
    path.parent.mkdir()
    path.write_text("this node's")
    return path


def test_directory_is_made_for_its_owner_alone(tmp_path, secret_key):
    made = rotated(tmp_path / "backups", secret_key=secret_key)
    assert made.path.name == NEW
    assert made.path.parent.stat().st_mode & 0o777 == 0o700
    assert made.deleted == []


def test_the_oldest_are_deleted_and_other_files_left_alone(tmp_path):
    gone = {older(tmp_path, days) for days in (3, 4, 40)}
    stays = older(tmp_path, 1)
    (tmp_path / "impervious-20200101T000000Z.backup.age").write_text("encrypted")
    (tmp_path / "impervious-20200101T000000Z.backup.d").mkdir()
    (tmp_path / "notes").write_text("mine")
    others = {"impervious-20200101T000000Z.backup.age", "impervious-20200101T000000Z.backup.d", "notes"}
    assert {path.name for path in rotated(tmp_path).deleted} == gone
    assert set(names(tmp_path)) == {NEW, stays} | others


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_so_many_are_kept(tmp_path, keep):
    for days in (1, 2, 3, 4):
        older(tmp_path, days)
    rotated(tmp_path, keep)
    assert len(names(tmp_path)) == keep
    assert NEW in names(tmp_path)


def test_the_new_one_stays_though_the_clock_was_ahead(tmp_path):
    ahead = older(tmp_path, -5)
    rotated(tmp_path, 1)
    assert names(tmp_path) == [NEW]
    assert ahead != NEW


def fail(path: Path) -> None:
    raise BackupError("no room")


@pytest.mark.parametrize("failing", ["make", "check"])
def test_nothing_is_deleted_when_the_new_one_is_not_good(tmp_path, failing):
    old = {older(tmp_path, days) for days in (1, 2, 3)}
    with pytest.raises(BackupError, match="no room"):
        rotated(tmp_path, **{failing: fail})
    assert {name for name in names(tmp_path) if not name.startswith(".")} == old
    # What is left of it goes next time.
    rotated(tmp_path)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


class KilledError(BaseException):
    """Ends it wherever it is."""


@pytest.mark.parametrize("step", ["make", "check"])
def test_killed_one_leaves_nothing_that_counts(tmp_path, step):
    def die(path: Path) -> None:
        path.write_text("half of it")
        raise KilledError

    stays = older(tmp_path, 1)
    with pytest.raises(KilledError):
        rotated(tmp_path, 1, **{step: die})
    assert [name for name in names(tmp_path) if not name.startswith(".")] == [stays]
    rotated(tmp_path, 1)
    assert names(tmp_path) == [NEW]


def test_one_at_a_time(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(BackupError, match="another backup"):
            rotated(tmp_path)
    finally:
        os.close(descriptor)
    rotated(tmp_path)


def test_directory_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupError, match="cannot be used"):
        rotated(tmp_path / "file")
    with pytest.raises(BackupError, match="cannot be used"):
        rotated(tmp_path / "missing" / "backups")


def backup_with(key: Path, path: Path) -> None:
    told = {"database.sqlite3": archive.describe(key), SECRET_KEY: archive.describe(key)}
    manifest = Manifest(
        version="1", made_at=NOW.isoformat(), database="sqlite", last_seq=0, migrations=[], files=told
    )
    archive.write(path, manifest, dict.fromkeys(told, key))


def test_backups_of_another_node_are_left_to_it(tmp_path, secret_key):
    """It may be the last one that it has made."""
    directory, other = tmp_path / "backups", tmp_path / "other.secret_key"
    directory.mkdir()
    other.write_text("another node's")
    (directory / older(directory, 3)).unlink()
    backup_with(secret_key, directory / "impervious-20260502T000000Z.backup")
    rotated(directory, secret_key=secret_key)
    theirs = directory / "impervious-20260503T000000Z.backup"
    backup_with(other, theirs)
    before = names(directory)
    with pytest.raises(BackupError, match=f"--directory: {theirs} was made under another secret key"):
        rotated(directory, 1, secret_key=secret_key, now=NOW + timedelta(days=1))
    assert names(directory) == before


def test_new_one_is_told_though_an_old_one_cannot_be_deleted(tmp_path, monkeypatch):
    """It is whole: the metric is to tell of it."""
    stays = tmp_path / older(tmp_path, 3)
    deleted = {tmp_path / older(tmp_path, days) for days in (2, 4)}
    unlink = Path.unlink

    def refuse(path: Path, *arguments, **options) -> None:
        if path == stays:
            raise PermissionError(1, "Operation not permitted")
        unlink(path, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    made = rotated(tmp_path, 1)
    assert made.path.exists()
    assert set(made.deleted) == deleted
    assert made.problems == [f"{stays} cannot be deleted: Operation not permitted"]


def test_work_beside_it_goes_on(tmp_path):
    """As a check of a backup in the same directory."""
    with scratch_in(tmp_path) as scratch:
        (scratch / "database.sqlite3").write_text("unpacked")
        rotated(tmp_path)
        assert (scratch / "database.sqlite3").exists()


def test_temporary_files_of_other_programs_are_left_alone(tmp_path):
    """As rsync names them."""
    theirs = tmp_path / ".impervious-20260101T000000Z.backup.Xy12ab"
    theirs.write_text("half of it")
    rotated(tmp_path)
    assert theirs.exists()


@pytest.mark.parametrize(("owner", "given"), [("the node's user", True), ("another user", False)])
def test_directory_that_root_makes_among_the_nodes_files_is_its_users(
    tmp_path, secret_key, monkeypatch, owner, given
):
    given_to = []
    parent = tmp_path / "parent"
    parent.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda _, *owner: given_to.append(owner))
    if owner == "another user":
        real = Path.stat

        def stat(path: Path, **options):
            if path == parent:
                return SimpleNamespace(st_uid=12345, st_gid=12345)
            return real(path, **options)

        monkeypatch.setattr(Path, "stat", stat)
    rotated(parent / "backups", secret_key=secret_key)
    rotated(parent / "backups", secret_key=secret_key)
    assert len(given_to) == given
