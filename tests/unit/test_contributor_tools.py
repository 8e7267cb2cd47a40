"""What contributors and CI run is what the project pins: hooks without versions of their own, one list of Pythons."""

import os
import re
import tomllib

import yaml

from tests.support.nodes import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HOOKS = [
    (repository["repo"], hook)
    for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repository["hooks"]
]


def test_ci_tests_every_python_that_the_project_supports():
    prefix = "Programming Language :: Python :: "
    supported = [name.removeprefix(prefix) for name in PROJECT["classifiers"] if name.startswith(prefix)]
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python-version"] == supported
    assert PROJECT["requires-python"] == f">={supported[0]}"


def test_ci_runs_commands_of_the_project():
    commands = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands == ["./impervious check", "./impervious test"]


def test_ci_may_only_read():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not [name for name, job in WORKFLOW["jobs"].items() if "permissions" in job]


def test_hooks_pin_nothing_and_download_nothing():
    for repository, hook in HOOKS:
        assert (repository, hook["language"]) == ("local", "system"), hook["id"]
        assert "additional_dependencies" not in hook, hook["id"]


def test_hooks_call_what_the_project_has():
    """Its own programs, or those of packages that are pinned for the checks."""
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "requirements-check.in").read_text(), flags=re.MULTILINE)
    for _, hook in HOOKS:
        program = hook["entry"].split()[0]
        if program.startswith(".venv-tools/bin/"):
            assert program.removeprefix(".venv-tools/bin/") in {"python", *pinned}, hook["id"]
        else:
            assert os.access(ROOT / program, os.X_OK), hook["id"]


def test_issue_forms_have_a_name_and_fields_with_ids():
    forms = [path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 2
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert form["name"], path.name
        assert form["description"], path.name
        fields = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert len(fields) == len(set(fields)), path.name
