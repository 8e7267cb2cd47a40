"""Whole nodes on real lnds, each with the macaroon that lncli bakes by the line of `./impervious macaroon`."""

import base64
import dataclasses
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lightning.rpcs import ONLY_FOR, Rpc
from tests.support.loops import LoopThread, running
from tests.support.macaroons import GUARD_SECONDS, all_but, printed
from tests.support.nodes import Node
from tests.support.real_lnd import RealNetwork, available
from tests.support.streams import WebsocketStream, data_of, is_end, send
from tests.support.vpn_market import REFRESH, answer, buy, one, open_shop, post, told, wait_for_shop

pytestmark = [
    pytest.mark.real_lnd,
    pytest.mark.skipif(not available(), reason="real_lnd: lnd and btcd are not on PATH; not run"),
]


def bake(lnd, directory, line: str):
    """Runs the line as it is; lncli's own variables tell it which lnd. The same lnd with what it made."""
    directory.mkdir(parents=True, exist_ok=True)
    environ = os.environ | {
        "LNCLI_RPCSERVER": f"{lnd.host}:{lnd.port}",
        "LNCLI_TLSCERTPATH": str(lnd.tls_cert_path),
        "LNCLI_MACAROONPATH": str(lnd.macaroon_path),
        "HOME": str(directory),
    }
    subprocess.run(
        line,
        shell=True,
        check=True,
        cwd=directory,
        env=environ,
        stdout=subprocess.DEVNULL,
        timeout=GUARD_SECONDS,
    )
    return dataclasses.replace(lnd, macaroon_path=directory / "impervious.macaroon")


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Iterator[RealNetwork]:
    real = RealNetwork(
        tmp_path_factory.mktemp("real"),
        ["seller", "buyer", "hidden"],
        channels=[("buyer", "seller"), ("seller", "hidden")],
        private=["hidden"],
    )
    with running(real, LoopThread()):
        yield real


@pytest.fixture(scope="module")
def market(network, tmp_path_factory) -> Iterator[tuple[Node, Node]]:
    directory = tmp_path_factory.mktemp("market")
    line = printed(cwd=directory)
    lnds = {name: bake(network.nodes[name], directory / name, line) for name in ("seller", "buyer")}
    with ExitStack() as stack:
        shop = stack.enter_context(open_shop(directory))
        seller = stack.enter_context(Node(lnds["seller"], directory / "seller", extra=shop.config()))
        buyer = stack.enter_context(Node(lnds["buyer"], directory / "buyer"))
        wait_for_shop(seller)
        yield seller, buyer
        for node in (seller, buyer):
            assert "does not permit" not in node.log
            assert "permission" not in node.log


@pytest.mark.parametrize("body", [b"short", os.urandom(5_000)], ids=["short", "long"])
def test_messages_both_ways(market, body):
    for sender, recipient in (market, market[::-1]):
        with WebsocketStream(sender) as own, WebsocketStream(recipient) as far:
            message_id = send(sender, recipient, body)
            assert data_of(far.until(lambda event: event["id"] == message_id)[-1]) == body
            own.until(is_end(message_id))


def test_estimate_signature_and_invoices(market):
    seller, buyer = market
    estimate = buyer.get(f"/v1/message/estimate?pubkey={seller.pubkey}&size=20000").json
    assert estimate["reachable"]
    assert int(estimate["parts"]) > 1
    signature = buyer.post("/v1/sign", {"msg": "hello"}).json["signature"]
    assert seller.post("/v1/verify", {"msg": "hello", "signature": signature}).json["pubkey"] == buyer.pubkey
    for payer, payee in ((seller, buyer), (buyer, seller)):
        made = payee.post("/v1/lightning/generateinvoice", {"amount": 21, "memo": "tea"}).json
        with WebsocketStream(payee) as stream:
            paid = payer.post("/v1/lightning/payinvoice", {"invoice": made["invoice"]})
            assert paid.status == 200, paid.body
            stream.until(lambda event: event["id"] == made["id"])
        assert payee.post("/v1/lightning/checkinvoice", {"invoice": made["invoice"]}).json["paid"]


def test_a_lease_is_bought_by_a_hold_invoice_and_refreshed(market):
    seller, buyer = market
    lease = buy(buyer, seller, 600)
    assert lease["seconds"] == 600
    nonce = one(buyer, "SELECT nonce FROM vpn_purchasedlease")
    with WebsocketStream(buyer) as stream:
        refresh_id = post(buyer, REFRESH, pubkey=seller.pubkey, nonce=nonce, price="100")
        assert told(answer(stream, refresh_id, "lease"))["seconds"] == 100


def test_node_with_a_private_channel_only_is_answered(network, market, tmp_path):
    _, buyer = market
    without_vpn = {
        "service_list": [{"service_type": "message", "active": True, "custom_record_number": 400000}]
    }
    hidden = Node(network.nodes["hidden"], tmp_path / "hidden", extra=without_vpn)
    line = printed("--config", str(hidden.config_path), cwd=tmp_path)
    assert not [rpc for rpc in ONLY_FOR if rpc.path in line]
    hidden = Node(
        bake(network.nodes["hidden"], tmp_path / "baked", line), tmp_path / "hidden", extra=without_vpn
    )
    with hidden, WebsocketStream(buyer) as stream, WebsocketStream(hidden) as answers:
        question = send(hidden, buyer)
        stream.until(lambda event: event["id"] == question)
        body = base64.b64encode(b"found you")
        answer = send(buyer, hidden, body, replyToId=question)
        assert data_of(answers.until(lambda event: event["id"] == answer)[-1]) == body


@pytest.mark.parametrize(
    "missing",
    [(Rpc.TRACK_PAYMENT,), (Rpc.TRACK_PAYMENT, Rpc.CHECK_MACAROON)],
    ids=["asking lnd", "reading it"],
)
def test_too_weak_a_macaroon_is_told_at_start(network, tmp_path, missing):
    line = "lncli bakemacaroon --save_to impervious.macaroon " + " ".join(
        f"uri:{path}" for path in all_but(*missing)
    )
    log = Node(bake(network.nodes["hidden"], tmp_path / "baked", line), tmp_path / "node").refused_start()
    assert "does not permit TrackPaymentV2 (lnd at" in log
    assert "`./impervious macaroon` prints the line" in log
