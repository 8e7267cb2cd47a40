"""A node whose files cannot grow, as on a full disk: it refuses what it cannot store, reads, and loses nothing."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.databases import only_on_sqlite
from tests.support.full_disk import full_disk
from tests.support.networks import Network, new_network, start_simulated
from tests.support.nodes import Node
from tests.support.streams import SEND, b64, send
from tests.support.traffic import Traffic, assert_all_arrive_once

# A PostgreSQL server has its own disk; what a node makes of its errors, test_postgresql.py tells.
pytestmark = only_on_sqlite

NAMES = ["alice", "bob", "carol"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[tuple[Network, list[Node]]]:
    """A network of its own, because payments are held in it, and a node on each of its lnds."""
    directory = tmp_path_factory.mktemp("full-disk")
    simulated = new_network(directory / "network", NAMES)
    asyncio.run(start_simulated(simulated))
    nodes = [Node(simulated.nodes[name], directory / name) for name in NAMES]
    try:
        with nodes[0], nodes[1], nodes[2]:
            yield Network(simulated), nodes
    finally:
        asyncio.run(simulated.stop())


def ids(node: Node, query: str) -> set[str]:
    return {message["id"] for message in node.get(f"/v1/messages?{query}&limit=1000").json["messages"]}


def test_what_is_under_way_and_what_arrives_while_the_disk_is_full(world):
    network, (alice, bob, carol) = world
    network.command("hold", node="carol")
    under_way = send(bob, carol)
    bob.wait_until(lambda: under_way in ids(bob, "state=in_flight"))
    known = send(alice, bob)
    bob.wait_until(lambda: known in ids(bob, "direction=in"))
    with full_disk(bob):
        refused = bob.post(SEND, {"msg": b64(b"hello"), "pubkey": alice.pubkey})
        assert (refused.status, refused.json["code"]) == (503, 14)
        assert "disk" in refused.json["message"]
        network.command("release", node="carol")
        carol.wait_until(lambda: under_way in ids(carol, "direction=in"))
        arriving = [send(alice, bob) for _ in range(5)]
        alice.wait_until(lambda: set(arriving) <= ids(alice, "state=settled"))
        assert bob.get(f"/v1/message/{known}").status == 200
        assert not ids(bob, "direction=in") & set(arriving)
        assert bob.get("/v1/node").status == 200
    assert_all_arrive_once(bob, carol, [under_way, send(bob, carol)])
    assert_all_arrive_once(alice, bob, [known, *arriving, send(alice, bob)])


def test_disk_that_fills_again_and_again_under_traffic(world):
    _, (alice, bob, _) = world
    with Traffic(alice, bob) as traffic:
        for _ in range(3):
            with full_disk(alice), full_disk(bob):
                traffic.wait_for_refusal()
            traffic.wait_for_more()
    assert {(reply.status, reply.json["code"]) for reply in traffic.refused} == {(503, 14)}
    assert_all_arrive_once(alice, bob, traffic.ids)


def test_node_that_starts_again_after_the_disk_was_full(world):
    _, (alice, bob, _) = world
    with ThreadPoolExecutor(4) as pool, full_disk(bob):
        sent = list(pool.map(lambda _: send(alice, bob), range(20)))
        alice.wait_until(lambda: set(sent) <= ids(alice, "state=settled"))
        bob.kill()
    bob.start()
    assert_all_arrive_once(alice, bob, sent)
