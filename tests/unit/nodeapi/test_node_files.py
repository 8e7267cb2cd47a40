"""Files of a node are its user's alone, whoever's command makes them."""

import os
import stat
from pathlib import Path

import pytest

from nodeapi import node_files
from nodeapi.errors import StartError

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
    monkeypatch.setattr(os, "chown", lambda *arguments: owners.append(arguments))
    path = tmp_path / "impervious.sqlite3"
    node_files.make_private(path)
    directory = tmp_path.stat()
    assert owners == [(path, directory.st_uid, directory.st_gid)]
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
    changed = node_files.tighten(node_files.database_files(database))
    assert {path.name for path in changed} == {f"{database.name}{name}" for name in names[1:]}
    assert {mode(Path(f"{database}{name}")) for name in names} == {0o600}
    assert mode(tmp_path / "other") == 0o644
    assert node_files.tighten(node_files.database_files(database)) == []


def test_file_of_another_user(tmp_path, monkeypatch):
    path = tmp_path / "impervious.sqlite3"
    path.touch()
    node_files.require_access([path])
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        StartError, match=rf"^{path} cannot be read and written by the user .* chown .* {path}$"
    ):
        node_files.require_access([path])
