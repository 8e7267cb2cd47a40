"""Leases end in time, and nothing runs hot, while the seller's lnd is away; and a seller whose database is behind
its lnd still gives what was paid for.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightning.simulator.process import SimulatedNetwork
from tests.support.databases import execute
from tests.support.nodes import Node
from tests.support.streams import WebsocketStream
from tests.support.vpn_market import (
    REFRESH,
    Shop,
    Stranger,
    answer,
    as_stored,
    bought,
    buy,
    contract_of,
    lease_state,
    make_due,
    one,
    open_shop,
    post,
    running_network,
    wait_for_shop,
    wait_until_freed,
)

LOOKS = 10


@dataclass
class Market:
    shop: Shop
    lnds: SimulatedNetwork
    seller: Node
    buyer: Node
    mallory: Stranger
    calls: Path

    @contextmanager
    def no_lnds(self) -> Iterator[None]:
        asyncio.run(self.lnds.kill())
        try:
            yield
        finally:
            asyncio.run(self._start_lnds())

    async def _start_lnds(self) -> None:
        await self.lnds.start()
        await self.lnds.control.close()

    def calls_of_wg(self) -> int:
        return len(self.calls.read_text())

    def key(self, lease: dict) -> str:
        return bought(self.buyer, lease["id"])["publicKey"]


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> Iterator[Market]:
    directory = tmp_path_factory.mktemp("waiting")
    with ExitStack() as stack:
        shop = stack.enter_context(open_shop(directory))
        lnds = stack.enter_context(running_network(directory / "network", ["mallory", "seller", "buyer"]))
        calls, counting = directory / "calls", directory / "counting"
        counting.write_text(f'#!/bin/sh\nprintf . >> {calls}\nexec {shop.wg} "$@"\n')
        counting.chmod(0o755)
        config = shop.config(binary_path=str(counting))
        seller = stack.enter_context(Node(lnds.nodes["seller"], directory / "seller", extra=config))
        buyer = stack.enter_context(Node(lnds.nodes["buyer"], directory / "buyer"))
        wait_for_shop(seller)
        yield Market(shop, lnds, seller, buyer, Stranger(lnds.nodes["mallory"]), calls)


def test_a_lease_ends_while_lnd_is_away(market: Market):
    """Meanwhile a contract waits for its invoice, in vain."""
    seller = market.seller
    lease = buy(market.buyer, seller, 3_000)
    key = market.key(lease)
    assert contract_of(market.mallory, seller)["type"] == "invoice"
    with market.no_lnds():
        execute(seller.database_url, "UPDATE vpn_term SET state = 'wanted' WHERE state = 'offered'")
        looks = looks_in_vain(seller)
        seller.wait_until(lambda: looks_in_vain(seller) > looks)
        make_due(seller, lease["id"], "warns_at", "expires_at")
        seller.wait_until(lambda: key not in market.shop.peers())
    wait_until_freed(seller, lease["id"])


TOO_MUCH_SAT = 10**14


def test_a_contract_whose_invoice_lnd_refuses_is_canceled(market: Market):
    """It is not asked for again each second, for good."""
    seller = market.seller
    assert contract_of(market.mallory, seller)["type"] == "invoice"
    newest = one(seller, "SELECT max(id) FROM vpn_term WHERE state = 'offered'")
    execute(
        seller.database_url,
        f"UPDATE vpn_term SET state = 'wanted', price_sat = {TOO_MUCH_SAT} WHERE id = {newest}",
    )
    seller.wait_until(lambda: one(seller, f"SELECT state FROM vpn_term WHERE id = {newest}") == "canceled")
    lease = one(seller, f"SELECT lease_id FROM vpn_term WHERE id = {newest}")
    assert one(seller, f"SELECT state FROM vpn_lease WHERE id = {lease}") == "canceled"
    assert f"lnd makes no invoice over {TOO_MUCH_SAT} sat" in seller.log


def test_an_end_that_waits_for_a_refresh_keeps_nobody_busy(market: Market):
    """lnd is away, so that the refresh's payment is neither taken nor given back; the lease goes on until it is."""
    seller = market.seller
    lease = buy(market.buyer, seller, 3_000)
    key, nonce = market.key(lease), bought(market.buyer, lease["id"])["nonce"]
    with WebsocketStream(market.buyer) as stream:
        refresh_id = post(market.buyer, REFRESH, pubkey=seller.pubkey, nonce=nonce, price="100")
        answer(stream, refresh_id, "lease")
    term = f"WHERE contract_id = '{as_stored(seller, refresh_id)}'"
    with market.no_lnds():
        # As it stood just before lnd had taken the payment.
        execute(seller.database_url, f"UPDATE vpn_term SET state = 'settling' {term}")
        make_due(seller, lease["id"], "warns_at", "expires_at")
        seller.wait_until(lambda: lease_state(seller, lease["id"]) == "expiring")
        looks, calls, began = looks_in_vain(seller), market.calls_of_wg(), time.monotonic()
        seller.wait_until(lambda: looks_in_vain(seller) >= looks + LOOKS)
        # The minute's look, of a few calls, may fall into these, but no look at lnd leads to one.
        calls = market.calls_of_wg() - calls
        assert calls < LOOKS + 5 * ((time.monotonic() - began) // 60)
        assert lease_state(seller, lease["id"]) == "expiring"
        assert key in market.shop.peers()
    seller.wait_until(lambda: one(seller, f"SELECT state FROM vpn_term {term}") == "settled")
    # It is over once more now, and nothing is held any more.
    make_due(seller, lease["id"], "warns_at", "expires_at")
    wait_until_freed(seller, lease["id"])


def looks_in_vain(seller: Node) -> int:
    return sum("VPN: lnd at" in line and "trying again" in line for line in seller.log.splitlines())


def test_a_payment_that_lnd_took_before_the_database_came_back_buys_its_lease(market: Market):
    """The database is a copy from when the invoice was not paid yet."""
    seller = market.seller
    lease = buy(market.buyer, seller, 3_000)
    key = market.key(lease)
    seller.stop()
    contract = f"WHERE contract_id = '{as_stored(seller, lease['id'])}'"
    sold = one(seller, f"SELECT id FROM vpn_lease {contract}")
    for statement in (
        f"UPDATE vpn_term SET state = 'offered', held_at = NULL, ended_at = NULL {contract}",
        f"DELETE FROM vpn_address WHERE lease_id = {sold}",
        (
            "UPDATE vpn_lease SET state = 'contracted', addresses = '', holds_key = FALSE, starts_at = NULL, "
            f"warns_at = NULL, expires_at = NULL {contract}"
        ),
    ):
        execute(seller.database_url, statement)
    seller.start()
    seller.wait_until(lambda: lease_state(seller, lease["id"]) == "active")
    assert market.shop.peers()[key] == bought(market.buyer, lease["id"])["address"] == lease["address"]
    assert bought(market.buyer, lease["id"])["expiresAt"] == lease["expires_at"]


def test_a_payment_that_lnd_took_and_that_buys_nothing_is_noted(market: Market):
    """The refresh of a lease that is over, by a database that is behind lnd."""
    seller = market.seller
    lease = buy(market.buyer, seller, 3_000)
    nonce = bought(market.buyer, lease["id"])["nonce"]
    with WebsocketStream(market.buyer) as stream:
        refresh_id = post(market.buyer, REFRESH, pubkey=seller.pubkey, nonce=nonce, price="100")
        answer(stream, refresh_id, "lease")
    make_due(seller, lease["id"], "warns_at", "expires_at")
    wait_until_freed(seller, lease["id"])
    term = f"WHERE contract_id = '{as_stored(seller, refresh_id)}'"
    execute(
        seller.database_url, f"UPDATE vpn_term SET state = 'offered', held_at = NULL, ended_at = NULL {term}"
    )
    seller.wait_until(lambda: one(seller, f"SELECT state FROM vpn_term {term}") == "canceled")
    assert "lnd had taken the payment before" in one(seller, f"SELECT cause FROM vpn_term {term}")
