"""A node that starts on an older database keeps a copy of it, then migrates. A migration that only these tests know is
put beside the others in a copy of the project, as an update of the node would do it.
"""

import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.databases import only_on_sqlite
from tests.support.nodes import ROOT, Node, node_environ
from tests.support.streams import send

pytestmark = only_on_sqlite

NEXT = "9999_of_the_tests"
MIGRATION = """
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("messaging", "{newest}")]
    operations = [migrations.RunSQL("ALTER TABLE messaging_peer ADD COLUMN of_the_tests integer NULL")]
"""
CODE = ("federation", "impervious_site", "invoices", "lightning", "messaging", "nodeapi", "protos", "vpn")


@pytest.fixture
def update(tmp_path) -> Path:
    """The project with one migration more."""
    root = tmp_path / "update"
    root.mkdir()
    for room in CODE:
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "manage.py", root)
    migrations = root / "messaging" / "migrations"
    newest = max(path.stem for path in migrations.glob("[0-9]*.py"))
    (migrations / f"{NEXT}.py").write_text(MIGRATION.format(newest=newest))
    return root


@pytest.fixture
def node(network, tmp_path) -> Node:
    """A node that has run, and stored a message."""
    node = Node(network.nodes["carol"], tmp_path / "carol")
    with node:
        send(node, Node(network.nodes["bob"], tmp_path / "bob"))
        assert node.stop() == 0
    return node


def prepared(node: Node, root: Path) -> str:
    """What `./impervious prepare` of this version says."""
    words = [sys.executable, str(root / "manage.py"), "prepare", "--config", str(node.config_path)]
    return subprocess.check_output(words, cwd=node.directory, env=node_environ(), text=True)


def copies(node: Node) -> list[Path]:
    return sorted(node.directory.glob("impervious.sqlite3.*before*"))


def content(path: Path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return database.execute("SELECT message_id, body, created_at FROM messaging_message").fetchall()


def columns(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        return {row[1] for row in database.execute("PRAGMA table_info(messaging_peer)")}


def test_new_database_and_one_without_news_are_not_copied(node):
    with node:
        assert not copies(node)
        assert stat.S_IMODE((node.directory / "impervious.sqlite3").stat().st_mode) == 0o600


def test_older_database_is_copied_and_then_migrated(node, update):
    database = node.directory / "impervious.sqlite3"
    rows = content(database)
    assert len(rows) == 1
    assert prepared(node, update).startswith(
        "The next start keeps a copy of the database and applies: messaging.9999"
    )
    assert not copies(node)
    node.root = update
    with node:
        pass
    (copy,) = copies(node)
    assert copy.name.endswith(f"before-messaging.{NEXT}")
    assert str(copy) in node.log
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert content(copy) == content(database) == rows
    assert columns(database) - columns(copy) == {"of_the_tests"}


def test_copy_that_finds_no_room_leaves_all_as_it_was(node, update):
    database = node.directory / "impervious.sqlite3"
    rows = content(database)
    node.root = update
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The node inherits it: no file may grow to the size of the database.
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(database) // 2, limit[1]))
    try:
        node.launch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    node.ended_by_itself()
    assert "cannot be copied to" in node.log
    assert "make room" in node.log
    assert "Traceback" not in node.log
    assert not copies(node)
    assert content(database) == rows
    assert "of_the_tests" not in columns(database)
    with node:
        assert len(copies(node)) == 1
