"""Which configuration a command is about that names none."""

import pytest

from impervious_site.launch import ABOUT_A_NODE, find_simulated


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """The configuration of the node that ./impervious starts here."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "data" / "simulated" / "you" / "config.yml"
    config.parent.mkdir(parents=True)
    config.write_text("")
    return config


def named(*arguments: str) -> dict[str, str]:
    environ: dict[str, str] = {}
    find_simulated(["manage.py", *arguments], environ)
    return environ


@pytest.mark.parametrize("command", ["keys", *sorted(ABOUT_A_NODE)])
def test_the_simulated_node(simulated, command):
    assert named(command, "list")["IMPD_CONFIG"] == str(simulated)


@pytest.mark.parametrize("command", ["runimpd", "migrate", "restore"])
def test_other_commands_are_not_about_it(simulated, command):
    assert "IMPD_CONFIG" not in named(command)


def test_a_real_node_comes_first(simulated, tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yml").write_text("")
    assert "IMPD_CONFIG" not in named("keys", "list")
