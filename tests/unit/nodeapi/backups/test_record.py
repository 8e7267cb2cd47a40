"""When the last backup was made."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from django.core.management import call_command
from django.db import OperationalError

from nodeapi.backups import record
from nodeapi.management.commands import backup

pytestmark = pytest.mark.usefixtures("tables")

FIRST, SECOND = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)


def test_only_the_last_is_known():
    assert record.last_backup_at() is None
    for made_at in (FIRST, SECOND):
        record.note_backup(made_at)
    assert record.last_backup_at() == SECOND


@pytest.fixture
def make_backup(monkeypatch, settings_with_node):
    """Lets the command make what the test says."""

    def let(made) -> None:
        monkeypatch.setattr(backup, "make_backup", made)

    return let


@pytest.fixture
def settings_with_node(monkeypatch):
    monkeypatch.setattr(backup.settings, "IMPD", object())


def whole(*_, **__) -> SimpleNamespace:
    return SimpleNamespace(made_at=FIRST.isoformat(timespec="seconds"), files={"database": {"bytes": 1}})


def test_command_notes_a_whole_backup(make_backup, capsys):
    make_backup(whole)
    call_command("backup", "x.tar")
    assert record.last_backup_at() == FIRST
    assert "as of 2026-05-06T07:08:09+00:00" in capsys.readouterr().out


def test_backup_is_whole_though_it_cannot_be_noted(make_backup, monkeypatch, capsys):
    def refuse(made_at):
        raise OperationalError("the disk is full")

    make_backup(whole)
    monkeypatch.setattr(record, "note_backup", refuse)
    call_command("backup", "x.tar")
    told = capsys.readouterr()
    assert "the disk is full" in told.err
    assert "as of" in told.out
