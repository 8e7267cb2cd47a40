"""Nobody makes a node pay more than they have paid it: strangers who try, by what the node's own lnd says of its payments; and
honest ones, who are answered over several hops.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from coincurve import PrivateKey

from lightning.simulator.process import SimulatedNetwork
from protos import envelope_pb2
from tests.support.federations import federate, row, state
from tests.support.networks import Network, new_network, start_simulated
from tests.support.nodes import SERVICES, Node
from tests.support.records import item, packet, sealed
from tests.support.strangers import StrangeNode, payments_of
from tests.support.streams import WebsocketStream, b64, data_of

VPN, FEDERATE, MESSAGE = SERVICES["vpn"], SERVICES["federate"], SERVICES["message"]
REQUEST = json.dumps({"type": "request", "imp_id": "x", "ttl": 60}).encode()
QUOTE_REQUEST = b'{"type":"quote_request"}'
STRANGERS = [f"stranger{number}" for number in range(7)]


@contextmanager
def running_network(directory: Path, names: list[str], **options) -> Iterator[SimulatedNetwork]:
    simulated = new_network(directory, names, **options)
    asyncio.run(start_simulated(simulated))
    try:
        yield simulated
    finally:
        asyncio.run(simulated.stop())


@pytest.fixture
def star(tmp_path) -> Iterator[SimulatedNetwork]:
    """A victim, whose channel peers are all strangers, and a friend."""
    with running_network(
        tmp_path / "network", ["victim", "friend", *STRANGERS], topology="star"
    ) as simulated:
        yield simulated


def dropped(node: Node, service: str, reason: str) -> int:
    """How many records of this kind the node has dropped since its start."""
    name = f'impervious_records_dropped_total{{reason="{reason}",service="{service}"}}'
    found = [line for line in node.get("/metrics").body.decode().splitlines() if line.startswith(name)]
    return int(float(found[0].rpartition(" ")[2])) if found else 0


def received(node: Node) -> int:
    return len(node.get("/v1/messages?direction=in&limit=1000").json["messages"])


def settled_all(node: Node) -> bool:
    """Nothing of its own is on the way any more."""
    messages = node.get("/v1/messages?direction=out&limit=1000").json["messages"]
    return all(message["state"] in ("settled", "failed") for message in messages)


def test_fresh_keys_use_up_nobodys_budget(star, tmp_path):
    """One satoshi brings 21 questions to a shop that is closed, of each of seven keys: it answers none."""
    budget = {"lightning": {"daily_budget_sat": 40}}
    with Node(star.nodes["victim"], tmp_path / "victim", extra=budget) as victim:
        for name in STRANGERS:
            free = [item(QUOTE_REQUEST, amount_msat=0) for _ in range(20)]
            StrangeNode(star.nodes[name]).send(victim.pubkey, VPN, item(QUOTE_REQUEST), *free)
        victim.wait_until(lambda: dropped(victim, "vpn", "closed") == len(STRANGERS))
        # A payment that a walk finds before it is stored is read, and counted, once more.
        assert dropped(victim, "vpn", "unpaid") >= 20 * len(STRANGERS)
        friend = star.nodes["friend"].pubkey
        for _ in range(3):
            sent = victim.post("/v1/message/send", {"pubkey": friend, "msg": b64(b"hello")})
            assert sent.status == 200, sent.body
            victim.ended(sent.json["id"])
        assert payments_of(star, "victim").tried == 3


def test_federation_pays_no_more_than_it_was_paid(star, tmp_path):
    """15 requests in each of five payments of a satoshi."""
    with Node(star.nodes["victim"], tmp_path / "victim", extra=federate("Victim")) as victim:
        for name in STRANGERS[:5]:
            requests = [item(REQUEST, amount_msat=0) for _ in range(14)]
            StrangeNode(star.nodes[name]).send(victim.pubkey, FEDERATE, item(REQUEST), *requests)
        victim.wait_until(lambda: dropped(victim, "federate", "unpaid") == 5 * 14)
        victim.wait_until(lambda: received(victim) == 5 and settled_all(victim))
        found = payments_of(star, "victim")
        assert (found.tried, found.paid_msat, found.largest_msat) == (5, 5_000, 1_000)
        info = victim.get("/v1/node").json
        assert (info["answersLimitSat"], info["answersUsedSat"]) == ("5", "5")


def test_receivers_that_hold_answers_hold_few(star, tmp_path):
    """They hold half of what there is; a known peer gets its answer, and the node's own messages go out."""
    with Node(star.nodes["victim"], tmp_path / "victim", extra=federate("Victim", max_members=50)) as victim:
        network = Network(star)
        for name in STRANGERS:
            network.command("hold", node=name)
        for _ in range(3):
            for name in STRANGERS:
                StrangeNode(star.nodes[name]).send(victim.pubkey, FEDERATE, item(REQUEST))
        victim.wait_until(lambda: received(victim) == 3 * len(STRANGERS))
        victim.wait_until(lambda: payments_of(star, "victim").in_flight == 8)
        friend = StrangeNode(star.nodes["friend"])
        sent = victim.post("/v1/message/send", {"pubkey": friend.pubkey, "msg": b64(b"hello")}).json["id"]
        assert victim.ended(sent)["state"] == "settled"
        friend.send(victim.pubkey, FEDERATE, item(REQUEST))
        victim.wait_until(lambda: payments_of(star, "victim").paid_msat == 2_000)
        assert payments_of(star, "victim").in_flight == 8
        for name in STRANGERS:
            network.command("release", node=name)
        victim.wait_until(lambda: settled_all(victim))
        found = payments_of(star, "victim")
        assert found.paid_msat <= 1_000 * (3 * len(STRANGERS) + 2)
        assert found.in_flight == 0


