"""Directories for the parts of a backup."""

import stat

import pytest

from nodeapi.backups import scratch
from nodeapi.backups.archive import BackupError
from nodeapi.backups.scratch import remove_left_over, scratch_in


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


@pytest.mark.parametrize("step", ["mkdtemp", "open"])
def test_one_that_another_process_took_for_left_over_is_made_again(tmp_path, monkeypatch, step):
    """Between its making and its lock."""
    module, name = (scratch.tempfile, "mkdtemp") if step == "mkdtemp" else (scratch, "_open")
    call, called = getattr(module, name), []

    def removed_after_it(*arguments, **options):
        result = call(*arguments, **options)
        called.append(result)
        if len(called) == 1:
            remove_left_over(tmp_path)
            assert not list(tmp_path.iterdir())
        return result

    monkeypatch.setattr(module, name, removed_after_it)
    with scratch_in(tmp_path) as directory:
        assert list(tmp_path.iterdir()) == [directory]


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
