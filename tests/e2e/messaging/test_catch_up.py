"""What settles while a node is down, or behind a silent stream, is delivered, once."""

import asyncio

import pytest

from lightning.simulator.process import SimulatedNetwork
from tests.support.networks import new_network, start_simulated
from tests.support.nodes import Node


@pytest.fixture
def own_network(tmp_path):
    """A network of this test's own, because its nodes' whole history counts."""
    simulated = new_network(tmp_path / "network", ["alice", "bob"])
    asyncio.run(start_simulated(simulated))
    try:
        yield simulated
    finally:
        asyncio.run(simulated.stop())


def received_ids(node: Node) -> list[str]:
    messages = node.get("/v1/messages?direction=in&limit=1000").json["messages"]
    return sorted(message["id"] for message in messages)


def send(sender: Node, recipient: Node, count: int) -> list[str]:
    body = {"msg": "aGVsbG8=", "pubkey": recipient.pubkey}
    return [sender.post("/v1/message/send", body).json["id"] for _ in range(count)]


def settled_ids(node: Node) -> list[str]:
    messages = node.get("/v1/messages?direction=out&state=settled&limit=1000").json["messages"]
    return sorted(message["id"] for message in messages)


def test_what_came_while_the_node_was_down_is_delivered_once(own_network, tmp_path):
    with Node(own_network.nodes["alice"], tmp_path / "alice") as alice:
        bob = Node(own_network.nodes["bob"], tmp_path / "bob")
        with bob:
            ids = send(alice, bob, 3)
            bob.wait_until(lambda: received_ids(bob) == sorted(ids))
        ids += send(alice, bob, 30)
        alice.wait_until(lambda: settled_ids(alice) == sorted(ids))
        with bob:
            bob.wait_until(lambda: received_ids(bob) == sorted(ids))
            ids += send(alice, bob, 3)
            bob.wait_until(lambda: received_ids(bob) == sorted(ids))
        with bob:
            assert received_ids(bob) == sorted(ids)


async def exchange(simulated: SimulatedNetwork) -> None:
    """The same addresses and credentials, other nodes."""
    await simulated.kill()
    for file in simulated.directory.glob("simulator.sqlite3*"):
        file.unlink()
    await start_simulated(simulated)


def test_another_lnd_at_the_same_address_ends_the_node(own_network, tmp_path):
    """Its signatures and payments would be another's."""
    with Node(own_network.nodes["alice"], tmp_path / "alice") as alice:
        asyncio.run(exchange(own_network))
        alice.ended_by_itself()
        assert "start this node again" in alice.log


def test_payments_from_before_the_first_start_are_no_news(own_network, tmp_path):
    with Node(own_network.nodes["alice"], tmp_path / "alice") as alice:
        bob = Node(own_network.nodes["bob"], tmp_path / "bob")
        old = send(alice, bob, 5)
        alice.wait_until(lambda: settled_ids(alice) == sorted(old))
        with bob:
            new = send(alice, bob, 1)
            bob.wait_until(lambda: received_ids(bob) == new)
