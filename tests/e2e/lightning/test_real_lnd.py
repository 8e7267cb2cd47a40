"""Whole nodes on real lnds: what the simulator stands for elsewhere is tried on the thing itself."""

import base64
import dataclasses
import hashlib
import http.client
import json
import os
import threading

import pytest

from protos.invoicesrpc import invoices_pb2
from protos.lnrpc import lightning_pb2
from tests.support.lnd_rpc import BareClient
from tests.support.loops import LoopThread, running
from tests.support.nodes import Node
from tests.support.real_lnd import RealNetwork, available
from tests.support.streams import WebsocketStream, is_end

pytestmark = [
    pytest.mark.real_lnd,
    pytest.mark.skipif(not available(), reason="real_lnd: lnd and btcd are not on PATH; not run"),
]


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
    with running(real, loop):
        yield real


@pytest.fixture(scope="module")
def alice(network, tmp_path_factory):
    with Node(network.nodes["alice"], tmp_path_factory.mktemp("alice")) as node:
        yield node


@pytest.fixture(scope="module")
def bob(network, tmp_path_factory):
    with Node(network.nodes["bob"], tmp_path_factory.mktemp("bob")) as node:
        yield node


def until(stream: WebsocketStream, message_id: str, service_type: str) -> dict:
    """The event of this id and type; of deliveries the one that ends it."""
    if service_type == "delivery":
        return stream.until(is_end(message_id))[-1]
    return stream.until(lambda event: (event["id"], event["serviceType"]) == (message_id, service_type))[-1]


def send(sender: Node, pubkey: str, **fields) -> str:
    reply = sender.post("/v1/message/send", {"msg": "aGVsbG8=", "pubkey": pubkey, **fields})
    assert reply.status == 200, reply.body
    return reply.json["id"]


def test_message_is_seen_on_the_far_websocket(alice, bob):
    with WebsocketStream(alice) as own, WebsocketStream(bob) as far:
        message_id = send(alice, bob.pubkey, amount=7)
        event = until(far, message_id, "message")
        assert (event["fromPubkey"], event["data"], event["amount"]) == (alice.pubkey, "aGVsbG8=", "7")
        delivery = until(own, message_id, "delivery")
    assert delivery["replyToId"] == ""
    stored = alice.message(message_id)
    assert (stored["state"], stored["attempts"], stored["feeMsat"]) == ("settled", "1", "0")


def test_node_that_takes_no_keysend(alice, network):
    with WebsocketStream(alice) as own:
        message_id = send(alice, network.nodes["mute"].pubkey)
        until(own, message_id, "delivery")
    stored = alice.message(message_id)
    assert stored["state"] == "failed"
    assert "keysend" in stored["error"]


@pytest.mark.parametrize("size", [900, 1_000, 1_100, 20_000])
def test_message_of_any_length_arrives_as_estimated(alice, bob, size):
    body = os.urandom(size)
    estimate = alice.get(f"/v1/message/estimate?pubkey={bob.pubkey}&size={size}").json
    with WebsocketStream(bob) as far:
        message_id = send(alice, bob.pubkey, msg=base64.b64encode(body).decode())
        assert base64.b64decode(until(far, message_id, "message")["data"]) == body
    alice.wait_until(lambda: alice.message(message_id)["state"] == "settled")
    sent = alice.message(message_id)
    assert (sent["parts"], sent["feeMsat"], estimate["hops"]) == (estimate["parts"], estimate["feeMsat"], "1")


@pytest.mark.parametrize("size", [5, 3_000])
def test_node_with_a_private_channel_only_is_answered(alice, network, tmp_path, size):
    with Node(network.nodes["carol"], tmp_path / "carol") as carol:
        with WebsocketStream(alice) as stream:
            question = send(carol, alice.pubkey)
            until(stream, question, "message")
        body = base64.b64encode(os.urandom(size)).decode()
        with WebsocketStream(carol) as stream:
            answer = send(alice, carol.pubkey, msg=body, replyToId=question)
            assert until(stream, answer, "message")["data"] == body
        alice.wait_until(lambda: alice.message(answer)["state"] == "settled")
        assert int(alice.message(answer)["feeMsat"]) > 0


def test_what_came_while_the_node_was_down(alice, bob):
    bob.kill()
    ids = {send(alice, bob.pubkey) for _ in range(10)}
    alice.wait_until(lambda: {alice.message(one)["state"] for one in ids} == {"settled"})
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
    ("change", "told"),
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
        name: values.get(value, getattr(other, name) if value == "other" else value)
        for name, value in change.items()
    }
    node = Node(dataclasses.replace(network.nodes["alice"], **change), tmp_path / "node")
    assert told in node.refused_start()


def test_keysend_switched_off(network, tmp_path):
    node = Node(network.nodes["mute"], tmp_path / "node")
    assert "accept-keysend=true" in node.refused_start()


