"""A lease bought between real lnds: hold invoice, settlement and cancellation as lnd itself does them."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack

import pytest

from tests.nodeapi.streams import WebsocketStream
from tests.nodeapi.vpn_market import (
    CONTRACT,
    REFRESH,
    Shop,
    ask_quote,
    leases,
    of_type,
    one,
    open_shop,
    post,
    told,
    wait_for_shop,
)
from tests.support.databases import execute
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
def market(tmp_path_factory) -> Iterator[tuple[Shop, Node, Node]]:
    directory, loop = tmp_path_factory.mktemp("market"), LoopThread()
    real = RealNetwork(tmp_path_factory.mktemp("real"), ["seller", "buyer"], channels=[("buyer", "seller")])
    loop.run(real.__aenter__())
    try:
        with ExitStack() as stack:
            shop = stack.enter_context(open_shop(directory))
            config = shop.config(subnet="10.77.0.0/30")
            seller = stack.enter_context(Node(real.nodes["seller"], directory / "seller", extra=config))
            buyer = stack.enter_context(Node(real.nodes["buyer"], directory / "buyer"))
            wait_for_shop(seller)
            # A seller whose channel the buyer has just opened has nothing to send its answers with.
            reply = buyer.post("/v1/message/send", {"msg": "aGk=", "pubkey": seller.pubkey, "amount": 20_000})
            assert reply.status == 200, reply.body
            yield shop, seller, buyer
    finally:
        loop.run(real.stop())


def test_a_lease_is_bought_refreshed_and_a_payment_for_a_full_pool_given_back(market):
    shop, seller, buyer = market
    with shop.shut(), WebsocketStream(buyer) as stream:
        quotes = [ask_quote(buyer, seller) for _ in range(2)]
        for quote in quotes:
            post(buyer, CONTRACT, pubkey=seller.pubkey, nonce=quote["nonce"], price="600")
        assert "no address is free" in told(stream.until(of_type("refusal"))[-1])["text"]
    seller.wait_until(lambda: one(seller, "SELECT state FROM vpn_lease WHERE state = 'active'"))
    buyer.wait_until(lambda: len(leases(buyer)) == 1)
    payments = "SELECT state FROM invoices_invoicepayment ORDER BY state"
    buyer.wait_until(lambda: execute(buyer.database_url, payments) == [("failed",), ("settled",)])
    lease = leases(buyer)[0]
    assert shop.peers() == {lease["publicKey"]: lease["address"]}
    with WebsocketStream(buyer) as stream:
        post(buyer, REFRESH, pubkey=seller.pubkey, nonce=lease["nonce"], price="100")
        assert told(stream.until(of_type("lease"))[-1])["seconds"] == 100
