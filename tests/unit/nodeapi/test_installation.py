"""What a start finds of ./impervious prepare."""

import subprocess
import sys
from pathlib import Path

import pytest

from nodeapi.installation import is_site_stale, site_state, stale_packages
from tests.support.nodes import ROOT

START = "import runpy; sys.argv = ['manage.py', 'runimpd']; runpy.run_path('manage.py', run_name='__main__')"
DAPHNE = "import impervious_site.asgi"


@pytest.fixture
def checkout(tmp_path) -> Path:
    """One whose packages were installed and whose pages were made."""
    for name in ("docs/generator/static", "nodeapi/site", "config", ".venv", ".venv-tools"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("requirements.txt", "requirements-postgresql.txt", "docs/vpn.md", "nodeapi/site/index.html"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".venv/.installed-requirements.txt").write_text("requirements.txt")
    (tmp_path / ".venv-tools/.site-made-of").write_text(site_state(tmp_path))
    return tmp_path


def test_a_checkout_that_is_ready(checkout):
    assert stale_packages(checkout, checkout / ".venv") == ""
    assert not is_site_stale(checkout)


def test_an_environment_of_other_packages_is_told_with_the_cure(checkout):
    (checkout / "requirements.txt").write_text("newer")
    told = stale_packages(checkout, checkout / ".venv")
    assert "requirements.txt has changed" in told
    assert f"run {checkout}/impervious prepare as {checkout.owner()}" in told


def test_the_driver_of_postgresql_counts_where_it_was_installed(checkout):
    (checkout / ".venv/.installed-requirements-postgresql.txt").write_text("older")
    assert "requirements-postgresql.txt has changed" in stale_packages(checkout, checkout / ".venv")


def test_an_environment_without_marks_is_taken_as_it_is(checkout):
    """As in a container."""
    (checkout / ".venv/.installed-requirements.txt").unlink()
    assert stale_packages(checkout, checkout / ".venv") == ""


@pytest.mark.parametrize(
    "name", ["docs/vpn.md", "docs/generator/static/node.css", "config/example.config.yml"]
)
def test_pages_of_another_version_are_noticed(checkout, name):
    (checkout / name).write_text("changed")
    assert is_site_stale(checkout)


def test_compiled_code_is_no_change_of_the_pages(checkout):
    (checkout / "docs/generator/__pycache__").mkdir()
    (checkout / "docs/generator/__pycache__/site.pyc").write_text("compiled")
    assert not is_site_stale(checkout)


def test_missing_pages_are_noticed_where_they_can_be_made(checkout):
    (checkout / "nodeapi/site/index.html").unlink()
    assert is_site_stale(checkout)
    (checkout / "docs/generator").rename(checkout / "elsewhere")
    assert not is_site_stale(checkout)


@pytest.mark.parametrize("start", [START, DAPHNE])
def test_a_start_without_the_packages_of_this_version_is_refused(tmp_path, start):
    """Before anything is imported that may be missing."""
    (tmp_path / ".installed-requirements.txt").write_text("older")
    code = f"import sys; sys.path.insert(0, '.'); sys.prefix = {str(tmp_path)!r}; {start}"
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (1, stale_packages(ROOT, tmp_path) + "\n")
