"""A node with private channels only is answered: its reply hints travel with what it sends."""

import asyncio

import pytest

from tests.support.databases import execute
from tests.support.networks import new_network, start_simulated
from tests.support.nodes import Node
from tests.support.streams import WebsocketStream, data_of, send


@pytest.fixture
def pair(tmp_path):
    """alice – bob – carol, where carol's channel is private."""
    simulated = new_network(tmp_path / "network", ["alice", "bob", "carol"], private=("carol",))
    asyncio.run(start_simulated(simulated))
    try:
        nodes = simulated.nodes
        with (
            Node(nodes["alice"], tmp_path / "alice") as alice,
            Node(nodes["carol"], tmp_path / "carol") as carol,
        ):
            yield alice, carol
    finally:
        asyncio.run(simulated.stop())


@pytest.mark.parametrize("size", [5, 3_000])
def test_private_node_is_answered(pair, size):
    alice, carol = pair
    unknown = send(alice, carol, expiresIn=60)
    assert alice.ended(unknown)["state"] == "failed"
    with WebsocketStream(alice) as stream:
        question = send(carol, alice, b"q" + bytes(range(256)) * (size // 256))
        stream.until(lambda event: event["id"] == question)
    body = b"a" * size
    with WebsocketStream(carol) as stream:
        answer = send(alice, carol, body, replyToId=question)
        event = stream.until(lambda event: event["id"] == answer)[-1]
    assert (data_of(event), event["replyToId"]) == (body, question)
    assert int(alice.ended(answer)["feeMsat"]) > 0
    # Known from the table, not only from memory.
    alice.kill()
    alice.start()
    assert alice.ended(send(alice, carol))["state"] == "settled"


def test_node_with_a_public_channel_tells_no_hints(alice, bob):
    send(alice, bob)
    bob.wait_until(lambda: bob.get(f"/v1/messages?direction=in&pubkey={alice.pubkey}").json["messages"])
    hints = f"SELECT CAST(reply_hints AS TEXT) FROM messaging_peer WHERE pubkey = '{alice.pubkey}'"
    assert execute(bob.database_url, hints) == [("[]",)]
