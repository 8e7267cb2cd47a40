"""Two hundred leases at once: one seller, two buyers, one interface."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.support.databases import execute
from tests.support.nodes import Node
from tests.support.streams import WebsocketStream
from tests.support.vpn_market import (
    CONTRACT,
    LEASES,
    QUOTE,
    Shop,
    moment,
    one,
    open_shop,
    post,
    running_network,
    told,
    wait_for_shop,
)

LEASES_OF_EACH = 100
PRICE_SAT = 3_000


@pytest.fixture(scope="module")
def market(tmp_path_factory) -> Iterator[tuple[Shop, Node, list[Node]]]:
    directory = tmp_path_factory.mktemp("many")
    with ExitStack() as stack:
        shop = stack.enter_context(open_shop(directory))
        lnds = stack.enter_context(running_network(directory / "network", ["first", "seller", "second"]))
        seller = stack.enter_context(Node(lnds.nodes["seller"], directory / "seller", extra=shop.config()))
        buyers = [
            stack.enter_context(Node(lnds.nodes[name], directory / name)) for name in ("first", "second")
        ]
        wait_for_shop(seller)
        yield shop, seller, buyers


def answers(stream: WebsocketStream, call_ids: list[str], type: str) -> dict[str, dict]:
    """What the stream tells under each of these ids."""
    found = {}
    while len(found) < len(call_ids):
        event = stream.event()
        if event["serviceType"] == "vpn" and event["id"] in call_ids:
            found[event["id"]] = told(event)
            assert told(event)["type"] == type, told(event)
    return found


def buy_many(buyer: Node, seller: Node) -> dict[str, dict]:
    """All quotes, then all contracts: each lease as it is told."""
    with WebsocketStream(buyer) as stream:
        asked = [post(buyer, QUOTE, pubkey=seller.pubkey) for _ in range(LEASES_OF_EACH)]
        quotes = answers(stream, asked, "quote")
        contracts = [
            post(buyer, CONTRACT, pubkey=seller.pubkey, nonce=quotes[key]["nonce"], price=str(PRICE_SAT))
            for key in asked
        ]
        return answers(stream, contracts, "lease")


def keys_of(buyer: Node, state: str) -> dict[str, str]:
    rows = buyer.get(f"{LEASES}?state={state}&limit=1000").json["leases"]
    return {row["publicKey"]: row["address"] for row in rows}


@pytest.mark.long
def test_two_hundred_leases_at_once_run_and_end(market):
    shop, seller, buyers = market
    with ThreadPoolExecutor() as pool:
        told_to = list(pool.map(lambda buyer: buy_many(buyer, seller), buyers))
    addresses = [lease["address"] for leases in told_to for lease in leases.values()]
    assert len(addresses) == len(set(addresses)) == 2 * LEASES_OF_EACH
    assert execute(seller.database_url, "SELECT state, COUNT(*) FROM vpn_lease GROUP BY state") == [
        ("active", 2 * LEASES_OF_EACH)
    ]
    assert shop.peers() == keys_of(buyers[0], "active") | keys_of(buyers[1], "active")
    assert sorted(shop.peers().values()) == sorted(addresses)

    past = moment(seller, -1)
    execute(seller.database_url, f"UPDATE vpn_lease SET warns_at = '{past}', expires_at = '{past}'")
    seller.wait_until(lambda: one(seller, "SELECT COUNT(*) FROM vpn_lease WHERE state <> 'freed'") == 0)
    assert shop.peers() == {}
    assert one(seller, "SELECT COUNT(*) FROM vpn_address WHERE lease_id IS NOT NULL") == 0
    for buyer in buyers:
        buyer.wait_until(lambda: len(keys_of(buyer, "ended")) == LEASES_OF_EACH)
        assert one(buyer, "SELECT COUNT(*) FROM vpn_clientkey") == 0
