"""What `./impervious vpn check` and doctor say of the script by which a node is let to `wg`."""

from pathlib import Path

import pytest

from vpn import access


@pytest.fixture
def wrapper(tmp_path: Path, monkeypatch) -> Path:
    """Installed as root does it; whoever runs the tests need not be root."""
    path = tmp_path / "impervious-wg"
    path.write_bytes(access.SHIPPED.read_bytes())
    path.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setattr(access, "_is_roots_own", lambda place: not place.stat().st_mode & 0o022)
    return path


def script(directory: Path, text: str) -> str:
    path = directory / "wg"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_installed_wrapper_is_right(wrapper):
    assert access.problems(str(wrapper)) == []


def test_wrapper_that_others_may_write_is_wrong(wrapper):
    wrapper.chmod(0o775)
    (problem,) = access.problems(str(wrapper))
    assert problem.startswith(f"{wrapper} does not belong to root")
    wrapper.chmod(0o755)
    wrapper.parent.chmod(0o777)
    (problem,) = access.problems(str(wrapper))
    assert problem.startswith(f"{wrapper.parent} does not belong to root")


def test_wrapper_of_another_version_is_told(wrapper):
    wrapper.write_bytes(wrapper.read_bytes() + b"# older\n")
    (problem,) = access.problems(str(wrapper))
    assert "is not the one of this version; install -o root" in problem


def test_script_that_calls_wg_by_sudo_is_wrong(tmp_path):
    """As these pages told it once."""
    (problem,) = access.problems(script(tmp_path, '#!/bin/sh\nexec sudo -n /usr/bin/wg "$@"\n'))
    assert "reads root's files" in problem


@pytest.mark.parametrize(
    "text",
    ['#!/bin/sh\nexec nsenter -n wg "$@"\n', '#!/bin/sh\nexec sudo -n /usr/local/sbin/impervious-wg "$@"\n'],
)
def test_other_scripts_are_the_operators_own(tmp_path, text):
    assert access.problems(script(tmp_path, text)) == []


@pytest.mark.parametrize("program", ["/usr/bin/wg", "/nowhere/wg", "/etc"])
def test_what_is_no_script_is_left_to_other_checks(program):
    assert access.problems(program) == []
