"""Messages that are longer than a payment has room for: divided, sent in parts, joined at the other end, seen once."""

import asyncio
import os
import random

import pytest
from coincurve import PrivateKey

from lightning.simulator.process import SimulatedNetwork
from tests.support.networks import new_network, start_simulated
from tests.support.nodes import Node
from tests.support.streams import WebsocketStream, data_of, delivery_of, is_end, send


@pytest.mark.parametrize("size", [1_500, 20_000])
def test_long_message_arrives_whole_and_once(alice, bob, size):
    body = random.Random(size).randbytes(size)
    with WebsocketStream(alice) as outgoing, WebsocketStream(bob) as incoming:
        message_id = send(alice, bob, body)
        end = delivery_of(outgoing.until(is_end(message_id))[-1])
        event = incoming.until(lambda event: event["id"] == message_id)[-1]
        last = send(alice, bob)
        after = incoming.until(lambda event: event["id"] == last)
    assert data_of(event) == body
    assert message_id not in {other["id"] for other in after}
    assert (end["state"], end["error"]) == ("settled", "")
    assert end["parts"] > 1
    assert end["attempts"] == end["parts"]
    # A satoshi a part is more than the one that was asked for; the far end is told what was paid in all.
    assert end["amount"] == event["amount"] == str(end["parts"])


def test_amount_is_shared_by_the_parts(alice, bob):
    with WebsocketStream(bob) as incoming:
        message_id = send(alice, bob, os.urandom(3_000), amount=1_001)
        assert incoming.until(lambda event: event["id"] == message_id)[-1]["amount"] == "1001"
    assert alice.ended(message_id)["amount"] == "1001"


def test_long_text_that_compresses_needs_one_payment(alice, bob):
    body = b" ".join(b"line %d: all work and no play makes Jack a dull boy" % number for number in range(200))
    message_id = send(alice, bob, body)
    sent = alice.ended(message_id)
    assert (sent["state"], sent["parts"], sent["attempts"]) == ("settled", "1", "1")


def test_several_hops_need_more_parts(alice, network):
    carol = network.nodes["carol"].pubkey
    near = alice.get(f"/v1/message/estimate?pubkey={network.nodes['bob'].pubkey}&size=20000").json
    far = alice.get(f"/v1/message/estimate?pubkey={carol}&size=20000").json
    assert (near["hops"], far["hops"]) == ("1", "2")
    assert int(far["parts"]) > int(near["parts"])
    message_id = alice.post("/v1/message/send", {"msg": "A" * 4000, "pubkey": carol}).json["id"]
    sent = alice.ended(message_id)
    assert sent["state"] == "settled"
    assert int(sent["feeMsat"]) > 0


def test_largest_message_and_what_is_larger(alice, bob):
    body = random.Random(1).randbytes(1_048_576)
    estimate = alice.get(f"/v1/message/estimate?pubkey={bob.pubkey}&size={len(body)}").json
    with WebsocketStream(bob) as incoming:
        message_id = send(alice, bob, body)
        event = incoming.until(lambda event: event["id"] == message_id)[-1]
    assert data_of(event) == body
    sent = alice.ended(message_id)
    assert sent["state"] == "settled"
    assert (sent["parts"], sent["amount"]) == (estimate["parts"], estimate["amount"])
    refused = alice.get(f"/v1/message/estimate?pubkey={bob.pubkey}&size={len(body) + 1}")
    assert refused.status == 400
    assert refused.json["message"].startswith("size: ")


@pytest.mark.parametrize("size", [1, 500, 900, 1_500, 5_000])
def test_estimate_says_what_it_takes(alice, bob, size):
    estimate = alice.get(f"/v1/message/estimate?pubkey={bob.pubkey}&size={size}&amount=3").json
    assert (estimate["reachable"], estimate["problem"], estimate["keysend"]) == (True, "", True)
    sent = alice.ended(send(alice, bob, os.urandom(size), amount=3))
    assert (sent["parts"], sent["amount"], sent["feeMsat"]) == (
        estimate["parts"],
        estimate["amount"],
        estimate["feeMsat"],
    )
    assert int(estimate["costMsat"]) == int(sent["amount"]) * 1000 + int(sent["feeMsat"])


