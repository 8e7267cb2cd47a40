"""docs/simulator.md: its commands run as they stand there, and no command of the simulator is missing."""

import inspect
import re

import pytest

from lightning.simulator.control_server import Commands
from tests.support.doc_examples import Page
from tests.support.networks import simulated_network
from tests.support.nodes import ROOT


def test_the_commands(tmp_path):
    with simulated_network(tmp_path / "my network") as network:
        page = Page("simulator.md", cwd=ROOT, NETWORK=str(network.directory))
        page.run("latency ms=72")
        assert {node["state"] for node in network.command("info")} == {"running"}
        assert page.left == []


def test_every_command_is_told():
    page = (ROOT / "docs" / "simulator.md").read_text()
    cells = re.findall(r"^\| ([^|]*) \| ([^|]*) \| [^|]+ \|$", page, re.MULTILINE)
    told = {name for names, _ in cells for name in re.findall(r"`(\w+)`", names)}
    commands = {
        name
        for name, _ in inspect.getmembers(Commands, inspect.iscoroutinefunction)
        if not name.startswith("_") and name != "run"
    }
    assert told == commands


@pytest.mark.parametrize(
    "command", ["latency", "rate", "fail", "strand", "mine", "disconnect", "open_channel"]
)
def test_arguments_are_those_that_the_command_takes(command):
    page = (ROOT / "docs" / "simulator.md").read_text()
    (arguments,) = re.findall(rf"^\| `{command}` \| ([^|]*) \|", page, re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", arguments))
    assert named == set(inspect.signature(getattr(Commands, command)).parameters) - {"self"}
