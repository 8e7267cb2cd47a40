"""Backups that are made again and again into one directory."""

import fcntl
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from nodeapi.backups.archive import BackupError
from nodeapi.backups.rotation import Rotated, rotate

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
NEW = "impervious-20260506T070809Z.backup"


def make(path: Path) -> SimpleNamespace:
    path.write_text("backup")
    return SimpleNamespace()


def rotated(directory: Path, keep: int = 2, *, make=make, check=lambda path: None, now=NOW) -> Rotated:
    return rotate(directory, keep, make=make, check=check, now=now)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def older(directory: Path, days: int) -> str:
    path = directory / f"impervious-{NOW - timedelta(days=days):%Y%m%dT%H%M%SZ}.backup"
    path.write_text("older")
    return path.name


def test_directory_is_made_for_its_owner_alone(tmp_path):
    made = rotated(tmp_path / "backups")
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
        (tmp_path / f".{path.name}.abc").mkdir()
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
