"""Leases on machines whose clock jumps: none ends early, none runs for ever, whether the node is restarted meanwhile or
not.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta

import pytest

from tests.support.nodes import Node
from tests.support.vpn_market import (
    Shop,
    ask_quote,
    bought,
    buy,
    lease_state,
    make_due,
    one,
    open_shop,
    running_network,
    wait_for_shop,
    wait_until_freed,
)
from tests.support.wrong_clock import WrongClock

DAY_SECONDS = 86_400
JUMPED, BACK = "the clock jumped by", "the clock is back from its jump"


class Market:
    """Each node has a clock of its own that can be set."""

    def __init__(self, shop: Shop, nodes: dict[str, Node], clocks: dict[str, WrongClock]):
        self.shop, self.nodes, self.clocks = shop, nodes, clocks
        self.seller, self.buyer = nodes["seller"], nodes["buyer"]

    def set_clock(self, name: str, seconds: float) -> None:
        """The node has noticed it when this returns."""
        node, words = self.nodes[name], JUMPED if seconds else BACK
        told = node.log.count(words)
        self.clocks[name].shift(seconds)
        node.wait_until(lambda: node.log.count(words) > told)

    def restart(self, name: str) -> None:
        """By kill -9. It notices at once that its clock is not what it was."""
        node = self.nodes[name]
        told = node.log.count(JUMPED)
        node.kill()
        node.start()
        node.wait_until(lambda: node.log.count(JUMPED) > told)

    def look_around(self) -> None:
        """By a message there and back, both nodes have looked after their leases since."""
        for _ in range(2):
            ask_quote(self.buyer, self.seller)

    def runs(self, lease: dict) -> bool:
        listed = bought(self.buyer, lease["id"])
        there = self.shop.peers().get(listed["publicKey"]) == lease["address"]
        return there and lease_state(self.seller, lease["id"]) == "active" == listed["state"]


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> Iterator[Market]:
    directory = tmp_path_factory.mktemp("clocks")
    clocks = {name: WrongClock(directory / f"clock-{name}") for name in ("seller", "buyer")}
    with ExitStack() as stack:
        shop = stack.enter_context(open_shop(directory))
        lnds = stack.enter_context(running_network(directory / "network", list(clocks)))
        extra = {"seller": shop.config(), "buyer": {}}
        nodes = {
            name: stack.enter_context(
                Node(lnds.nodes[name], directory / name, extra=extra[name], environ=clock.environ)
            )
            for name, clock in clocks.items()
        }
        wait_for_shop(nodes["seller"])
        yield Market(shop, nodes, clocks)


def test_no_lease_ends_when_a_clock_jumps_forward(market):
    lease = buy(market.buyer, market.seller, 3_000)
    for name in ("seller", "buyer"):
        market.set_clock(name, DAY_SECONDS)
        market.look_around()
        assert market.runs(lease)
        market.restart(name)
        market.look_around()
        assert market.runs(lease)
        market.set_clock(name, 0)
        assert market.runs(lease)


def test_what_is_bought_meanwhile_lasts_as_long_as_it_was_paid_for(market):
    market.set_clock("seller", DAY_SECONDS)
    before = datetime.now().astimezone()
    lease = buy(market.buyer, market.seller, 3_000)
    ends = datetime.fromisoformat(lease["expires_at"])
    assert before + timedelta(seconds=2_995) < ends < datetime.now().astimezone() + timedelta(seconds=3_005)
    market.set_clock("seller", 0)
    market.look_around()
    assert market.runs(lease)


@pytest.mark.parametrize("restarted", [False, True])
def test_no_lease_outlives_its_time_when_the_clock_jumps_backward(market, restarted):
    lease = buy(market.buyer, market.seller, 3_000)
    market.set_clock("seller", -DAY_SECONDS)
    if restarted:
        market.restart("seller")
    assert market.runs(lease)
    make_due(market.seller, lease["id"], "warns_at", "expires_at")
    market.seller.wait_until(lambda: bought(market.buyer, lease["id"])["state"] == "ended")
    wait_until_freed(market.seller, lease["id"])
    market.set_clock("seller", 0)
    assert one(market.seller, "SELECT COUNT(*) FROM vpn_keptclock") == 1
