"""Whole nodes on real lnds: what the simulator stands for elsewhere is tried on the thing itself."""

import asyncio
import base64
import dataclasses
import json
import os
import threading
from concurrent.futures import Future

import pytest
from websockets.sync.client import connect

from tests.support.nodes import Node
from tests.support.real_lnd import RealNetwork, available

pytestmark = [
    pytest.mark.real_lnd,
    pytest.mark.skipif(not available(), reason="real_lnd: lnd and btcd are not on PATH; not run"),
]


class LoopThread:
    """An event loop of its own, because the network's processes belong to one."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, coroutine):
        future: Future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(timeout=300)


@pytest.fixture(scope="module")
def loop():
    return LoopThread()


@pytest.fixture(scope="module")
def network(loop, tmp_path_factory):
    real = RealNetwork(
        tmp_path_factory.mktemp("real"),
        ["alice", "bob", "mute", "carol"],
        channels=[("alice", "bob"), ("bob", "mute"), ("bob", "carol")],
        without_keysend=["mute"],
        private=["carol"],
    )
    loop.run(real.__aenter__())
    yield real
    loop.run(real.stop())


@pytest.fixture(scope="module")
def alice(network, tmp_path_factory):
    with Node(network.nodes["alice"], tmp_path_factory.mktemp("alice")) as node:
        yield node


@pytest.fixture(scope="module")
def bob(network, tmp_path_factory):
    with Node(network.nodes["bob"], tmp_path_factory.mktemp("bob")) as node:
        yield node


def until(stream, message_id: str, service_type: str) -> dict:
    """The event of this id and type; of deliveries the one that ends it."""
    while True:
        event = json.loads(stream.recv(timeout=60))["result"]
        if event["id"] == message_id and event["serviceType"] == service_type:
            return event


def send(sender: Node, pubkey: str, **fields) -> str:
    reply = sender.post("/v1/message/send", {"msg": "aGVsbG8=", "pubkey": pubkey, **fields})
    assert reply.status == 200, reply.body
    return reply.json["id"]


def test_message_is_seen_on_the_far_websocket(alice, bob):
    with connect(f"ws://{alice.http}/v1/subscribe") as own, connect(f"ws://{bob.http}/v1/subscribe") as far:
        message_id = send(alice, bob.pubkey, amount=7)
        event = until(far, message_id, "message")
        assert (event["fromPubkey"], event["data"], event["amount"]) == (alice.pubkey, "aGVsbG8=", "7")
        delivery = until(own, message_id, "delivery")
    assert delivery["replyToId"] == ""
    stored = alice.get(f"/v1/message/{message_id}").json["message"]
    assert (stored["state"], stored["attempts"], stored["feeMsat"]) == ("settled", "1", "0")


def test_node_that_takes_no_keysend(alice, network):
    with connect(f"ws://{alice.http}/v1/subscribe") as own:
        message_id = send(alice, network.nodes["mute"].pubkey)
        until(own, message_id, "delivery")
    stored = alice.get(f"/v1/message/{message_id}").json["message"]
    assert stored["state"] == "failed"
    assert "keysend" in stored["error"]


def message_of(node: Node, message_id: str) -> dict:
    return node.get(f"/v1/message/{message_id}").json["message"]


@pytest.mark.parametrize("size", [900, 1_000, 1_100, 20_000])
def test_message_of_any_length_arrives_as_estimated(alice, bob, size):
    body = os.urandom(size)
    estimate = alice.get(f"/v1/message/estimate?pubkey={bob.pubkey}&size={size}").json
    with connect(f"ws://{bob.http}/v1/subscribe") as far:
        message_id = send(alice, bob.pubkey, msg=base64.b64encode(body).decode())
        assert base64.b64decode(until(far, message_id, "message")["data"]) == body
    alice.wait_until(lambda: message_of(alice, message_id)["state"] == "settled")
    sent = message_of(alice, message_id)
    assert (sent["parts"], sent["feeMsat"], estimate["hops"]) == (estimate["parts"], estimate["feeMsat"], "1")


@pytest.mark.parametrize("size", [5, 3_000])
def test_node_with_a_private_channel_only_is_answered(alice, network, tmp_path, size):
    with Node(network.nodes["carol"], tmp_path / "carol") as carol:
        with connect(f"ws://{alice.http}/v1/subscribe") as stream:
            question = send(carol, alice.pubkey)
            until(stream, question, "message")
        body = base64.b64encode(os.urandom(size)).decode()
        with connect(f"ws://{carol.http}/v1/subscribe") as stream:
            answer = send(alice, carol.pubkey, msg=body, replyToId=question)
            assert until(stream, answer, "message")["data"] == body
        alice.wait_until(lambda: message_of(alice, answer)["state"] == "settled")
        assert int(message_of(alice, answer)["feeMsat"]) > 0


def test_what_came_while_the_node_was_down(alice, bob):
    bob.kill()
    ids = {send(alice, bob.pubkey) for _ in range(10)}
    alice.wait_until(
        lambda: {alice.get(f"/v1/message/{one}").json["message"]["state"] for one in ids} == {"settled"}
    )
    bob.start()
    bob.wait_until(lambda: all(bob.get(f"/v1/message/{one}").status == 200 for one in ids))


def test_receiving_lnd_is_killed_with_messages_under_way(alice, bob, network, loop):
    ids = [send(alice, bob.pubkey) for _ in range(10)]
    loop.run(network.kill("bob"))
    ids += [send(alice, bob.pubkey) for _ in range(10)]
    loop.run(network.start("bob"))
    bob.wait_until(lambda: all(bob.get(f"/v1/message/{one}").status == 200 for one in ids))
    stored = [message["id"] for message in bob.get("/v1/messages?direction=in&limit=1000").json["messages"]]
    assert len(stored) == len(set(stored))


@pytest.mark.parametrize(
    "change, told",
    [
        ({"macaroon_path": "bad.macaroon"}, "macaroon"),
        ({"tls_cert_path": "other"}, "certificate"),
        ({"pubkey": "other"}, "pub_key"),
    ],
)
def test_start_that_cannot_be(change, told, network, tmp_path):
    (tmp_path / "bad.macaroon").write_bytes(b"\x02\x01no macaroon of this lnd")
    other = network.nodes["bob"]
    values = {"bad.macaroon": tmp_path / "bad.macaroon"}
    change = {
        name: values.get(value, getattr(other, name) if value == "other" else value) for name, value in change.items()
    }
    node = Node(dataclasses.replace(network.nodes["alice"], **change), tmp_path / "node")
    node.launch()
    assert node.process.wait(timeout=60) == 1
    assert told in node.log


def test_keysend_switched_off(network, tmp_path):
    node = Node(network.nodes["mute"], tmp_path / "node")
    node.launch()
    assert node.process.wait(timeout=60) == 1
    assert "accept-keysend=true" in node.log
