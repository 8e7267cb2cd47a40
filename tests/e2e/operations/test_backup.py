"""A backup is made while the node runs; put back, the node goes on: what it received since is told once more, nothing is
paid twice, and its clients' cursors stay good.
"""

import json
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tarfile
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from nodeapi.backups import archive, scratch
from tests.support.databases import ON_POSTGRES, execute, only_on_sqlite, until_unlocked
from tests.support.networks import simulated_network
from tests.support.nodes import ROOT, Node
from tests.support.scrapes import value
from tests.support.streams import WebsocketStream, delivery_of, send

pytestmark = pytest.mark.sql


KEYS = ("order 1", "order 2")


def command(node: Node, *arguments: str) -> subprocess.CompletedProcess:
    if not node.running:
        until_unlocked(node.database_url)
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *arguments, "--config", str(node.config_path)],
        cwd=node.directory,
        capture_output=True,
        text=True,
        check=False,
    )


def done(node: Node, *arguments: str) -> str:
    result = command(node, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(node: Node, *arguments: str) -> str:
    result = command(node, *arguments)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    return result.stderr


def messages(node: Node, direction: str) -> dict[str, dict]:
    found = node.get(f"/v1/messages?limit=1000&direction={direction}").json["messages"]
    return {message["id"]: message for message in found}


def backup_between_tries(node: Node, message_id: str) -> Path:
    """Of a moment when this message waits for its next try: which comes at any time, and what is under way then is asked
    for in lnd.
    """
    backup = node.directory / "backup.tar"
    while True:
        before = messages(node, "out")[message_id]
        done(node, "backup", str(backup), "--force")
        if before["state"] == "retrying" and messages(node, "out")[message_id] == before:
            return backup


def settled(node: Node, message_id: str) -> bool:
    return messages(node, "out")[message_id]["state"] == "settled"


def send_once(node: Node, to: Node, key: str) -> str:
    """1,000 sat; the message's id."""
    body = {"msg": "cGFpZCBvbmNl", "pubkey": to.pubkey, "amount": 1_000}
    return node.post("/v1/message/send", body, {"Idempotency-Key": key}).json["id"]


def refused_while_open(node: Node, backup: Path) -> str:
    """As a daphne beside the node has it open."""
    if ON_POSTGRES:
        return ""
    with closing(sqlite3.connect(node.directory / "impervious.sqlite3")) as database:
        database.execute("SELECT count(*) FROM messaging_event").fetchall()
        return refused(node, "restore", str(backup), "--force")


def secret_key(node: Node) -> Path:
    return node.directory / ("config.secret_key" if ON_POSTGRES else "impervious.secret_key")


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """What happened before a backup of bob's node, since then, and the restore. Carol has an lnd and no node."""
    base = tmp_path_factory.mktemp("story")
    with simulated_network(base / "network") as network:
        alice, bob, carol = (Node(network.nodes[name], base / name) for name in ("alice", "bob", "carol"))
        with alice, bob:
            before = [send(alice, bob, b"before") for _ in range(3)]
            bob.wait_until(lambda: set(before) <= messages(bob, "in").keys())
            network.command("hold", node="alice")
            held = send(bob, alice, b"on its way")
            network.command("down", node="carol")
            waiting = send(bob, carol, b"waits")
            bob.wait_until(
                lambda: (
                    [messages(bob, "out")[one]["state"] for one in (held, waiting)]
                    == ["in_flight", "retrying"]
                )
            )
            backup = backup_between_tries(bob, waiting)
            network.command("release", node="alice")
            network.command("up", node="carol")
            sent = [held, waiting, send(bob, alice, b"sent since")]
            sent += (keyed := [send_once(bob, alice, key) for key in KEYS])
            bob.wait_until(lambda: all(settled(bob, message_id) for message_id in sent))
            since = [send(alice, bob, b"since") for _ in range(4)]
            bob.wait_until(lambda: set(since) <= messages(bob, "in").keys())
            alice.wait_until(lambda: all(settled(alice, message_id) for message_id in since))
            cursor = execute(bob.database_url, "SELECT max(seq) FROM messaging_event")[0][0]
            running = refused(bob, "restore", str(backup), "--force")
            bob.stop()
            ended = bob.directory.with_name("bob-ended")
            shutil.copytree(bob.directory, ended)
            key = secret_key(bob).read_bytes()
            secret_key(bob).write_text("another machine's")
            existing = refused(bob, "restore", str(backup))
            opened = refused_while_open(bob, backup)
            paid = network.command("info")
            restored = done(bob, "restore", str(backup), "--force")
            bob.start()
            repeated = [send_once(bob, alice, key) for key in KEYS]
            yield SimpleNamespace(**locals())


def test_a_backup_says_what_it_is(story):
    assert stat.S_IMODE(story.backup.stat().st_mode) == 0o600
    with tarfile.open(story.backup) as backup:
        manifest = json.load(backup.extractfile("manifest.json"))
        assert backup.extractfile("secret_key").read() == story.key
        assert backup.extractfile("config.yml").read() == story.bob.config_path.read_bytes()
    assert manifest["database"] == ("postgresql" if ON_POSTGRES else "sqlite")
    assert ["messaging", "0001_initial"] in manifest["migrations"]
    assert manifest["version"]
    assert "exists" in refused(story.bob, "backup", str(story.backup))


def test_a_restore_is_refused_over_what_is_there(story):
    assert "another runimpd" in story.running
    assert "Nothing was changed" in story.running
    assert "--force" in story.existing
    assert ON_POSTGRES or "another process has" in story.opened


def test_what_was_received_since_is_told_once_more(story):
    """To a client whose cursor is of the time before the restore."""
    with WebsocketStream(story.bob, f"?after={story.cursor}") as stream:
        notice = stream.event()
        assert notice["serviceType"] == "log"
        assert "restored from a backup" in delivery_of(notice)["error"]
        assert int(notice["seq"]) > story.cursor
        told = stream.until(lambda event: event["id"] == story.since[-1])
        # Another walk over lnd's invoices brings nothing more.
        story.bob.wait_until(lambda: set(story.since) <= messages(story.bob, "in").keys())
        last = send(story.alice, story.bob, b"last")
        told += stream.until(lambda event: event["id"] == last)
    received = [event["id"] for event in told if event["serviceType"] == "message"]
    assert sorted(received) == sorted([*story.since, last])
    seqs = [int(event["seq"]) for event in told]
    assert seqs == sorted(set(seqs))
    assert seqs[0] > int(notice["seq"])
    assert {*story.before, *story.since, last} == messages(story.bob, "in").keys()


def test_nothing_is_paid_twice(story):
    known = messages(story.bob, "out")
    assert known.keys() == {story.held, story.waiting, *story.repeated}
    story.bob.wait_until(lambda: settled(story.bob, story.held))
    assert known[story.waiting]["state"] == "failed"
    assert "restored from a backup" in known[story.waiting]["error"]

    def settled_invoices(info: list[dict]) -> list[int]:
        return [node["settled"] for node in info if node["name"] != "bob"]

    assert settled_invoices(story.network.command("info")) == settled_invoices(story.paid)


def test_call_that_is_repeated_with_its_idempotency_key_is_answered_as_before(story):
    """And paid once: so says `test_nothing_is_paid_twice`."""
    assert story.repeated == story.keyed
    story.bob.wait_until(lambda: all(settled(story.bob, one) for one in story.repeated))
    known = messages(story.bob, "out")
    assert {known[one]["amount"] for one in story.repeated} == {"1000"}
    assert set(story.keyed) <= messages(story.alice, "in").keys()


def test_what_was_there_before_is_kept(story):
    assert secret_key(story.bob).read_bytes() == story.key
    kept = sorted(path for path in story.bob.directory.iterdir() if path.name.endswith(".before-restore"))
    assert len(kept) == 2
    assert all(str(path) in story.restored for path in kept)
    assert any(path.read_bytes() == b"another machine's" for path in kept)
    assert not list(story.bob.directory.glob("*.restoring"))
    assert not list(story.bob.directory.glob(f"{scratch.PREFIX}*"))


def test_metrics_of_the_running_node_tell_of_the_last_backup(story, tmp_path):
    path = tmp_path / "again.tar"
    done(story.bob, "backup", str(path))
    with tarfile.open(path) as backup:
        made_at = datetime.fromisoformat(json.load(backup.extractfile("manifest.json"))["made_at"])
    name = "impervious_last_backup_timestamp_seconds"
    story.bob.wait_until(lambda: value(story.bob, name) == made_at.timestamp())


@pytest.fixture
def fresh(story, tmp_path) -> Node:
    """A new machine: a configuration, and nothing else."""
    return Node(story.network.nodes["carol"], tmp_path / "fresh")


def test_keys_that_are_valid_again_are_told(fresh, tmp_path):
    """What was revoked since the backup is not known to it."""
    backup = str(tmp_path / "keys.tar")
    for name in ("shop", "revoked before"):
        done(fresh, "keys", "make", "--name", name, "--scopes", "read")
    done(fresh, "keys", "revoke", "revoked before")
    done(fresh, "backup", backup)
    done(fresh, "keys", "revoke", "shop")
    told = done(fresh, "restore", backup, "--force")
    assert "Valid again are the API keys 'shop': revoke" in told
    states = {row["name"]: row["state"] for row in json.loads(done(fresh, "keys", "list", "--json"))}
    assert states == {"shop": "valid", "revoked before": "revoked"}


def test_that_no_key_is_valid_is_told(story):
    assert "No API key in it is valid" in story.restored


def test_the_audit_log_tells_where_it_has_a_gap(story):
    rows = execute(
        story.bob.database_url, "SELECT detail FROM nodeapi_auditentry WHERE operation = 'restore'"
    )
    assert len(rows) == 1
    assert rows[0][0].startswith("a backup of ")


def damaged(source: Path, target: Path, *, where: str) -> Path:
    content = bytearray(source.read_bytes())
    with tarfile.open(source) as backup:
        member = next(member for member in backup if member.name.startswith(where))
    content[member.offset_data + member.size // 2] ^= 1
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    "where", ["manifest.json", "manifest.sha256", "database", "secret_key", "config.yml"]
)
def test_a_damaged_backup_is_noticed(story, tmp_path, where):
    with pytest.raises(archive.BackupError, match="damaged"):
        archive.extract(damaged(story.backup, tmp_path / "damaged.tar", where=where), tmp_path)


def test_half_a_backup_is_noticed(story, tmp_path):
    half = tmp_path / "half.tar"
    half.write_bytes(story.backup.read_bytes()[: story.backup.stat().st_size // 2])
    with pytest.raises(archive.BackupError, match="no whole backup"):
        archive.extract(half, tmp_path)


def test_what_cannot_be_restored_changes_nothing(story, fresh, tmp_path):
    """Then a whole backup of this version makes a new machine the old node."""
    newer = changed_manifest(
        story.backup, tmp_path / "newer.tar", version="9.0", migrations=[["messaging", "9999_of_the_tests"]]
    )
    assert "newer version (9.0" in refused(fresh, "restore", str(newer))
    error = refused(fresh, "restore", str(damaged(story.backup, tmp_path / "damaged.tar", where="database")))
    assert "damaged" in error
    assert "Nothing was changed" in error
    if not ON_POSTGRES:
        assert not (fresh.directory / "impervious.sqlite3").exists()
    done(fresh, "restore", str(story.backup))
    assert secret_key(fresh).read_bytes() == story.key


def piped(node: Node, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess:
    """A command whose input and output are bytes."""
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *arguments, "--config", str(node.config_path)],
        cwd=node.directory,
        input=stdin,
        capture_output=True,
        check=False,
    )


def test_a_backup_goes_through_a_pipe_while_the_node_runs(story, fresh):
    made = piped(story.alice, "backup", "-")
    assert made.returncode == 0, made.stderr
    assert b"as of" in made.stderr
    checked = piped(story.alice, "restore", "--check", "-", stdin=made.stdout)
    assert checked.returncode == 0, checked.stderr
    assert b"The backup is good" in checked.stdout
    cut_off = piped(story.alice, "restore", "--check", "-", stdin=made.stdout[: len(made.stdout) // 2])
    assert cut_off.returncode == 1
    assert b"standard input is no whole backup" in cut_off.stderr
    put_back = piped(fresh, "restore", "-", stdin=made.stdout)
    assert put_back.returncode == 0, put_back.stderr
    assert secret_key(fresh).read_bytes() == secret_key(story.alice).read_bytes()


def test_what_a_killed_pipe_leaves_goes_with_the_next_backup(story, tmp_path):
    """A copy of the whole database."""

    def left() -> list[Path]:
        return list(story.alice.directory.glob(f"{scratch.PREFIX}*"))

    with subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), "backup", "-", "--config", str(story.alice.config_path)],
        cwd=story.alice.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as making:
        # Nobody takes the rest.
        assert len(making.stdout.read(1_000)) == 1_000
        making.kill()
    assert making.returncode == -signal.SIGKILL
    assert len(left()) == 1
    done(story.alice, "backup", str(tmp_path / "elsewhere.backup"))
    assert not left()


def test_a_backup_is_checked_beside_the_node_and_nothing_is_changed(story, tmp_path):
    before = sorted(path.name for path in story.alice.directory.iterdir())
    assert "The backup is good: database" in done(story.alice, "restore", "--check", str(story.backup))
    for where in ("manifest.json", "database", "secret_key"):
        bad = damaged(story.backup, tmp_path / f"{where}.tar", where=where)
        assert "damaged" in refused(story.alice, "restore", "--check", str(bad))
    newer = changed_manifest(story.backup, tmp_path / "newer.tar", migrations=[["messaging", "9999_x"]])
    assert "newer version" in refused(story.alice, "restore", "--check", str(newer))
    assert sorted(path.name for path in story.alice.directory.iterdir()) == before
    assert story.alice.get("/health/ready").status == 200


def test_backups_are_rotated_and_the_metric_tells_the_newest(story, tmp_path):
    directory = tmp_path / "backups"
    told = [done(story.alice, "backup", "--directory", str(directory), "--keep", "2")]
    (first,) = directory.iterdir()
    old = [directory / f"impervious-2020010{day}T000000Z.backup" for day in (1, 2)]
    for path in old:
        shutil.copy(first, path)
    told.append(done(story.alice, "backup", "--directory", str(directory), "--keep", "2"))
    kept = sorted(directory.iterdir())
    assert len(kept) == 2
    assert first in kept
    assert all("checked" in lines for lines in told)
    assert [f"deleted: {path}" in told[1] for path in old] == [True, True]
    assert directory.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in kept)
    for path in kept:
        done(story.alice, "restore", "--check", str(path))


def changed_manifest(source: Path, target: Path, **fields) -> Path:
    """The same backup, as another version would have made it."""
    directory = target.with_suffix(".files")
    directory.mkdir()
    manifest = archive.extract(source, directory)
    archive.write(target, replace(manifest, **fields), {name: directory / name for name in manifest.files})
    return target


KILLS = """
import os, signal, sys, time
from pathlib import Path
import django
django.setup()
from django.db.migrations.loader import MigrationLoader
from impervious_site.config import load_config
from nodeapi.backups.restoring import restore_backup

known = set(MigrationLoader(None).disk_migrations)

def count_down(left):
    def counted(function):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call
    for name in ("open", "link", "replace", "rename", "unlink", "fsync", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))

backup, *configs = sys.argv[1:]
for number, path in enumerate(configs, 1):
    config = load_config(Path(path), {})
    child = os.fork()
    if not child:
        count_down(number)
        restore_backup(config, Path(backup), force=True, known_migrations=known)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
START = """
import sys
from pathlib import Path
import django
django.setup()
from django.conf import settings
from nodeapi.first_start import prepare_database

prepare_database(settings.IMPD)
assert settings.SECRET_KEY == (Path(sys.argv[1]).parent / "impervious.secret_key").read_text()
"""
# More than a restore has.
STEPS = 28


def ended_node(story, directory: Path) -> Path:
    """A copy of the node as it ended, with another secret key; its configuration."""
    shutil.copytree(story.ended, directory)
    config = yaml.safe_load((directory / "config.yml").read_text())
    del config["database"]
    (directory / "config.yml").write_text(yaml.safe_dump(config))
    (directory / "impervious.secret_key").write_text("old")
    return directory / "config.yml"


@only_on_sqlite
def test_a_kill_leaves_the_old_or_the_new(story, tmp_path):
    """Killed before each step that changes a file."""
    configs = [ended_node(story, tmp_path / str(number)) for number in range(STEPS)]
    environ = {"DJANGO_SETTINGS_MODULE": "impervious_site.settings", "IMPD_CONFIG": str(configs[0])}
    told = subprocess.run(
        [sys.executable, "-c", KILLS, str(story.backup), *map(str, configs)],
        cwd=ROOT,
        env=environ,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert "0" in told
    assert told[0] == "-9"
    assert set(told) == {"0", "-9"}
    outcomes = [state_after_kill(config.parent, story) for config in configs]
    assert "old" in outcomes
    assert "new" in outcomes
    assert outcomes == sorted(outcomes, reverse=True)
    first_new = configs[outcomes.index("new")]
    assert (first_new.parent / "impervious.secret_key").read_text() == "old"
    subprocess.run(
        [sys.executable, "-c", START, str(first_new)],
        cwd=ROOT,
        env=environ | {"IMPD_CONFIG": str(first_new)},
        check=True,
    )
    assert (first_new.parent / "impervious.secret_key").read_bytes() == story.key


def state_after_kill(directory: Path, story) -> str:
    url = f"sqlite:///{directory / 'impervious.sqlite3'}"
    assert execute(url, "PRAGMA integrity_check") == [("ok",)]
    received = execute(url, "SELECT count(*) FROM messaging_message WHERE direction = 'in'")[0][0]
    marked = execute(url, "SELECT count(*) FROM sqlite_master WHERE name = 'impervious_restored'")[0][0]
    key = (directory / "impervious.secret_key").read_bytes()
    if received == len(story.before) + len(story.since):
        assert (key, marked) == (b"old", 0)
        return "old"
    # What is still to be done the next start does: the key waits for it.
    waiting = directory / "impervious.secret_key.restoring"
    assert received == len(story.before)
    assert marked == 1
    assert key == story.key or waiting.read_bytes() == story.key
    return "new"