def verified_by_lnd(loop, node: Node, msg: bytes, signature: str) -> tuple[bool, str]:
    """What lnd itself, past the node, says of a signature."""
    request = lightning_pb2.VerifyMessageRequest(msg=msg, signature=signature)
    answer = loop.run(asked(node.lnd, lambda lnd: lnd.lightning.VerifyMessage(request)))
    return answer.valid, answer.pubkey


def signed_by_lnd(loop, lnd_node, msg: bytes) -> str:
    request = lightning_pb2.SignMessageRequest(msg=msg)
    return loop.run(asked(lnd_node, lambda lnd: lnd.lightning.SignMessage(request))).signature


def verified(node: Node, msg: str, signature: str, **fields) -> tuple[bool, str]:
    reply = node.post("/v1/verify", {"msg": msg, "signature": signature, **fields})
    assert reply.status == 200, reply.body
    return reply.json["result"], reply.json["pubkey"]


@pytest.mark.parametrize("msg", ["hello", "grüße \0 😀 "], ids=repr)
def test_signatures_are_those_of_lnd(alice, bob, network, loop, msg):
    signature = alice.post("/v1/sign", {"msg": msg}).json["signature"]
    assert verified_by_lnd(loop, bob, msg.encode(), signature) == (True, alice.pubkey)
    assert verified(bob, msg, signature) == (True, alice.pubkey)
    of_bob = signed_by_lnd(loop, network.nodes["bob"], msg.encode())
    assert verified(alice, msg, of_bob) == (True, bob.pubkey)
    # Tampered with, both see the same stranger.
    valid, stranger = verified_by_lnd(loop, alice, msg.encode() + b"!", of_bob)
    assert verified(alice, msg + "!", of_bob) == (valid, stranger)
    assert not valid
    assert stranger not in ("", bob.pubkey)


def test_signature_of_a_node_outside_of_the_graph(alice, network, loop):
    hidden = network.nodes["carol"]
    signature = signed_by_lnd(loop, hidden, b"from nowhere")
    valid, pubkey = verified_by_lnd(loop, alice, b"from nowhere", signature)
    assert (valid, pubkey) == (False, hidden.pubkey)
    assert verified(alice, "from nowhere", signature, pubkey=hidden.pubkey) == (True, hidden.pubkey)


def test_what_lnd_does_not_take_for_a_signature_is_refused(alice, loop):
    def zbase32(raw: bytes) -> str:
        table = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "ybndrfg8ejkmcpqxot1uwisza345h769")
        return base64.b32encode(raw).decode().translate(table)

    candidates = [
        bytes([header]) + r + s
        for header in (0, 26, 27, 30, 31, 34, 35, 255)
        for r in (bytes(32), b"\xff" * 32, b"\x07" * 32, bytes(31) + b"\x05")
        for s in (bytes(32), b"\xff" * 32, b"\x07" * 32)
    ]
    for raw in candidates:
        _, pubkey = verified_by_lnd(loop, alice, b"hello", zbase32(raw))
        reply = alice.post("/v1/verify", {"msg": "hello", "signature": zbase32(raw)})
        assert reply.json.get("pubkey", "") == pubkey, raw.hex()
        assert reply.status == (200 if pubkey else 400)


GENERATE, PAY, CHECK = (f"/v1/lightning/{name}invoice" for name in ("generate", "pay", "check"))


def invoice_of(node: Node, amount: int = 21, **fields) -> dict:
    reply = node.post(GENERATE, {"amount": amount, **fields})
    assert reply.status == 200, reply.body
    return reply.json


