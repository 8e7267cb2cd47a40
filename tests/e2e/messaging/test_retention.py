"""A node forgets what is old, by itself and at its operator's word; what was received does not come again, what was sent
is not sent again.
"""

import subprocess
import sys

import pytest

from tests.support.databases import execute
from tests.support.nodes import ROOT, Node
from tests.support.streams import send, settle_down

pytestmark = pytest.mark.sql


def prune(node: Node, *arguments: str) -> str:
    command = [
        sys.executable,
        str(ROOT / "manage.py"),
        "prune",
        *arguments,
        "--config",
        str(node.config_path),
    ]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def messages(node: Node) -> list[dict]:
    return node.get("/v1/messages?limit=1000").json["messages"]


def make_old(node: Node) -> None:
    """All messages, their attempts and events."""
    for table, fields in (
        ("message", ("created_at", "updated_at")),
        ("attempt", ("created_at", "ended_at")),
        ("event", ("created_at",)),
    ):
        moments = ", ".join(f"{field} = '2020-01-01 00:00:00'" for field in fields)
        execute(node.database_url, f"UPDATE messaging_{table} SET {moments}")


def count(node: Node, table: str) -> int:
    return execute(node.database_url, f"SELECT count(*) FROM messaging_{table}")[0][0]


def mark(node: Node) -> int:
    return execute(node.database_url, "SELECT add_index FROM messaging_invoicemark")[0][0]


def test_what_is_pruned_does_not_come_again(network, alice, bob, tmp_path):
    # Their lnds' payments are counted below.
    settle_down(alice, bob)
    node = Node(network.nodes["carol"], tmp_path / "carol", extra={"messages": {"keep_days": 2}})
    with node:
        begun = mark(node)
        ids = {send(bob, node), send(node, bob)}
        node.wait_until(lambda: {message["id"] for message in messages(node)} == ids)
        node.wait_until(
            lambda: all(message["state"] in ("received", "settled") for message in messages(node))
        )
        make_old(node)
        settled = network.command("info")
        assert "messages: 2 would be deleted" in prune(node, "--dry-run")
        assert len(messages(node)) == 2
        told = prune(node)
        assert "messages: 2 deleted" in told
        assert "attempts: 1 deleted" in told
        assert "events: 1 deleted" in told
        assert not messages(node)
        assert count(node, "event") == 1
        keys = count(node, "receivedhtlc")
        # The mark is lost too: all that came is looked through again. What lnd has from before is other nodes' business.
        node.stop()
        execute(node.database_url, f"UPDATE messaging_invoicemark SET add_index = {begun}")
        node.start()
        node.wait_until(lambda: mark(node) > begun)
        last = send(bob, node)
        node.wait_until(lambda: [message["id"] for message in messages(node)] == [last])
        now = {one["name"]: one["settled"] for one in network.command("info")}
        before = {one["name"]: one["settled"] for one in settled}
        assert now == before | {"carol": before["carol"] + 1}
        assert count(node, "receivedhtlc") == keys + 1
        # And by itself, at its start and then daily.
        make_old(node)
        node.stop()
        node.start()
        node.wait_until(lambda: not messages(node))
