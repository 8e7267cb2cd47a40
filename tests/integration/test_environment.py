"""How ./impervious makes and keeps the environment: with a stand-in for Python that says what it was called with."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.nodes import ROOT

STAND_IN = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
    *"-m venv"*)
        [ -z "${FAIL:-}" ] || exit 1
        for directory; do :; done
        mkdir -p "$directory/bin"
        cp "$0" "$directory/bin/python"
        echo "home = /usr/bin" >"$directory/pyvenv.cfg"
        echo "VIRTUAL_ENV=$directory" >"$directory/bin/activate"
        ;;
    *"-m pip"*) [ -z "${FAIL:-}" ] ;;
esac
"""
SOMEBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")


@dataclass
class Checkout:
    root: Path
    calls: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def mark(self, name: str = "requirements.txt") -> Path:
        return self.venv / f".installed-{name}"

    def run(self, *, user: int | None = None, fails: bool = False) -> tuple[int, str, list[str]]:
        """The exit code of a command, its words, and what Python was called for."""
        self.calls.write_text("")
        environ = {"PATH": os.environ["PATH"], "PYTHON": str(self.root / "python"), "CALLS": str(self.calls)}
        ended = subprocess.run(
            ["sh", "impervious", "status"],
            cwd=self.root,
            env=environ | ({"FAIL": "1"} if fails else {}),
            user=user,
            capture_output=True,
            text=True,
            check=False,
        )
        named = {"manage.py": "manage.py status", "-m pip": "pip", "-m venv": "venv"}
        called = [
            name
            for line in self.calls.read_text().splitlines()
            for part, name in named.items()
            if part in line
        ]
        return ended.returncode, ended.stderr, called


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    """With an environment that is ready, and that all users may use."""
    before = os.umask(0o022)
    root = Path(tempfile.mkdtemp(prefix="impervious-environment-", dir="/tmp"))
    root.chmod(0o755)
    shutil.copy(ROOT / "impervious", root)
    for name in ("requirements.txt", "requirements-postgresql.txt"):
        (root / name).write_text(f"{name} of today")
    python = root / "python"
    python.write_text(STAND_IN)
    (root / ".venv/bin").mkdir(parents=True)
    for path in (python, root / ".venv/bin/python"):
        path.write_text(STAND_IN)
        path.chmod(0o755)
    made = Checkout(root, root / "calls")
    made.mark().write_text("requirements.txt of today")
    made.calls.touch()
    made.calls.chmod(0o666)
    yield made
    shutil.rmtree(root)
    os.umask(before)


def test_an_environment_that_is_ready_is_used_as_it_is(checkout):
    assert checkout.run() == (0, "", ["manage.py status"])


def test_packages_that_changed_are_installed(checkout):
    checkout.mark().write_text("of yesterday")
    code, told, called = checkout.run()
    assert (code, called) == (0, ["pip", "manage.py status"])
    assert "Installing requirements.txt" in told
    assert checkout.run()[2] == ["manage.py status"]


def test_an_installation_that_failed_is_of_no_version(checkout):
    """Going back to the version before must install its packages again."""
    checkout.mark().write_text("of yesterday")
    assert checkout.run(fails=True)[0] == 1
    (checkout.root / "requirements.txt").write_text("of yesterday")
    assert checkout.run()[2] == ["pip", "manage.py status"]


@pytest.fixture
def broken(checkout) -> Checkout:
    """As after an update of the system's Python."""
    (checkout.venv / "bin/python").unlink()
    checkout.mark("requirements-postgresql.txt").write_text("requirements-postgresql.txt of today")
    return checkout


def test_a_broken_environment_is_made_anew(broken):
    code, _, called = broken.run()
    assert (code, called) == (0, ["venv", "pip", "pip", "manage.py status"])
    assert (broken.venv / "bin/activate").read_text() == f"VIRTUAL_ENV={broken.venv}\n"
    assert [path.name for path in broken.root.glob(".venv*")] == [".venv"]
    assert broken.mark("requirements-postgresql.txt").exists()


def test_what_is_there_stays_until_the_new_one_is_whole(broken):
    assert broken.run(fails=True)[0] == 1
    assert broken.mark().exists()


@as_root
def test_the_packages_of_another_user_are_used_but_not_changed(checkout):
    assert checkout.run(user=SOMEBODY) == (0, "", ["manage.py status"])
    checkout.mark().write_text("of yesterday")
    code, told, called = checkout.run(user=SOMEBODY)
    assert (code, called) == (1, [])
    assert "run ./impervious prepare as root first" in told


@as_root
def test_root_installs_nothing_for_another_user(checkout):
    checkout.mark().write_text("of yesterday")
    shutil.chown(checkout.venv, SOMEBODY)
    assert checkout.run()[::2] == (1, [])
    assert checkout.mark().read_text() == "of yesterday"


@as_root
def test_an_environment_that_works_for_another_user_is_left_alone(checkout):
    (checkout.venv / "bin/python").chmod(0o700)
    (checkout.venv / "pyvenv.cfg").write_text("home = /usr/bin\n")
    code, told, called = checkout.run(user=SOMEBODY)
    assert (code, called) == (1, [])
    assert f"{checkout.venv} belongs to root, and nobody cannot use it (its Python is in /usr/bin)." in told
    assert "PYTHON=/usr/bin/python3 ./impervious prepare" in told
    assert checkout.run() == (0, "", ["manage.py status"])


@as_root
def test_where_nothing_can_be_made_is_said_who_can(checkout):
    shutil.rmtree(checkout.venv)
    code, told, _ = checkout.run(user=SOMEBODY)
    assert (code, f"{checkout.venv}, and" in told, "run ./impervious prepare as root" in told) == (
        1,
        True,
        True,
    )