def hinted(victim: Node, peer: str, channel: int, number: int) -> bytes:
    """A request of a key that no node has, with a hint that was made up, which demands a fee."""
    hint = envelope_pb2.HopHint(
        node_id=bytes.fromhex(peer), chan_id=channel, fee_base_msat=10_000, fee_ppm=0, cltv_delta=40
    )
    content = envelope_pb2.Packet(items=[item(REQUEST)], reply_hints=[hint]).SerializeToString()
    key = PrivateKey(bytes([number + 1]) * 32)
    return sealed(key, content, recipient=bytes.fromhex(victim.pubkey), record_number=FEDERATE)


@pytest.mark.parametrize("per_hour", [0, 3])
def test_key_that_no_node_has_makes_lnd_try_next_to_nothing(star, tmp_path, per_hour):
    extra = federate("Victim") | {"inbound": {"answers": {"unproven_hints_per_hour": per_hour}}}
    with Node(star.nodes["victim"], tmp_path / "victim", extra=extra) as victim:
        network, peer = Network(star), star.nodes[STRANGERS[0]].pubkey
        keys = 6
        for times in range(2):
            for number in range(keys):
                record = hinted(victim, peer, channel=1_000 + number, number=number)
                end = network.pay(STRANGERS[1], victim.pubkey, {FEDERATE: record})
                assert end["status"] == "SUCCEEDED"
            victim.wait_until(lambda times=times: received(victim) == keys * (times + 1))
        # Without any hint.
        bare = sealed(
            PrivateKey(),
            packet(item(REQUEST)),
            recipient=bytes.fromhex(victim.pubkey),
            record_number=FEDERATE,
        )
        network.pay(STRANGERS[1], victim.pubkey, {FEDERATE: bare})
        victim.wait_until(lambda: received(victim) == 2 * keys + 1 and settled_all(victim))
        found = payments_of(star, "victim")
        assert (found.tried, found.paid_msat) == (per_hour, 0)
        metrics = victim.get("/metrics").body.decode()
        assert 'impervious_answers_dropped_total{reason="unknown_node",service="federate"} 1.0' in metrics
        unproven = 2 * keys - per_hour
        assert (
            f'impervious_answers_dropped_total{{reason="unproven_hint",service="federate"}} {unproven}.0'
            in metrics
        )


def test_honest_strangers_are_answered_over_three_hops(tmp_path):
    """Thanks to what their requests carry; with a satoshi less they would not be."""
    with running_network(tmp_path / "network", ["one", "two", "three", "four"]) as simulated:
        nodes = simulated.nodes
        with (
            Node(nodes["one"], tmp_path / "one", extra=federate("One")) as one,
            Node(nodes["four"], tmp_path / "four", extra=federate("Four")) as four,
        ):
            asked = one.post(
                "/v1/federate/request", {"pubkey": four.pubkey}, {"Idempotency-Key": "once"}
            ).json
            # 1 sat, two hops' fees of a satoshi and a little more each, and 1 sat.
            assert asked["amountSat"] == "4"
            again = one.post(
                "/v1/federate/request", {"pubkey": four.pubkey}, {"Idempotency-Key": "once"}
            ).json
            assert again == asked
            one.wait_until(lambda: state(one, four) == state(four, one) == "member")
            assert row(one, four)["expiresAt"] == row(four, one)["expiresAt"]
            assert payments_of(simulated, "four").paid_msat <= 4_000
            # Who pays just the answer has not paid for its way.
            stranger = StrangeNode(nodes["two"])
            stranger.send(four.pubkey, FEDERATE, item(REQUEST), amount_sat=1)
            four.wait_until(lambda: received(four) == 2 and settled_all(four))
            assert payments_of(simulated, "four").paid_msat <= 4_000


def test_price_is_a_price(star, tmp_path):
    """A refusal of this node lets nothing in below the price, however often it is named."""
    extra = federate("Victim", accept="known") | {"inbound": {"federate": {"min_amount_sat": 30}}}
    with Node(star.nodes["victim"], tmp_path / "victim", extra=extra) as victim:
        stranger = StrangeNode(star.nodes[STRANGERS[0]])
        with WebsocketStream(victim) as stream:
            stranger.send(victim.pubkey, FEDERATE, item(REQUEST, amount_msat=30_000), amount_sat=30)
            told = stream.until(
                lambda event: event["serviceType"] == "federate" and b"refuse" in data_of(event)
            )
        assert told
        victim.wait_until(lambda: settled_all(victim))
        (refusal,) = victim.get("/v1/messages?direction=out&service=federate").json["messages"]
        for _ in range(2):
            replies = [
                item(REQUEST, reply_to=bytes.fromhex(refusal["id"].replace("-", "")), amount_msat=1_000)
                for _ in range(10)
            ]
            stranger.send(victim.pubkey, FEDERATE, *replies, amount_sat=10)
        stranger.send(victim.pubkey, MESSAGE, item(b"the end"))
        victim.wait_until(lambda: received(victim) >= 2)
        assert received(victim) == 2