def test_estimate_for_a_node_that_nobody_knows(alice):
    stranger = PrivateKey(b"\x09" * 32).public_key.format().hex()
    estimate = alice.get(f"/v1/message/estimate?pubkey={stranger}&size=10").json
    assert (estimate["reachable"], estimate["keysend"], estimate["parts"]) == (False, False, "0")
    assert "does not know this node" in estimate["problem"]


def test_estimate_names_the_wrong_field(alice):
    assert alice.get("/v1/message/estimate").json["message"] == "pubkey: is missing"
    negative = alice.get(f"/v1/message/estimate?pubkey={alice.pubkey}&size=-1")
    assert negative.status == 400
    assert negative.json["message"].startswith("size: ")


@pytest.fixture
def pair(tmp_path):
    """Two nodes of this test's own, with the network that they are on."""
    simulated = new_network(tmp_path / "network", ["alice", "bob"])
    asyncio.run(start_simulated(simulated))
    try:
        with (
            Node(simulated.nodes["alice"], tmp_path / "alice") as alice,
            Node(simulated.nodes["bob"], tmp_path / "bob") as bob,
        ):
            yield simulated, alice, bob
    finally:
        asyncio.run(simulated.stop())


def command(simulated: SimulatedNetwork, name: str, **arguments):
    async def run():
        try:
            return await simulated.control.command(name, **arguments)
        finally:
            await simulated.control.close()

    return asyncio.run(run())


def test_parts_survive_both_nodes_being_killed(pair):
    simulated, alice, bob = pair
    command(simulated, "rate", per_second=60)
    bodies = {send(alice, bob, body): body for body in (os.urandom(15_000) for _ in range(3))}
    for node in (alice, bob, alice, bob):
        before = sum(int(alice.message(message_id)["attempts"]) for message_id in bodies)
        alice.wait_until(
            lambda: (
                sum(int(alice.message(message_id)["attempts"]) for message_id in bodies) != before
                or all(alice.message(message_id)["state"] == "settled" for message_id in bodies)
            )
        )
        node.kill()
        node.start()
    assert {alice.ended(message_id)["state"] for message_id in bodies} == {"settled"}
    bob.wait_until(lambda: len(bob.get("/v1/messages?direction=in").json["messages"]) == len(bodies))
    last = send(alice, bob)
    with WebsocketStream(bob, "?after=0") as stream:
        events = stream.until(lambda event: event["id"] == last)
    assert {event["id"]: data_of(event) for event in events[:-1]} == bodies
    assert len(events) == len(bodies) + 1


def test_part_that_fails_for_good_fails_the_message_and_names_what_was_spent(pair):
    simulated, alice, bob = pair
    command(simulated, "rate", per_second=20)
    # Most of a minute long, so that the failure comes in time; behind it nothing is sent.
    message_id = send(alice, bob, os.urandom(900_000))
    alice.wait_until(lambda: int(alice.message(message_id)["attempts"]) > 64)
    command(simulated, "fail", count=1, reason="INCORRECT_PAYMENT_DETAILS")
    sent = alice.ended(message_id)
    assert sent["state"] == "failed"
    assert "sat are spent on" in sent["error"]
    assert "of " + sent["parts"] + " parts" in sent["error"]
    assert int(sent["attempts"]) < int(sent["parts"])
    assert bob.get("/v1/messages?direction=in").json["messages"] == []


def test_message_expires_when_its_recipient_stays_away(pair):
    simulated, alice, bob = pair
    command(simulated, "disconnect", a="alice", b="bob", seconds=600)
    # Long enough to be tried once, on a machine that stands still for some seconds too.
    short = send(alice, bob, expiresIn=20)
    long = send(alice, bob, os.urandom(4_000), expiresIn=20)
    for message_id in (short, long):
        sent = alice.ended(message_id)
        assert sent["state"] == "failed"
        assert sent["error"].startswith("its time is over; last: ")


def test_time_that_is_none_is_refused(alice, bob):
    for seconds in (-1, 86_401):
        reply = alice.post(
            "/v1/message/send", {"msg": "aGVsbG8=", "pubkey": bob.pubkey, "expiresIn": seconds}
        )
        assert reply.status == 400
        assert "expires" in reply.json["message"]
