"""docs/commands.md: its examples run as they stand there, and print what they are said to print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nodeapi.cli.doctor.clock import UNKEPT
from tests.support.databases import only_on_sqlite
from tests.support.nodes import ROOT
from tests.support.streams import WebsocketStream

PAGE = (ROOT / "docs" / "commands.md").read_text()
EXAMPLES = dict(re.findall(r"^```console\n\$ (.*)\n((?:.*\n)+?)```$", PAGE, re.MULTILINE))
GUARD_SECONDS = 600
# What is another in each run. Whatever of it a table's columns were made for, their width changes with it.
VARYING = (
    (r"0[23][0-9a-f]{64}", "KEY"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
    (r"(?<= )/\S+", "PATH"),
    (r"\d[\d,.:-]*( (d|h|min|s|MB|GB)\b)*", "N"),
    (r" +", " "),
)


@pytest.fixture(scope="module")
def directory(alice, bob, tmp_path_factory) -> Path:
    """Where the examples are run: the script, and the network of the README."""
    made = tmp_path_factory.mktemp("page")
    for name, node in (("alice", alice), ("bob", bob)):
        (made / "network" / name).mkdir(parents=True)
        (made / "network" / name / "config.yml").symlink_to(node.config_path)
    script = made / "impervious"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "manage.py"} "$@"\n')
    script.chmod(0o755)
    return made


def example(name: str) -> tuple[str, list[str]]:
    """The command that is shown for this name, and what it is said to print."""
    (command,) = [command for command in EXAMPLES if command.startswith(f"./impervious {name} ")]
    return command, EXAMPLES[command].splitlines()


def printed(command: str, directory: Path, **environ: str) -> list[str]:
    """Its output where no terminal bounds the width."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IMPD_", "COLUMNS"))}
    done = subprocess.run(
        ["sh", "-euc", command],
        cwd=directory,
        env=kept | environ,
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def shape(lines: list[str]) -> list[str]:
    text = "\n".join(lines)
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return text.splitlines()


def test_status(directory):
    command, said = example("status")
    shown = printed(command, directory)
    # How many messages, events and members there are, other tests decide.
    assert [line[:13] for line in shown] == [line[:13] for line in said]
    assert shape(shown)[:5] == shape(said)[:5]
    assert shown[-6:] == said[-6:]


def test_send_listen_and_peers(directory, bob):
    cursor = bob.get("/v1/node").json["lastSeq"]
    command, said = example("send")
    shown = printed(command, directory, BOB=bob.pubkey)
    message_id = re.search(r"^accepted +(\S+)$", "\n".join(shown), re.MULTILINE)[1]
    # Others write to bob too.
    with WebsocketStream(bob, f"?after={cursor}") as stream:
        before = int(stream.of(message_id)["seq"]) - 1
    assert shape([line for line in shown if not line.startswith(("queued", "in flight"))]) == shape(said)
    command, said = example("message")
    shown = printed(command.rpartition(" ")[0] + f" {message_id}", directory)
    # Payment hashes are hexadecimal.
    assert [line.split()[:1] for line in shape(shown)[:8]] == [line.split()[:1] for line in shape(said)[:8]]
    assert (shape(shown)[5], shape(shown)[8]) == (shape(said)[5], shape(said)[8])
    command, said = example("listen")
    shown = printed(command.replace("--after 0", f"--after {before} --service message"), directory)
    assert shape(shown) == shape(said)
    command, said = example("peers")
    shown = printed(command, directory)
    assert shape(shown)[0] == shape(said)[0]
    (row,) = [line for line in shown if line.startswith(bob.pubkey)]
    assert row.split()[1] in ("written", "marked")
    assert re.search(r"(ago|now)$", row)


@only_on_sqlite
def test_doctor(directory):
    command, said = example("doctor")
    shown = printed(command, directory)
    if unkept := next((number for number, line in enumerate(shown) if UNKEPT in line), 0):
        # Of this machine, which is not the page's business: the note, and what to do.
        del shown[unkept : unkept + 2]
        shown[-1] = shown[-1].removesuffix(" 1 to know.")
    assert shape(shown) == shape(said)
