"""Django's secret key: one for all processes of a node, whenever they begin and whatever has ended one of them."""

import os
import signal
import subprocess
import sys

import pytest

from impervious_site import secret_key
from impervious_site.secret_key import EmptyKeyFile, read_or_make
from tests.support.nodes import ROOT

READ = "import sys; from pathlib import Path; from impervious_site.secret_key import read_or_make; "
# The process dies at the first byte that is written.
DIE_WRITING = (
    READ
    + "import os, signal; os.fdopen = lambda *_: os.kill(os.getpid(), signal.SIGKILL); read_or_make(Path(sys.argv[1]))"
)


def test_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "new" / "impervious.secret_key"
    key = read_or_make(path)
    assert len(key) > 50
    assert read_or_make(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_processes_that_begin_together_have_the_same(tmp_path):
    """None of them takes another's file before the key is in it."""
    path = tmp_path / "impervious.secret_key"
    command = [
        sys.executable,
        "-c",
        READ + "sys.stdin.read(); print(read_or_make(Path(sys.argv[1])))",
        str(path),
    ]
    beginning = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for process in beginning:
        process.stdin.close()
    keys = {process.stdout.read() for process in beginning}
    assert [process.wait() for process in beginning] == [0] * 6
    assert len(keys) == 1
    assert len(keys.pop()) > 50


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    path = tmp_path / "impervious.secret_key"
    faster = read_or_make(path)
    monkeypatch.setattr(type(path), "exists", lambda _: False)
    assert read_or_make(path) == faster
    assert os.listdir(tmp_path) == [path.name]


def test_a_process_that_is_killed_while_it_makes_one_leaves_none(tmp_path):
    path = tmp_path / "impervious.secret_key"
    died = subprocess.run([sys.executable, "-c", DIE_WRITING, str(path)], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    assert len(read_or_make(path)) > 50


def test_a_full_disk_leaves_none(tmp_path, monkeypatch):
    path = tmp_path / "impervious.secret_key"
    monkeypatch.setattr(secret_key.os, "fsync", _no_room)
    with pytest.raises(OSError, match="No space left"):
        read_or_make(path)
    assert os.listdir(tmp_path) == []


def _no_room(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_an_empty_file_is_told(tmp_path):
    path = tmp_path / "impervious.secret_key"
    path.write_text("\n")
    with pytest.raises(EmptyKeyFile, match="delete it"):
        read_or_make(path)
