"""Leases bought between real lnds: hold invoice, settlement and cancellation as lnd itself does them."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.loops import LoopThread, running
from tests.support.nodes import Node
from tests.support.real_lnd import RealNetwork, available
from tests.support.vpn_market import (
    Shop,
    Stranger,
    buy,
    contract_of,
    make_due,
    one,
    open_shop,
    wait_for_shop,
    wait_until_freed,
)
from tests.support.vpn_purchase import purchase

pytestmark = [
    pytest.mark.real_lnd,
    pytest.mark.skipif(not available(), reason="real_lnd: lnd and btcd are not on PATH; not run"),
]


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> Iterator[tuple[Shop, Node, Node]]:
    """The pool has one address."""
    directory = tmp_path_factory.mktemp("market")
    real = RealNetwork(tmp_path_factory.mktemp("real"), ["seller", "buyer"], channels=[("buyer", "seller")])
    with running(real, LoopThread()), ExitStack() as stack:
        shop = stack.enter_context(open_shop(directory))
        config = shop.config(subnet="10.77.0.0/30")
        seller = stack.enter_context(Node(real.nodes["seller"], directory / "seller", extra=config))
        buyer = stack.enter_context(Node(real.nodes["buyer"], directory / "buyer"))
        wait_for_shop(seller)
        # A seller whose channel the buyer has just opened has nothing to send its answers with.
        reply = buyer.post("/v1/message/send", {"msg": "aGk=", "pubkey": seller.pubkey, "amount": 20_000})
        assert reply.status == 200, reply.body
        yield shop, seller, buyer


def test_the_page_on_vpn_leases(market, tmp_path, monkeypatch):
    shop, seller, buyer = market
    monkeypatch.chdir(tmp_path)
    purchase(shop, seller, buyer, tmp_path)


def test_a_payment_for_a_full_pool_is_given_back(market):
    shop, seller, buyer = market
    early_bird = Stranger(buyer.lnd)
    early = contract_of(early_bird, seller, price="600")
    lease = buy(buyer, seller, 3_000)
    # The only address is taken before the earlier contract is paid.
    assert not early_bird.pays(early["payment_request"])
    seller.wait_until(lambda: one(seller, "SELECT COUNT(*) FROM vpn_term WHERE state = 'canceled'") == 1)
    assert list(shop.peers().values()) == [lease["address"]]
    assert early_bird.heard(lambda body: body.get("reason") == "canceled")
    make_due(seller, lease["id"], "warns_at", "expires_at")
    wait_until_freed(seller, lease["id"])
