"""A node on SQLite where the driver of PostgreSQL is not installed, as ./impervious installs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import command
from tests.support.databases import only_on_sqlite
from tests.support.nodes import Node

pytestmark = only_on_sqlite
# Found before the driver that the tests themselves use.
NOT_INSTALLED = 'raise ModuleNotFoundError("No module named \'psycopg\'", name="psycopg")\n'


@pytest.fixture(scope="module")
def node(network, tmp_path_factory) -> Iterator[Node]:
    without = tmp_path_factory.mktemp("without-driver")
    (without / "psycopg.py").write_text(NOT_INSTALLED)
    environ = {"PYTHONPATH": str(without)}
    with Node(network.nodes["carol"], tmp_path_factory.mktemp("carol"), environ=environ) as node:
        yield node


def test_the_node_does_without_it(node):
    mapped = Path(f"/proc/{node.process.pid}/maps").read_text()
    assert "/grpc/_cython/" in mapped
    assert "/psycopg" not in mapped
    assert node.get("/v1/node").status == 200


@pytest.mark.parametrize("words", [["status"], ["doctor"], ["backup", "backup.tar"], ["prune", "--dry-run"]])
def test_commands_do_without_it(node, words):
    ended = command(node, *words, environ=node.environ)
    assert ended.code == 0, ended.err
