"""Files of a node are its user's alone, whoever's command makes them."""

import os
import stat
from pathlib import Path

import pytest

from nodeapi import node_files

NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_new_file_is_private(tmp_path):
    path = tmp_path / "sub" / "impervious.sqlite3"
    node_files.make_private(path)
    assert mode(path) == 0o600
    path.write_text("kept")
    node_files.make_private(path)
    assert path.read_text() == "kept"


def test_files_belong_to_the_owner_of_their_directory(tmp_path, monkeypatch):
    owners = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda _, *owner: owners.append(owner))
    path = tmp_path / "impervious.sqlite3"
    node_files.make_private(path)
    directory = tmp_path.stat()
    assert owners == [(directory.st_uid, directory.st_gid)]
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    node_files.make_private(tmp_path / "other.sqlite3")
    assert len(owners) == 1


def test_tighten_what_an_older_version_left(tmp_path):
    database = tmp_path / "impervious.sqlite3"
    names = ("", "-wal", "-shm", ".lock", ".20260101T000000.000000Z.before-messaging.0009")
    for name in names:
        Path(f"{database}{name}").touch(0o644)
    database.chmod(0o600)
    (tmp_path / "other").touch(0o644)

    def all_files() -> list[Path]:
        return [*node_files.files_in_use(database), *node_files.copies_of(database)]

    changed = node_files.tighten(all_files())
    assert {path.name for path in changed} == {f"{database.name}{name}" for name in names[1:]}
    assert {mode(Path(f"{database}{name}")) for name in names} == {0o600}
    assert mode(tmp_path / "other") == 0o644
    assert node_files.tighten(all_files()) == []


def test_files_of_another_user(tmp_path, monkeypatch):
    database = tmp_path / "impervious.sqlite3"
    database.touch()
    # Whose copies are, and who may read them, does not matter to a start.
    Path(f"{database}.20260101T000000.000000Z.before-restore").touch(0o000)
    assert node_files.problem_of_access(database) == ""
    monkeypatch.setattr(os, "access", lambda *_: False)
    problem = node_files.problem_of_access(database)
    assert f"cannot read and write {database} {tmp_path} (of " in problem
    assert problem.endswith(f" {database} {tmp_path}")
