"""VPN leases between whole nodes: from the quote to a file whose tunnel passes packets, and all that may go wrong."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import Network
from tests.nodeapi.streams import WebsocketStream
from tests.nodeapi.vpn_market import (
    CONTRACT,
    PRICE_SAT,
    QUOTE,
    REFRESH,
    Shop,
    ask_quote,
    buy,
    file_of,
    lease_state,
    leases,
    of_type,
    one,
    open_shop,
    post,
    told,
    wait_for_shop,
)
from tests.support.nodes import Node
from tests.vpn.machines import Client


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture(scope="module")
def market(network: Network, shop: Shop, tmp_path_factory) -> Iterator[tuple[Node, Node]]:
    """The seller, bob, and the buyer, carol."""
    directory = tmp_path_factory.mktemp("market")
    with ExitStack() as stack:
        seller = stack.enter_context(Node(network.nodes["bob"], directory / "bob", extra=shop.config()))
        buyer = stack.enter_context(Node(network.nodes["carol"], directory / "carol"))
        wait_for_shop(seller)
        yield seller, buyer


def test_quote_tells_price_and_bounds(market):
    seller, buyer = market
    quote = ask_quote(buyer, seller)
    assert quote["price"] == str(PRICE_SAT) and len(quote["nonce"]) == 32
    assert (quote["min_price"], quote["max_price"]) == ("10", "86400")


def test_from_quote_to_a_tunnel_that_passes_packets(market, shop, tmp_path):
    seller, buyer = market
    quote = ask_quote(buyer, seller)
    with WebsocketStream(seller) as at_seller, WebsocketStream(buyer) as at_buyer:
        contract_id = post(buyer, CONTRACT, pubkey=seller.pubkey, nonce=quote["nonce"], price="600")
        event = at_buyer.until(of_type("lease"))[-1]
        sold = told(at_seller.until(of_type("lease"))[-1])
    lease = told(event)
    assert (event["id"], event["fromPubkey"], lease["id"]) == (contract_id, seller.pubkey, contract_id)
    assert lease["seconds"] == 600 and lease["server_pub_key"] == shop.server.pair.public
    assert (sold["id"], sold["buyer"], sold["address"]) == (contract_id, buyer.pubkey, lease["address"])
    listed = next(row for row in leases(buyer) if row["id"] == contract_id)
    assert listed["state"] == "active" and 500 < int(listed["secondsLeft"]) <= 600
    assert shop.peers()[listed["publicKey"]] == lease["address"]
    reply = file_of(buyer, contract_id)
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/plain")
    assert lease["path"].endswith(f"/v1/vpn/leases/{contract_id}/config")
    private = next(line.split(" = ")[1] for line in reply.body.decode().splitlines() if line.startswith("PrivateKey"))
    picture = file_of(buyer, contract_id, "?format=qr")
    assert picture.headers["content-type"] == "image/svg+xml" and b"<svg" in picture.body
    with Client(tmp_path) as client:
        shop.server.cable(client, "192.0.2.1/30", "192.0.2.2/30")
        shop.server.serve("10.77.0.1")
        client.bring_up(reply.body.decode())
        assert client.reaches("udp", "10.77.0.1") and client.reaches("tcp", "10.77.0.1")
    for node in market:
        assert private not in node.log
    for path in buyer.directory.rglob("*"):
        assert path.is_dir() or private.encode() not in path.read_bytes(), path
    assert one(seller, "SELECT state FROM vpn_term ORDER BY id DESC LIMIT 1") == "settled"
    assert one(buyer, "SELECT amount_msat FROM invoices_invoicepayment ORDER BY created_at DESC LIMIT 1") == 600_000
