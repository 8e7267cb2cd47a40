"""What a command tells of itself."""

import json
import os
import subprocess
import sys

import pytest

from impervious_site.command_line import WITHOUT_CONFIGURATION
from nodeapi.cli.overview import APPS
from tests.support.commands import run
from tests.support.nodes import ROOT

COMMANDS = sorted(
    path.stem
    for app in APPS
    for path in (ROOT / app).glob("management/commands/*.py")
    if path.stem != "__init__"
)
ALL_HELPS = """
import json, sys
import django
from impervious_site.command_line import CommandLine
django.setup()
names = sys.argv[1:]
made = {name: CommandLine(["manage.py"]).fetch_command(name).create_parser("./impervious", name) for name in names}
print(json.dumps({name: parser.format_help() for name, parser in made.items()}))
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    environ = os.environ | {"DJANGO_SETTINGS_MODULE": "impervious_site.settings"}
    return json.loads(
        subprocess.check_output(
            [sys.executable, "-c", ALL_HELPS, *COMMANDS], cwd=ROOT, env=environ, text=True
        )
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_its_help_is_that_of_impervious_and_names_the_configuration(helps, name):
    shown = helps[name]
    assert shown.startswith(f"usage: impervious {name} ")
    assert "--settings" not in shown
    assert "--traceback" not in shown
    assert ("--config PATH" in shown) == (name not in WITHOUT_CONFIGURATION)


def test_a_command_that_is_not_there(tmp_path):
    ended = run("statsu", config=None, cwd=tmp_path)
    assert (ended.code, ended.out) == (1, "")
    assert "'statsu'. Did you mean status?" in ended.err
    assert "impervious help" in ended.err
    assert "manage.py" not in ended.err


def test_help_is_found_under_the_names_that_it_has_elsewhere():
    (shown,) = {
        subprocess.check_output([ROOT / "impervious", name], text=True) for name in ("help", "--help", "-h")
    }
    assert "doctor" in shown
    assert "help runimpd" in shown
