"""kill -9 of the seller, the buyer and all lnds at each step of a purchase and of a refresh: in the end the lease is
active and its invoice settled, once, or neither.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lightning.simulator.process import SimulatedNetwork
from tests.support.databases import execute
from tests.support.examples import pairs
from tests.support.nodes import Node
from tests.support.vpn_market import (
    CONTRACT,
    REFRESH,
    Shop,
    Stranger,
    as_stored,
    ask_quote,
    bought,
    buy,
    leases,
    make_due,
    one,
    open_shop,
    post,
    running_network,
    wait_for_shop,
    wait_until_freed,
)

SOLD, BOUGHT = "seller", "buyer"
LEASE = "SELECT state FROM vpn_lease ORDER BY id DESC LIMIT 1"
TERM = "SELECT state FROM vpn_term ORDER BY id DESC LIMIT 1"
PURCHASE = "SELECT state FROM vpn_purchase ORDER BY created_at DESC LIMIT 1"
# Each step: at which node the killing waits for which row to come to one of these states or beyond, and whether the gate
# before `wg` is shut until then.
STEPS = {
    "contract stored by the buyer": (
        BOUGHT,
        PURCHASE,
        ("asked", "invoiced", "paying", "paid", "done"),
        False,
    ),
    "contract received": (SOLD, TERM, ("wanted", "offered", "held", "settling", "settled"), False),
    "invoice made": (SOLD, TERM, ("offered", "held", "settling", "settled"), False),
    "invoice received": (BOUGHT, PURCHASE, ("invoiced", "paying", "paid", "done"), False),
    "payment begun": (BOUGHT, PURCHASE, ("paying", "paid", "done"), True),
    "payment held, peer not added": (SOLD, LEASE, ("provisioning",), True),
    "payment being taken": (SOLD, TERM, ("settling", "settled"), False),
    "payment taken": (SOLD, TERM, ("settled",), False),
    "lease received": (BOUGHT, PURCHASE, ("done",), False),
}
VICTIMS = ("seller", "buyer", "lnds")


class Market:
    def __init__(self, shop: Shop, lnds: SimulatedNetwork, seller: Node, buyer: Node):
        self.shop, self.lnds, self.seller, self.buyer = shop, lnds, seller, buyer

    def kill(self, victim: str) -> None:
        if victim == "lnds":
            asyncio.run(self._restart_lnds())
            return
        node = {"seller": self.seller, "buyer": self.buyer}[victim]
        node.kill()
        node.start()

    async def _restart_lnds(self) -> None:
        await self.lnds.kill()
        await self.lnds.start()
        await self.lnds.control.close()

    def wait_for(self, step: str) -> None:
        side, statement, states, _ = STEPS[step]
        node = {SOLD: self.seller, BOUGHT: self.buyer}[side]
        node.wait_until(lambda: one(node, statement) in states)


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> Iterator[Market]:
    directory = tmp_path_factory.mktemp("kills")
    with ExitStack() as stack:
        shop = stack.enter_context(open_shop(directory))
        lnds = stack.enter_context(running_network(directory / "network", ["seller", "buyer"]))
        seller = stack.enter_context(Node(lnds.nodes["seller"], directory / "seller", extra=shop.config()))
        buyer = stack.enter_context(Node(lnds.nodes["buyer"], directory / "buyer"))
        wait_for_shop(seller)
        yield Market(shop, lnds, seller, buyer)


def ended(market: Market, contract_id: str) -> str:
    """The word "active" or "nothing", once both sides and lnd agree."""

    def outcome() -> str:
        term = one(market.seller, f"SELECT state FROM vpn_term {_by_id(market.seller, contract_id)}")
        purchase = one(
            market.buyer, f"SELECT state FROM vpn_purchase {_by_id(market.buyer, contract_id, 'id')}"
        )
        payment = one(
            market.buyer,
            f"SELECT p.state FROM invoices_invoicepayment p JOIN vpn_purchase v ON v.payment_hash = p.payment_hash "
            f"{_by_id(market.buyer, contract_id, 'v.id')}",
        )
        if (term, purchase, payment) == ("settled", "done", "settled"):
            return "active"
        if term in (None, "canceled") and purchase == "refused" and payment in (None, "failed"):
            return "nothing"
        return ""

    market.buyer.wait_until(outcome)
    return outcome()


def _by_id(node: Node, identity: str, column: str = "contract_id") -> str:
    return f"WHERE {column} = '{as_stored(node, identity)}'"


def settled_sat(market: Market) -> int:
    return Stranger(market.lnds.nodes["seller"]).paid_sat()


@pytest.mark.parametrize(("step", "victim"), pairs(list(STEPS), VICTIMS))
def test_a_purchase_that_is_killed(market: Market, step: str, victim: str, record_property):
    # Its `wg` may have waited for so long that it sold nothing.
    wait_for_shop(market.seller)
    quote = ask_quote(market.buyer, market.seller)
    before = settled_sat(market)
    with ExitStack() as stack:
        if STEPS[step][3]:
            stack.enter_context(market.shop.shut())
        contract_id = post(
            market.buyer, CONTRACT, pubkey=market.seller.pubkey, nonce=quote["nonce"], price="3000"
        )
        market.wait_for(step)
        market.kill(victim)
    outcome = ended(market, contract_id)
    record_property("outcome", outcome)
    assert settled_sat(market) - before == (3_000 if outcome == "active" else 0)
    mine = [row for row in leases(market.buyer) if row["id"] == contract_id]
    assert bool(mine) == (outcome == "active")
    if mine:
        assert market.shop.peers()[mine[0]["publicKey"]] == mine[0]["address"]
    else:
        keys = {
            row[0]
            for row in execute(
                market.seller.database_url, "SELECT wg_key FROM vpn_lease WHERE state = 'canceled'"
            )
        }
        market.seller.wait_until(lambda: not keys & set(market.shop.peers()))


@pytest.mark.parametrize("victim", ["seller", "buyer"])
def test_a_lease_that_ends_while_a_node_is_away(market: Market, victim: str):
    """Both are told at the end, and the peer is gone, whoever was away."""
    lease = buy(market.buyer, market.seller, 3_000)
    key = bought(market.buyer, lease["id"])["publicKey"]
    node = market.seller if victim == "seller" else market.buyer
    node.kill()
    make_due(market.seller, lease["id"], "warns_at", "expires_at")
    if victim == "buyer":
        market.seller.wait_until(lambda: key not in market.shop.peers())
    else:
        assert key in market.shop.peers()
    node.start()
    market.seller.wait_until(lambda: key not in market.shop.peers())
    market.buyer.wait_until(lambda: bought(market.buyer, lease["id"])["state"] == "ended")
    wait_until_freed(market.seller, lease["id"])


@pytest.mark.parametrize(
    ("state", "victim"), pairs(["wanted", "offered", "held", "settling", "settled"], VICTIMS)
)
def test_a_refresh_that_is_killed_counts_once(market: Market, state: str, victim: str, record_property):
    lease = buy(market.buyer, market.seller, 3_000)
    nonce = bought(market.buyer, lease["id"])["nonce"]
    order = ["wanted", "offered", "held", "settling", "settled"]
    refresh_id = post(market.buyer, REFRESH, pubkey=market.seller.pubkey, nonce=nonce, price="100")
    market.seller.wait_until(
        lambda: (
            one(market.seller, f"SELECT state FROM vpn_term {_by_id(market.seller, refresh_id)}")
            in order[order.index(state) :]
        )
    )
    market.kill(victim)
    outcome = ended(market, refresh_id)
    record_property("outcome", outcome)
    rows = execute(
        market.seller.database_url,
        f"SELECT SUM(t.seconds), COUNT(*) FROM vpn_term t JOIN vpn_lease l ON l.id = t.lease_id "
        f"{_by_id(market.seller, lease['id'], 'l.contract_id')} AND t.state = 'settled'",
    )
    assert rows == [(3_100, 2) if outcome == "active" else (3_000, 1)]
    listed = bought(market.buyer, lease["id"])
    assert (listed["expiresAt"] > lease["expires_at"]) == (outcome == "active")
