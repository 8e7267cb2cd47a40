"""Fetching a command ends the imports: from then on the garbage collector works, on what is new."""

import gc

import pytest

from impervious_site.command_line import CommandLine


@pytest.fixture
def collector_off():
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.parametrize("name", ["status", "runimpd", "changepassword"])
@pytest.mark.usefixtures("collector_off")
def test_a_command_runs_with_the_collector_on(name):
    CommandLine(["manage.py", name]).fetch_command(name)
    assert gc.isenabled()


@pytest.mark.usefixtures("collector_off")
def test_the_collector_leaves_out_what_was_imported():
    before = gc.get_freeze_count()
    CommandLine(["manage.py", "status"]).fetch_command("status")
    assert gc.get_freeze_count() > before


@pytest.mark.usefixtures("collector_off")
def test_a_command_that_does_not_exist_ends_the_process():
    with pytest.raises(SystemExit):
        CommandLine(["manage.py", "no-such-command"]).fetch_command("no-such-command")
