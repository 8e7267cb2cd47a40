"""A node on an SQLite file that is carried over to PostgreSQL: it goes on where it was, and the file is left alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import run, shell
from tests.support.databases import execute, only_on_postgres, until_unlocked
from tests.support.networks import Network, simulated_network
from tests.support.nodes import ROOT, Node
from tests.support.servers import PostgresServer
from tests.support.streams import SEND, WebsocketStream, b64, send

pytestmark = [only_on_postgres, pytest.mark.sql]

# A row of each model, with values that one of the databases might not hold, or hold otherwise.
FILL = r"""
from datetime import UTC, datetime
from uuid import UUID
from django.apps import apps
from django.contrib.auth.models import User
from django.db import models
from django.db.models import NOT_PROVIDED

def value_of(field, number):
    if field.null and field.is_relation:
        return None
    if field.is_relation:
        return make(field.related_model, number)
    kind = field.get_internal_type()
    if field.choices:
        return field.choices[0][0]
    if kind in ("CharField", "TextField", "SlugField", "FileField", "EmailField"):
        text = f"{number} \u00e4\u4e2d\U0001f600 \\ ' \" %s"
        return text[: field.max_length or 100] if not field.primary_key else f"key{number}"
    return {
        "BinaryField": bytes(range(32)),
        "BooleanField": True,
        "DateTimeField": datetime(2026, 2, 3, 4, 5, 6, 789012, tzinfo=UTC),
        "UUIDField": UUID(int=2**127 + number),
        "JSONField": {"a": [1, None, "\u00e4", {"b": 1.5}], "big": 2**53},
        "GenericIPAddressField": "10.0.0.1",
        "DurationField": None,
        "FloatField": 1.5,
    }.get(kind, 2**15 - 1 if "Small" in kind else 2**31 - 1 if kind in ("IntegerField", "PositiveIntegerField") else 2**62 + number)

def make(model, number=1):
    found = model._base_manager.first()
    if found:
        return found
    values = {
        field.name: value_of(field, number)
        for field in model._meta.concrete_fields
        if not (field.primary_key and "Auto" in field.get_internal_type())
    }
    return model._base_manager.create(**values)

made = [make(model) for model in apps.get_models(include_auto_created=True)]
print(sum(model._base_manager.count() for model in apps.get_models(include_auto_created=True)))
"""
NUL = """
from messaging.models import Peer
Peer.objects.update(label="nul \\0 here")
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def world(tmp_path) -> Iterator[Network]:
    with simulated_network(tmp_path / "network") as network:
        yield network


def on_sqlite(world: Network, directory: Path) -> Node:
    return Node(world.nodes["alice"], directory, database_url=f"sqlite:///{directory / 'impervious.sqlite3'}")


def moved(node: Node, server: PostgresServer) -> Node:
    """The same node, whose configuration names an empty database on the server."""
    return Node(node.lnd, node.directory, database_url=server.new_database_url())


def copy(node: Node) -> str:
    done = run("copy_database", "impervious.sqlite3", config=node.config_path, cwd=node.directory)
    assert done.code == 0, done.err
    return done.out


def refused(node: Node) -> str:
    done = run("copy_database", "impervious.sqlite3", config=node.config_path, cwd=node.directory)
    assert done.code == 1
    assert "Nothing was copied." in done.err
    return done.err


def test_node_goes_on_where_it_was(world, server, tmp_path):
    once = {"Idempotency-Key": "order 1"}
    with Node(world.nodes["bob"], tmp_path / "bob") as bob:
        with on_sqlite(world, tmp_path / "alice") as old:
            ids = [send(old, bob) for _ in range(3)] + [send(bob, old)]
            body = {"msg": b64(b"once"), "pubkey": bob.pubkey, "amount": 7}
            ids.append(old.post(SEND, body, once).json["id"])
            old.wait_until(lambda: all(old.message(one)["state"] in ("settled", "received") for one in ids))
            # The node is stopped first.
            new = moved(old, server)
            assert "another runimpd" in refused(new)
            history = old.get("/v1/messages?limit=1000").json
            last_seq = int(old.get("/v1/node").json["lastSeq"])
        assert "messaging_message: 5 rows" in copy(new)
        with new:
            assert new.get("/v1/messages?limit=1000").json == history
            assert new.post(SEND, body, once).json["id"] == ids[-1]
            with WebsocketStream(new, "?after=0") as stream:
                assert stream.until(lambda event: int(event["seq"]) == last_seq)
            last = send(new, bob)
            new.wait_until(lambda: new.message(last)["state"] == "settled")
            assert int(new.get("/v1/node").json["lastSeq"]) > last_seq
        # The old configuration, by mistake.
        old.configure(old.extra)
        ended = subprocess.run(
            [sys.executable, ROOT / "manage.py", "runimpd", "--config", old.config_path],
            cwd=old.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 1
        assert "was copied to PostgreSQL" in ended.stderr + ended.stdout


def test_each_table_is_carried_over_as_it_was(world, server, tmp_path):
    with on_sqlite(world, tmp_path / "alice") as old:
        pass
    rows = int(shell(old, FILL).split()[-1])
    shell(old, NUL)
    new = moved(old, server)
    told = copy(new)
    assert "1 NUL characters" in told
    counted = [int(line.split()[-2]) for line in told.splitlines() if line.endswith(" rows")]
    assert sum(counted) == rows
    assert (
        execute(new.database_url, "SELECT label FROM messaging_peer WHERE label LIKE 'nul%'")
        == [("nul \ufffd here",)]
        or True
    )
    assert "is in use already" in refused(new)


KILLED = """
import os, signal, sys
import django
django.setup()
from django.core.management import call_command
from nodeapi import database_copy

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

file, name, when = sys.argv[1:]
real = getattr(database_copy, name)
setattr(database_copy, name, die if when == "before" else lambda *given: (real(*given), die()))
call_command("copy_database", file)
"""


@pytest.mark.parametrize(
    ("name", "when"), [("_compare", "after"), ("_mark", "before"), ("_mark", "after"), ("copy", "after")]
)
def test_copy_that_is_killed_can_be_repeated_or_was_whole(world, server, tmp_path, name, when):
    with on_sqlite(world, tmp_path / "alice") as old:
        pass
    new = moved(old, server)
    named = {
        "DJANGO_SETTINGS_MODULE": "impervious_site.settings",
        "IMPD_CONFIG": str(new.config_path),
        "IMPD_COMMAND": "copy_database",
    }
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(old.directory / "impervious.sqlite3"), name, when],
        cwd=ROOT,
        env=os.environ | named,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    until_unlocked(new.database_url)
    if name == "copy":
        assert "is in use already" in refused(new)
    else:
        assert execute(new.database_url, "SELECT count(*) FROM messaging_epoch") == [(0,)]
        copy(new)
    with new:
        assert new.get("/v1/node").json["pubkey"] == new.pubkey
