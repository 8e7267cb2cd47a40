"""What `backup` and `restore` say to arguments that do not fit, and when the time of a backup is noted."""

import io
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.core.management import CommandError, call_command

from nodeapi.backups import record
from nodeapi.backups.archive import BackupError
from nodeapi.backups.rotation import Rotated
from nodeapi.management.commands import backup, restore

MADE_AT = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
MANIFEST = SimpleNamespace(made_at=MADE_AT.isoformat(), files={"database": {"bytes": 1}})


@pytest.fixture(autouse=True)
def node(monkeypatch):
    config = SimpleNamespace(database=SimpleNamespace(secret_key_path=Path("secret_key")))
    monkeypatch.setattr(backup.settings, "IMPD", config)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["node.backup", "--keep", "3"], "--keep: goes with --directory"),
        (["--directory", "backups", "--force"], "--force: goes with FILE"),
        (["--directory", "backups", "--keep", "0"], "--keep: must be a whole number, at least 1"),
        (["node.backup", "--directory", "backups"], "not allowed with"),
        ([], "is required"),
    ],
)
def test_arguments_that_do_not_fit(arguments, problem):
    with pytest.raises(CommandError, match=problem):
        call_command("backup", *arguments)


def test_restore_does_not_check_by_force():
    with pytest.raises(CommandError, match="--force: not allowed with argument --check"):
        call_command("restore", "node.backup", "--check", "--force")


@pytest.mark.parametrize("stream", [Terminal(), None], ids=["a terminal", "nothing"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("stdout", ["backup", "-"]), ("stdin", ["restore", "-"]), ("stdin", ["restore", "--check", "-"])],
)
def test_bytes_go_to_no_terminal(monkeypatch, stream, name, arguments):
    monkeypatch.setattr(sys, name, stream)
    with pytest.raises(CommandError, match=r"^FILE: - .* standard (in|out)put: let a file or a program"):
        call_command(*arguments, stdout=io.StringIO(), stderr=io.StringIO())


@pytest.fixture
def whole(monkeypatch):
    """Each way of making a backup finds it whole."""
    rotated = Rotated(Path("backups/new"), MANIFEST, [Path("backups/old")], [])
    monkeypatch.setattr(backup, "make_backup", lambda *_, **__: MANIFEST)
    monkeypatch.setattr(backup, "stream_backup", lambda *_, **__: MANIFEST)
    monkeypatch.setattr(backup, "rotate", lambda *_, **__: rotated)


WAYS = {"a file": ["node.backup"], "a pipe": ["-"], "a directory": ["--directory", "backups"]}


@pytest.mark.parametrize("arguments", WAYS.values(), ids=WAYS)
@pytest.mark.usefixtures("tables", "whole")
def test_each_way_of_making_one_notes_its_time(arguments):
    call_command("backup", *arguments)
    assert record.last_backup_at() == MADE_AT


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.usefixtures("tables", "whole")
def test_it_is_noted_though_nobody_listens():
    with pytest.raises(BrokenPipeError):
        call_command("backup", "--directory", "backups", stdout=Broken())
    assert record.last_backup_at() == MADE_AT


@pytest.mark.parametrize(
    ("arguments", "made_by"),
    list(zip(WAYS.values(), ["make_backup", "stream_backup", "rotate"], strict=True)),
    ids=WAYS,
)
@pytest.mark.usefixtures("tables")
def test_one_that_failed_is_not_noted(arguments, made_by, monkeypatch):
    def fail(*_, **__):
        raise BackupError("no room")

    monkeypatch.setattr(backup, made_by, fail)
    with pytest.raises(CommandError, match="no room"):
        call_command("backup", *arguments)
    assert record.last_backup_at() is None


@pytest.mark.usefixtures("tables")
def test_good_one_is_noted_though_old_ones_cannot_be_deleted(monkeypatch, capsys):
    rotated = Rotated(Path("backups/new"), MANIFEST, [], ["backups/old cannot be deleted: why"])
    monkeypatch.setattr(backup, "rotate", lambda *_, **__: rotated)
    with pytest.raises(CommandError, match="The backup is good, but\nbackups/old cannot be deleted: why"):
        call_command("backup", "--directory", "backups")
    assert record.last_backup_at() == MADE_AT
    assert "backups/new: database" in capsys.readouterr().out


def test_default_of_keep(monkeypatch):
    """As its help says."""
    asked = []

    def rotate(directory, keep, **_):
        asked.append(keep)
        raise BackupError("enough")

    monkeypatch.setattr(backup, "rotate", rotate)
    for more in ([], ["--keep", "3"]):
        with pytest.raises(CommandError):
            call_command("backup", "--directory", "backups", *more)
    assert asked == [backup.KEEP, 3]


def test_check_that_fails_ends_with_its_cause(monkeypatch):
    def fail(*_, **__):
        raise BackupError("node.backup is damaged")

    monkeypatch.setattr(restore, "check_backup", fail)
    with pytest.raises(CommandError, match=r"^node\.backup is damaged$"):
        call_command("restore", "--check", "node.backup")