def lightning_events(node: Node, invoice_id: str) -> list[dict]:
    """All of this invoice in the log so far: a message behind them marks their end."""
    marker = send(node, "02" + "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
    found = []
    with WebsocketStream(node, "?after=0") as stream:
        while True:
            event = stream.event()
            if event["id"] == marker:
                return found
            if event["id"] == invoice_id:
                found.append(event)


def test_invoice_is_paid_once_and_told_once(alice, bob):
    made = invoice_of(bob, 21, memo="zwei Kaffee ☕")
    assert bob.post(CHECK, {"invoice": made["invoice"]}).json["state"] == "open"
    with WebsocketStream(bob) as stream:
        paid = alice.post(PAY, {"invoice": made["invoice"]})
        assert paid.status == 200, paid.body
        event = until(stream, made["id"], "lightning")
    assert hashlib.sha256(bytes.fromhex(paid.json["preimage"])).hexdigest() == made["paymentHash"]
    assert (event["amount"], json.loads(base64.b64decode(event["data"]))["memo"]) == ("21", "zwei Kaffee ☕")
    assert alice.post(PAY, {"invoice": made["invoice"]}).json == paid.json
    checked = bob.post(CHECK, {"invoice": made["invoice"]}).json
    assert (checked["paid"], checked["amountPaidMsat"], checked["memo"]) == (True, "21000", "zwei Kaffee ☕")
    bob.kill()
    bob.start()
    assert len(lightning_events(bob, made["id"])) == 1


def test_invoice_paid_while_the_node_was_down(alice, bob):
    made = invoice_of(bob, 0)
    assert "amount: is missing" in alice.post(PAY, {"invoice": made["invoice"]}).json["message"]
    bob.kill()
    assert alice.post(PAY, {"invoice": made["invoice"], "amount": 33}).json["amountMsat"] == "33000"
    bob.start()
    bob.wait_until(lambda: len(lightning_events(bob, made["id"])) == 1)


def test_node_is_killed_while_it_pays(alice, bob, loop):
    """The payee holds the payment (a hold invoice) while the payer's node is killed and asked again."""
    preimage = os.urandom(32)
    payment_hash = hashlib.sha256(preimage).digest()
    hold = invoices_pb2.AddHoldInvoiceRequest(hash=payment_hash, value=44)
    invoice = loop.run(asked(bob.lnd, lambda lnd: lnd.invoices.AddHoldInvoice(hold))).payment_request
    paying = threading.Thread(target=post_or_none, args=(alice, invoice))
    paying.start()
    bob.wait_until(lambda: bob.post(CHECK, {"invoice": invoice}).json["state"] == "accepted")
    alice.kill()
    paying.join()
    alice.start()
    waiting = alice.post(PAY, {"invoice": invoice, "timeout": 1})
    assert (waiting.status, waiting.json["code"]) == (504, 4)
    settle = invoices_pb2.SettleInvoiceMsg(preimage=preimage)
    loop.run(asked(bob.lnd, lambda lnd: lnd.invoices.SettleInvoice(settle)))
    assert alice.post(PAY, {"invoice": invoice}).json["preimage"] == preimage.hex()
    checked = bob.post(CHECK, {"invoice": invoice}).json
    assert (checked["paid"], checked["amountPaidMsat"]) == (True, "44000")


def post_or_none(node: Node, invoice: str):
    try:
        return node.post(PAY, {"invoice": invoice})
    except (OSError, http.client.HTTPException):
        return None


async def asked(lnd_node, call):
    async with BareClient(lnd_node) as lnd:
        return await call(lnd)


def test_invoices_that_are_not_paid(alice, bob):
    expiring = invoice_of(bob, 5, expiresIn=1)
    own = invoice_of(alice, 5)["invoice"]
    good = invoice_of(bob, 5)["invoice"]
    bob.wait_until(lambda: bob.post(CHECK, {"invoice": expiring["invoice"]}).json["state"] == "canceled")
    wrong = {
        own: "invoice: is this node's own",
        expiring["invoice"]: "invoice: expired at",
        good[:-1]: "invoice: its checksum is wrong",
        MAINNET: "invoice: is for mainnet (lnbc…), this node is on simnet",
    }
    for invoice, words in wrong.items():
        reply = alice.post(PAY, {"invoice": invoice})
        assert (reply.status, reply.json["code"]) == (400, 3)
        assert reply.json["message"].startswith(words)
    reply = alice.post(CHECK, {"invoice": good})
    assert (reply.status, reply.json["message"]) == (404, "invoice: is not of this node")
    longest = "ü" * 319 + "!"
    assert bob.post(CHECK, {"invoice": invoice_of(bob, 1, memo=longest)["invoice"]}).json["memo"] == longest


# The first example of BOLT11.
MAINNET = (
    "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqw"
    "zqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk"
    "8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql"
)


def test_node_with_private_channels_is_paid_by_an_invoice_with_hints(alice, network, tmp_path):
    with Node(network.nodes["carol"], tmp_path / "carol") as carol:
        made = invoice_of(carol, 9)
        reply = alice.post(PAY, {"invoice": made["invoice"]})
        assert reply.status == 200, reply.body
        assert int(reply.json["feeMsat"]) > 0
        carol.wait_until(lambda: len(lightning_events(carol, made["id"])) == 1)


def test_federation_broadcast_and_relay(alice, bob):
    with WebsocketStream(alice) as own, WebsocketStream(bob) as far:
        request = alice.post("/v1/federate/request", {"pubkey": bob.pubkey}).json["id"]
        asked = until(own, request, "federate")
        assert json.loads(base64.b64decode(asked["data"]))["type"] == "request"
        accepted = until(own, request, "federate")
        assert json.loads(base64.b64decode(accepted["data"]))["type"] == "accept"
        (sent,) = alice.post("/v1/message/broadcast", {"msg": "aGVsbG8="}).json["messages"]
        assert until(far, sent["id"], "message")["data"] == "aGVsbG8="
        relay = alice.post("/v1/socket/start").json
        offer = alice.post("/v1/socket/sendRequest", {"pubkey": bob.pubkey}).json["id"]
        assert json.loads(base64.b64decode(until(far, offer, "socket")["data"])) == {
            "recordId": "SOCKET",
            **relay,
        }
        assert alice.post("/v1/socket/stop").json == {}
        left = bob.post("/v1/federate/leave", {"pubkey": alice.pubkey}).json["id"]
        until(own, left, "federate")
    assert alice.get("/v1/federate").json["federations"] == []
