"""What gets installed is pinned with hashes, completely: the .txt files are what `.ci/pin` makes of the .in files."""

import re
from importlib import metadata
from itertools import combinations

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.nodes import ROOT

HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
# What ./impervious test installs, and so what can be looked into.
INSTALLED = ("requirements", "requirements-postgresql", "requirements-docs", "requirements-test")
# The second one only where the machine has no Node.js.
FILES = (*INSTALLED, "requirements-check", "requirements-javascript")


def wanted(name: str) -> list[Requirement]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / f"{name}.in").read_text().splitlines()]
    return [Requirement(line) for line in lines if line]


def pinned(name: str) -> list[tuple[Requirement, int]]:
    """Each pin of a .txt file, and how many hashes it has."""
    text = re.sub(r"^\s*#.*$", "", (ROOT / f"{name}.txt").read_text(), flags=re.MULTILINE).replace(
        "\\\n", " "
    )
    lines = [line for line in text.splitlines() if line.strip()]
    return [(Requirement(HASH.sub("", line).strip()), len(HASH.findall(line))) for line in lines]


def versions(name: str) -> dict[str, set[str]]:
    """By package; a package may have one version for each of several environments."""
    found: dict[str, set[str]] = {}
    for pin, _ in pinned(name):
        found.setdefault(canonicalize_name(pin.name), set()).add(str(pin.specifier))
    return found


@pytest.mark.parametrize("name", FILES)
def test_each_line_is_one_version_with_hashes(name):
    for pin, hashes in pinned(name):
        assert re.fullmatch(r"==[^,*]+", str(pin.specifier)), f"{pin}: one version"
        assert hashes, f"{pin}: no hash"


@pytest.mark.parametrize("name", FILES)
def test_what_we_want_is_what_gets_installed(name):
    installed = versions(name)
    for line in wanted(name):
        assert re.fullmatch(r"==[^,*]+", str(line.specifier)), f"{name}.in: {line}: one version"
        assert installed.get(canonicalize_name(line.name)) == {str(line.specifier)}, f"{line}: run .ci/pin"


@pytest.mark.parametrize(("first", "second"), list(combinations(FILES, 2)))
def test_what_comes_later_changes_nothing_of_what_came_before(first, second):
    before, after = versions(first), versions(second)
    for name in before.keys() & after.keys():
        assert after[name] <= before[name], f"{name}: run .ci/pin"


def explained() -> set[str]:
    """The packages in the first column of the tables of docs/dependencies.md."""
    page = (ROOT / "docs" / "dependencies.md").read_text()
    columns = re.findall(r"^\| ([^|]+) \|", page, flags=re.MULTILINE)
    return {canonicalize_name(name) for column in columns for name in column.split(", ")}


@pytest.mark.parametrize("name", FILES)
def test_each_package_has_its_reason(name):
    wanted_names = {canonicalize_name(line.name) for line in wanted(name)}
    assert wanted_names <= explained(), "add it to docs/dependencies.md"


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_explained(name):
    assert f"| `{name}.in` |" in (ROOT / "docs" / "dependencies.md").read_text()


def needed_by(pin: Requirement) -> list[Requirement]:
    """What an installed package asks for, in this environment."""
    needs = [Requirement(text) for text in metadata.requires(pin.name) or []]
    environments = [{"extra": extra} for extra in pin.extras or {""}]
    return [
        need for need in needs if not need.marker or any(need.marker.evaluate(each) for each in environments)
    ]


@pytest.mark.parametrize("name", INSTALLED)
def test_whatever_they_need_is_there_too(name):
    """Pip refuses to install with hashes what is not listed; here it is told before."""
    installed = versions(name)
    queue, seen = wanted(name), set()
    while queue:
        requirement = queue.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        assert canonicalize_name(requirement.name) in installed, f"{requirement}: run .ci/pin"
        queue += needed_by(requirement)
