"""Whose database a file is, where the configuration names none."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from impervious_site.default_database import default_database, pubkeys_in

ALICE, BOB = "02" + "aa" * 32, "03" + "bb" * 32


def used_by(file: Path, *pubkeys: str, table: bool = True) -> Path:
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        if table:
            database.execute("CREATE TABLE messaging_invoicemark (pubkey text PRIMARY KEY, add_index bigint)")
            database.executemany(
                "INSERT INTO messaging_invoicemark VALUES (?, 1)", [(key,) for key in pubkeys]
            )
            database.commit()
    return file


@pytest.mark.parametrize("name", ["config.yml", "local.config.yml"])
def test_usual_names(tmp_path, name):
    used_by(tmp_path / "impervious.sqlite3", BOB)
    assert default_database(tmp_path / name, tmp_path, ALICE) == (tmp_path / "impervious.sqlite3", False)


def test_simulated_network(tmp_path):
    assert default_database(None, tmp_path, ALICE) == (tmp_path / "impervious.sqlite3", False)


def test_two_configurations_in_a_folder(tmp_path):
    found = [default_database(tmp_path / f"{name}.yml", tmp_path, "") for name in ("alice", "bob")]
    assert found == [(tmp_path / "alice.sqlite3", False), (tmp_path / "bob.sqlite3", False)]


@pytest.mark.parametrize(
    ("pub_key", "users", "expected"),
    [
        # From before databases were named after configurations.
        (ALICE, [ALICE], ("impervious.sqlite3", False)),
        (ALICE.upper(), [ALICE], ("impervious.sqlite3", False)),
        (ALICE, [BOB, ALICE], ("impervious.sqlite3", False)),
        (BOB, [ALICE], ("bob.sqlite3", False)),
        # lnd will tell.
        ("", [ALICE], ("impervious.sqlite3", True)),
        (ALICE, [], ("impervious.sqlite3", True)),
    ],
)
def test_a_database_that_is_there(tmp_path, pub_key, users, expected):
    used_by(tmp_path / "impervious.sqlite3", *users)
    file, may_be_others = default_database(tmp_path / "bob.yml", tmp_path, pub_key)
    assert (file.name, may_be_others) == expected


def test_ones_own_comes_first(tmp_path):
    used_by(tmp_path / "impervious.sqlite3", ALICE)
    used_by(tmp_path / "alice.sqlite3", ALICE)
    assert default_database(tmp_path / "alice.yml", tmp_path, ALICE) == (tmp_path / "alice.sqlite3", False)


def test_reading_leaves_nothing_behind(tmp_path):
    file = used_by(tmp_path / "a?b#c.sqlite3", ALICE, BOB)
    assert pubkeys_in(file) == {ALICE, BOB}
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_while_its_node_runs(tmp_path):
    file = used_by(tmp_path / "impervious.sqlite3")
    with closing(sqlite3.connect(file)) as node:
        node.execute("INSERT INTO messaging_invoicemark VALUES (?, 1)", (ALICE,))
        node.commit()
        assert pubkeys_in(file) == {ALICE}


def test_what_tells_nothing(tmp_path):
    assert pubkeys_in(used_by(tmp_path / "empty.sqlite3", table=False)) == frozenset()
    (tmp_path / "garbage").write_bytes(b"no database at all" * 100)
    assert pubkeys_in(tmp_path / "garbage") == frozenset()
    assert pubkeys_in(tmp_path / "missing") == frozenset()
    assert not (tmp_path / "missing").exists()
