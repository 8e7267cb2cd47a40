"""Files of a node are its user's alone, whatever command makes them; and no node runs on a newer version's database."""

import os
import stat
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.commands import command
from tests.support.daphnes import Daphne
from tests.support.databases import only_on_sqlite
from tests.support.networks import simulated_network
from tests.support.nodes import Node
from tests.support.streams import WebsocketStream, data_of, send

NOBODY = 65534
DATABASE = "impervious.sqlite3"


@pytest.fixture
def node(network, tmp_path) -> Node:
    """Not started; its directory is another user's, as that of a node under systemd is root's business only."""
    node = Node(
        network.nodes["carol"], tmp_path / "node", database_url=f"sqlite:///{tmp_path}/node/{DATABASE}"
    )
    if os.geteuid() == 0:
        os.chown(node.directory, NOBODY, NOBODY)
    return node


def made(node: Node) -> dict[str, tuple[int, int]]:
    """Mode and owner of what is there beside the configuration and the log."""
    files = (path for path in node.directory.iterdir() if path.suffix not in (".yml", ".log"))
    return {path.name: (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) for path in files}


@only_on_sqlite
def test_commands_before_the_first_start(node):
    for name, arguments, code in (
        ("prune", ["--dry-run"], 1),
        ("doctor", [], 0),
        ("status", [], 1),
        ("keys", ["list"], 0),
        ("keys", ["make", "--name", "shop", "--scopes", "read"], 0),
    ):
        ended = command(node, name, *arguments, umask=0o022)
        assert ended.code == code, ended
        if name != "keys":
            assert made(node) == {}, name
    owner = NOBODY if os.geteuid() == 0 else os.geteuid()
    files = made(node)
    assert {DATABASE, f"{DATABASE}.lock"} <= files.keys()
    assert set(files.values()) == {(0o600, owner)}, files


@only_on_sqlite
def test_database_that_an_older_version_left_open_to_others(node):
    database = node.directory / DATABASE
    database.touch()
    database.chmod(0o644)
    with node:
        assert f"other users could read {database}; now they cannot" in node.log
        modes = {mode for mode, _ in made(node).values()}
        assert modes == {0o600}, made(node)


@only_on_sqlite
def test_database_of_a_newer_version(node):
    assert command(node, "keys", "list").code == 0
    database = Path(node.database_url.removeprefix("sqlite:///"))
    with closing(connect(database)) as connection, connection:
        connection.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('messaging', '9999_future', '2030-01-01')"
        )
    for name, arguments in (("runimpd", []), ("keys", ["list"]), ("prune", ["--dry-run"])):
        ended = command(node, name, *arguments)
        assert ended.code == 1
        assert "the database was made by a newer version of the node (messaging.9999_future)" in ended.err
    with Daphne(node).serving() as beside:
        reply = beside.get("/v1/messages")
        assert (reply.status, reply.json["code"]) == (503, 14)
        assert "was made by a newer version" in reply.json["message"]
        # Not 403, which says that a key is not good for the stream.
        with pytest.raises(InvalidStatus) as refused:
            WebsocketStream(beside)
        assert refused.value.response.status_code == 503


@only_on_sqlite
def test_two_nodes_with_their_configurations_in_one_directory(tmp_path):
    """Neither says where its database is."""
    directory = tmp_path / "nodes"
    with simulated_network(tmp_path / "network") as network:
        nodes = [
            Node(network.nodes[name], directory, extra={"database": {"url": ""}}, name=name)
            for name in ("alice", "bob")
        ]
        for _ in range(2):
            with nodes[0] as alice, nodes[1] as bob, WebsocketStream(bob) as stream:
                assert data_of(stream.of(send(alice, bob, b"beside you"))) == b"beside you"
    databases = {path.name for path in directory.glob("*.sqlite3")}
    assert databases == {"alice.sqlite3", "bob.sqlite3"}
    assert {path.name for path in directory.glob("*.secret_key")} == {"alice.secret_key", "bob.secret_key"}
