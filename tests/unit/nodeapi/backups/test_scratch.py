"""Directories for the parts of a backup."""

import stat

import pytest

from nodeapi.backups import scratch
from nodeapi.backups.archive import BackupError
from nodeapi.backups.scratch import scratch_in


def test_directory_is_private_and_ends_with_the_work(tmp_path):
    with scratch_in(tmp_path) as directory:
        assert directory.parent == tmp_path
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        (directory / "database.sqlite3").write_text("copied")
    assert not list(tmp_path.iterdir())


def test_it_ends_with_work_that_fails(tmp_path):
    with pytest.raises(KeyError), scratch_in(tmp_path):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_and_what_one_works_in_stays(tmp_path):
    left = tmp_path / f"{scratch.PREFIX}left"
    left.mkdir()
    (left / "database.sqlite3").write_text("messages")
    (tmp_path / "other").mkdir()
    with scratch_in(tmp_path) as first, scratch_in(tmp_path) as second:
        assert {path.name for path in tmp_path.iterdir()} == {"other", first.name, second.name}


def test_one_that_another_process_took_for_left_over_is_made_again(tmp_path, monkeypatch):
    """Between its making and its lock."""
    make, made = scratch.tempfile.mkdtemp, []

    def removed_at_once(**options) -> str:
        made.append(make(**options))
        if len(made) == 1:
            scratch.remove_left_over(tmp_path)
        return made[-1]

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", removed_at_once)
    with scratch_in(tmp_path) as directory:
        assert directory.exists()
    assert len(made) == 2


def test_link_with_such_a_name_leads_nowhere(tmp_path):
    target = tmp_path / "precious"
    target.mkdir()
    (target / "file").write_text("")
    (tmp_path / f"{scratch.PREFIX}link").symlink_to(target)
    with scratch_in(tmp_path):
        assert (target / "file").exists()


def test_parent_that_cannot_be_written_to(tmp_path):
    with (
        pytest.raises(BackupError, match=f"{tmp_path}/none cannot be written to: No such file"),
        scratch_in(tmp_path / "none"),
    ):
        pass
