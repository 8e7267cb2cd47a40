"""VPN leases between whole nodes: from the quote to a file whose tunnel passes packets, and all that may go wrong."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta

import grpc
import pytest
from coincurve import PrivateKey

from lightning.simulator.process import SimulatedNetwork
from protos import vpn_pb2, vpn_pb2_grpc
from tests.support.commands import command
from tests.support.databases import execute
from tests.support.machines import Client, Flow
from tests.support.minutes import within_a_minute
from tests.support.networks import Network
from tests.support.nodes import Node
from tests.support.records import item, packet, sealed
from tests.support.scrapes import value
from tests.support.streams import WebsocketStream
from tests.support.vpn_market import (
    CONTRACT,
    LEASES,
    PRICE_SAT,
    QUOTE,
    RECORD_NUMBER,
    REFRESH,
    Shop,
    Stranger,
    answer,
    as_stored,
    ask_quote,
    bought,
    buy,
    contract_of,
    contract_with,
    file_of,
    lease_body,
    leases,
    make_due,
    moment,
    of_lease,
    one,
    open_shop,
    post,
    quote_for,
    running_network,
    told,
    wait_for_shop,
    wait_until_freed,
)
from tests.support.vpn_purchase import purchase
from vpn.keys import new_key_pair

QUOTES_A_MINUTE = 20
LOW_ORDER = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture(scope="module")
def lnds(tmp_path_factory) -> Iterator[SimulatedNetwork]:
    """mallory – seller – buyer – small; mallory has no node, only an lnd."""
    with running_network(tmp_path_factory.mktemp("network"), ["mallory", "seller", "buyer", "small"]) as lnds:
        yield lnds


@pytest.fixture(scope="module")
def mallory(lnds: SimulatedNetwork) -> Stranger:
    return Stranger(lnds.nodes["mallory"])


@pytest.fixture(scope="module")
def market(lnds: SimulatedNetwork, shop: Shop, tmp_path_factory) -> Iterator[tuple[Node, Node]]:
    """The seller and the buyer."""
    directory = tmp_path_factory.mktemp("market")
    with ExitStack() as stack:
        seller = stack.enter_context(Node(lnds.nodes["seller"], directory / "seller", extra=shop.config()))
        buyer = stack.enter_context(Node(lnds.nodes["buyer"], directory / "buyer"))
        wait_for_shop(seller)
        yield seller, buyer


@pytest.fixture(scope="module")
def small(lnds: SimulatedNetwork, shop: Shop, tmp_path_factory) -> Iterator[Node]:
    """A seller of one address, for short times, that gives few quotes."""
    config = shop.config(subnet="10.78.0.0/30", min_seconds=1, quotes_per_minute=QUOTES_A_MINUTE)
    with Node(lnds.nodes["small"], tmp_path_factory.mktemp("small"), extra=config) as node:
        wait_for_shop(node)
        yield node


def test_quote_tells_price_and_bounds(market):
    seller, buyer = market
    quote = ask_quote(buyer, seller)
    assert quote["price"] == str(PRICE_SAT)
    assert len(quote["nonce"]) == 32
    assert (quote["min_price"], quote["max_price"]) == ("10", "86400")


def test_from_quote_to_a_tunnel_that_passes_packets(market, shop, tmp_path):
    seller, buyer = market
    quote = ask_quote(buyer, seller)
    with WebsocketStream(seller) as at_seller, WebsocketStream(buyer) as at_buyer:
        contract_id = post(buyer, CONTRACT, pubkey=seller.pubkey, nonce=quote["nonce"], price="600")
        event = answer(at_buyer, contract_id)
        sold = told(answer(at_seller, contract_id))
    lease = told(event)
    assert (lease["type"], event["fromPubkey"], lease["id"]) == ("lease", seller.pubkey, contract_id)
    assert lease["seconds"] == 600
    assert lease["server_pub_key"] == shop.server.pair.public
    assert (sold["id"], sold["buyer"], sold["address"]) == (contract_id, buyer.pubkey, lease["address"])
    listed = bought(buyer, contract_id)
    assert listed["state"] == "active"
    assert 0 < int(listed["secondsLeft"]) <= 600
    assert shop.peers()[listed["publicKey"]] == lease["address"]
    reply = file_of(buyer, contract_id)
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain")
    assert lease["path"].endswith(f"/v1/vpn/leases/{contract_id}/config")
    private = next(
        line.split(" = ")[1] for line in reply.body.decode().splitlines() if line.startswith("PrivateKey")
    )
    picture = file_of(buyer, contract_id, "?format=qr")
    assert picture.headers["content-type"] == "image/svg+xml"
    assert b"<svg" in picture.body
    with Client(tmp_path) as client:
        shop.server.cable(client, "192.0.2.1/30", "192.0.2.2/30")
        shop.server.serve("10.77.0.1")
        client.bring_up(reply.body.decode())
        assert client.reaches("udp", "10.77.0.1")
        assert client.reaches("tcp", "10.77.0.1")
    for node in market:
        assert private not in node.log
    for path in buyer.directory.rglob("*"):
        assert path.is_dir() or private.encode() not in path.read_bytes(), path
    term = f"SELECT state, price_sat FROM vpn_term WHERE contract_id = '{as_stored(seller, contract_id)}'"
    assert execute(seller.database_url, term) == [("settled", 600)]
    assert one(buyer, "SELECT COUNT(*) FROM invoices_invoicepayment WHERE amount_msat = 600000") == 1


def test_the_page_on_vpn_leases(market, shop, tmp_path, monkeypatch):
    seller, buyer = market
    monkeypatch.chdir(tmp_path)
    purchase(shop, seller, buyer, tmp_path)


def test_by_grpc(market):
    seller, buyer = market
    with grpc.insecure_channel(buyer.grpc) as channel, WebsocketStream(buyer) as stream:
        stub = vpn_pb2_grpc.VPNStub(channel)
        request_id = stub.RequestQuote(vpn_pb2.RequestQuoteRequest(pubkey=seller.pubkey)).id
        nonce = told(answer(stream, request_id))["nonce"]
        asked = vpn_pb2.AcceptContractRequest(pubkey=seller.pubkey, nonce=nonce, price="2000")
        once = (("idempotency-key", "one lease"),)
        lease_id = stub.AcceptContract(asked, metadata=once).id
        assert stub.AcceptContract(asked, metadata=once).id == lease_id
        assert told(answer(stream, lease_id))["type"] == "lease"
        refresh = vpn_pb2.RefreshContractRequest(pubkey=seller.pubkey, nonce=nonce, price="10")
        refresh_id = stub.RefreshContract(refresh).id
        # What is under way would be counted by other tests.
        assert told(answer(stream, refresh_id))["type"] == "lease"
        assert lease_id in [lease.id for lease in stub.ListLeases(vpn_pb2.ListLeasesRequest()).leases]
        config = stub.GetLeaseConfig(vpn_pb2.GetLeaseConfigRequest(id=lease_id))
        assert config.config == file_of(buyer, lease_id).body.decode()
        assert config.content_type.startswith("text/plain")
        picture = stub.GetLeaseConfig(vpn_pb2.GetLeaseConfigRequest(id=lease_id, format="qr"))
        assert picture.content_type == "image/svg+xml"
        assert "<svg" in picture.config


def test_leases_that_were_sold_are_listed(market):
    seller, buyer = market
    lease = buy(buyer, seller, 3_000)
    key = bought(buyer, lease["id"])["publicKey"]
    sold = leases(seller, f"?role=sold&pubkey={buyer.pubkey}")[0]
    assert 0 < int(sold.pop("secondsLeft")) <= 3_000
    assert sold == {
        "role": "sold",
        "id": lease["id"],
        "pubkey": buyer.pubkey,
        "price": str(PRICE_SAT),
        "state": "active",
        "address": lease["address"],
        "publicKey": key,
        "expiresAt": lease["expires_at"],
        "nonce": "",
        "endpoint": "",
        "serverPubKey": "",
        "path": "",
        "seconds": "3000",
        "paidSat": "3000",
        "paymentHash": lease["payment_hash"],
    }
    mine = bought(buyer, lease["id"])
    assert {name: mine[name] for name in ("seconds", "paidSat", "paymentHash")} == {
        "seconds": "3000",
        "paidSat": "3000",
        "paymentHash": lease["payment_hash"],
    }
    # A node is asked for what it bought, unless for something else.
    assert leases(seller) == [] == leases(buyer, "?role=sold&state=all")
    assert leases(buyer)[0]["role"] == leases(buyer, "?role=all")[0]["role"] == "bought"
    with grpc.insecure_channel(seller.grpc) as channel:
        asked = vpn_pb2.ListLeasesRequest(role="all")
        assert vpn_pb2_grpc.VPNStub(channel).ListLeases(asked).leases[0].public_key == key
    shown = command(seller, "leases")
    assert shown.code == 0
    assert lease["id"][:8] in shown.out
    assert "sold" in shown.out
    assert lease["id"] not in [
        row["id"] for row in command(seller, "leases", "--role", "bought", "--json").json
    ]
    assert command(seller, "leases", "--json").json[0]["id"] == lease["id"]
    assert " sold" in command(seller, "status").out
    make_due(seller, lease["id"], "warns_at", "expires_at")
    wait_until_freed(seller, lease["id"])
    over = next(row for row in leases(seller, "?role=sold&state=ended") if row["id"] == lease["id"])
    assert (over["state"], over["secondsLeft"]) == ("ended", "0")
    assert lease["id"] not in [row["id"] for row in leases(seller, "?role=sold")]
    wrong = seller.get(f"{LEASES}?role=lent")
    assert (wrong.status, wrong.json["message"]) == (400, "role: must be one of bought, sold, all")


# what a seller refuses


@pytest.mark.parametrize(
    ("reason", "wrong"),
    [
        ("unknown_nonce", {"nonce": "0" * 32}),
        ("price", {"price": "9"}),
        ("price", {"price": "86401"}),
        ("price", {"price": "-60"}),
        ("price", {"price": "6e1"}),
        ("key", {"pubkey": "no key"}),
        ("key", {"pubkey": LOW_ORDER}),
    ],
)
def test_contracts_that_are_refused(market, mallory, reason, wrong):
    seller, _ = market
    refusal = contract_of(mallory, seller, **wrong)
    assert (refusal["type"], refusal["reason"]) == ("refusal", reason), refusal
    assert refusal["text"]


def test_the_servers_own_key_and_a_key_that_another_lease_holds(market, mallory, shop):
    seller, buyer = market
    assert contract_of(mallory, seller, pubkey=shop.server.pair.public)["reason"] == "key"
    taken = bought(buyer, buy(buyer, seller, 3_000)["id"])["publicKey"]
    assert contract_of(mallory, seller, pubkey=taken)["reason"] == "key"


def test_a_quote_to_another_buyer_one_that_is_used_and_one_that_has_expired(market, mallory):
    seller, buyer = market
    foreign = ask_quote(buyer, seller)["nonce"]
    assert contract_of(mallory, seller, nonce=foreign)["reason"] == "unknown_nonce"
    used = quote_for(mallory, seller)["nonce"]
    assert contract_of(mallory, seller, nonce=used)["type"] == "invoice"
    assert contract_of(mallory, seller, nonce=used)["reason"] == "used"
    old = quote_for(mallory, seller)["nonce"]
    execute(
        seller.database_url, f"UPDATE vpn_quote SET expires_at = '{moment(seller, -1)}' WHERE nonce = '{old}'"
    )
    assert contract_of(mallory, seller, nonce=old)["reason"] == "expired"


def test_a_flood_gets_as_many_quotes_as_a_minute_has_and_not_many_answers_more(small, lnds):
    body = b'{"type":"quote_request"}'

    def attempt(_: int) -> None:
        key = PrivateKey()
        for _ in range(10):
            record = sealed(
                key,
                packet(*(item(body) for _ in range(8))),
                recipient=bytes.fromhex(small.pubkey),
                record_number=RECORD_NUMBER,
            )
            assert Network(lnds).pay("mallory", small.pubkey, {RECORD_NUMBER: record}, amount_msat=8_000)
        answered = (
            f"FROM messaging_message WHERE direction = 'out' AND pubkey = '{key.public_key.format().hex()}'"
        )
        small.wait_until(lambda: one(small, f"SELECT COUNT(*) {answered.replace('out', 'in')}") == 80)
        quotes = f"SELECT COUNT(*) FROM vpn_quote WHERE buyer = '{key.public_key.format().hex()}'"
        assert one(small, quotes) == QUOTES_A_MINUTE
        # As many refusals beside the quotes, and no answer to the rest.
        assert one(small, f"SELECT COUNT(*) {answered}") == 2 * QUOTES_A_MINUTE

    within_a_minute(attempt)


def test_quotes_from_when_the_clock_was_ahead_keep_nobody_out(small, mallory):
    for number in range(QUOTES_A_MINUTE):
        execute(
            small.database_url,
            "INSERT INTO vpn_quote (nonce, buyer, price_sat, min_price_sat, max_price_sat, created_at, expires_at) VALUES "
            f"('ahead{number}', '{mallory.pubkey}', 1, 1, 1, '{moment(small, 9_999)}', '{moment(small, 9_999)}')",
        )
    assert quote_for(mallory, small)["type"] == "quote"
    execute(small.database_url, "DELETE FROM vpn_quote WHERE nonce LIKE 'ahead%'")


def test_bodies_that_cannot_be_read_are_dropped(market, mallory):
    seller, _ = market
    for body in (
        {"type": "no such type"},
        {"type": "contract", "nonce": 1, "price": "60", "pubkey": ""},
        {"type": []},
    ):
        mallory.say(seller, **body)
    assert quote_for(mallory, seller)["type"] == "quote"
    seller.wait_until(
        lambda: all(f'"reason": "{word}"' in seller.log for word in ("unknown_type", "bad_nonce", "no_type"))
    )


def test_a_node_without_an_interface_sells_nothing(market, lnds):
    _, buyer = market
    seller, _ = market
    # To strangers it would say nothing.
    ask_quote(buyer, seller)
    with WebsocketStream(seller) as stream:
        request_id = post(seller, QUOTE, pubkey=buyer.pubkey)
        assert told(answer(stream, request_id))["reason"] == "closed"


# what a buyer refuses


def spent_msat(buyer: Node) -> int:
    # What is under way may cost less in the end.
    buyer.wait_until(
        lambda: one(buyer, "SELECT COUNT(*) FROM invoices_invoicepayment WHERE state = 'in_flight'") == 0
    )
    return one(buyer, "SELECT COALESCE(SUM(cost_msat), 0) FROM invoices_invoicepayment")


@pytest.mark.parametrize(
    ("invoice", "more", "reason"),
    [
        ({"amount_sat": 61}, {}, "invoice"),
        ({"amount_sat": 59}, {}, "invoice"),
        ({"amount_sat": 60, "final_cltv_blocks": 145}, {}, "invoice"),
        ({"amount_sat": 60}, {"seconds": 59}, "less_time"),
        ({"amount_sat": 0}, {}, "invoice"),
    ],
)
def test_invoices_that_are_not_paid(market, mallory, invoice, more, reason):
    _, buyer = market
    spent, paid = spent_msat(buyer), mallory.paid_sat()
    contract_id, _ = contract_with(mallory, buyer)
    with WebsocketStream(buyer) as stream:
        mallory.say(buyer, contract_id, type="invoice", payment_request=mallory.invoice(**invoice), **more)
        event = answer(stream, contract_id)
    assert (told(event)["type"], told(event)["reason"]) == ("refusal", reason), told(event)
    assert (spent_msat(buyer), mallory.paid_sat()) == (spent, paid)


def test_an_invoice_of_another_payee_or_from_another_node(market, mallory, lnds):
    _, buyer = market
    spent = spent_msat(buyer)
    contract_id, _ = contract_with(mallory, buyer)
    other = Stranger(lnds.nodes["seller"])
    other.say(buyer, contract_id, type="invoice", payment_request=other.invoice(60))
    with WebsocketStream(buyer) as stream:
        mallory.say(buyer, contract_id, type="invoice", payment_request=other.invoice(60))
        event = answer(stream, contract_id)
    assert "not the seller" in told(event)["text"]
    assert spent_msat(buyer) == spent
    buyer.wait_until(lambda: '"reason": "invoice_unasked"' in buyer.log)


def test_a_lease_that_does_not_come_is_asked_for_and_less_time_than_paid_is_told(market, mallory):
    _, buyer = market
    contract_id, _ = contract_with(mallory, buyer)
    mine = f"WHERE id = '{as_stored(buyer, contract_id)}'"
    mallory.say(buyer, contract_id, type="invoice", payment_request=mallory.invoice(60))
    buyer.wait_until(lambda: one(buyer, f"SELECT state FROM vpn_purchase {mine}") == "paid")
    # The half minute before it asks is over.
    execute(buyer.database_url, f"UPDATE vpn_purchase SET ask_again_at = '{moment(buyer, -1)}' {mine}")
    asked_id, _ = mallory.heard(lambda body: body["type"] == "lease_request" and body["id"] == contract_id)
    payment_hash = bytes(one(buyer, f"SELECT payment_hash FROM vpn_purchase {mine}")).hex()
    key = new_key_pair().public
    with WebsocketStream(buyer) as stream:
        mallory.say(
            buyer, asked_id, **lease_body(contract_id, payment_hash, 30, key) | {"endpoint": "x\nPostUp = rm"}
        )
        mallory.say(buyer, asked_id, **lease_body(contract_id, payment_hash, 30, key))
        assert told(answer(stream, contract_id))["type"] == "lease"
        assert told(answer(stream, contract_id, "refusal"))["reason"] == "less_time"


# time


def test_a_lease_ends_on_both_sides_and_its_address_is_given_again(market, small, shop):
    _, buyer = market
    with WebsocketStream(small) as at_seller, WebsocketStream(buyer) as at_buyer:
        lease = buy(buyer, small, 3_000)
        key = bought(buyer, lease["id"])["publicKey"]
        assert lease["address"] == shop.peers()[key] == "10.78.0.2/32"
        for type, column in (("expiring", "warns_at"), ("ended", "expires_at")):
            make_due(small, lease["id"], column)
            for stream in (at_seller, at_buyer):
                stream.until(of_lease(type, lease["id"]))
    assert key not in shop.peers()
    assert file_of(buyer, lease["id"]).status == 404
    assert bought(buyer, lease["id"])["state"] == "ended"
    wait_until_freed(small, lease["id"])
    again = buy(buyer, small, 3_000)
    assert again["address"] == "10.78.0.2/32"
    make_due(small, again["id"], "warns_at", "expires_at")
    wait_until_freed(small, again["id"])


def test_a_lease_of_a_few_seconds_ends_by_itself(market, small):
    """Whatever is looked at here is there afterwards, however slow the machine is."""
    _, buyer = market
    lease = buy(buyer, small, 3)
    wait_until_freed(small, lease["id"])
    buyer.wait_until(lambda: bought(buyer, lease["id"])["state"] == "ended")
    steps = execute(
        small.database_url,
        "SELECT s.state FROM vpn_leasestep s JOIN vpn_lease l ON l.id = s.lease_id "
        f"WHERE l.contract_id = '{as_stored(small, lease['id'])}' ORDER BY s.id",
    )
    assert [row[0] for row in steps] == [
        "contracted",
        "held",
        "provisioning",
        "active",
        "expiring",
        "expired",
        "quarantined",
        "freed",
    ]


def test_a_full_pool_refuses_contracts_and_gives_a_payment_back(market, small, mallory):
    _, buyer = market
    early = contract_of(mallory, small, price="600")
    lease = buy(buyer, small, 3_000)
    # The only address is taken before the earlier contract is paid.
    assert not mallory.pays(early["payment_request"])
    _, refusal = mallory.heard(lambda body: body["type"] == "refusal" and body["reason"] == "canceled")
    assert "no address is free" in refusal["text"]
    assert contract_of(mallory, small, price="600")["reason"] == "full"
    make_due(small, lease["id"], "warns_at", "expires_at")
    wait_until_freed(small, lease["id"])


def test_refresh_moves_the_end_and_leaves_the_peer_alone(market, shop):
    seller, buyer = market
    lease = buy(buyer, seller, 3_000)
    row = bought(buyer, lease["id"])
    with WebsocketStream(buyer) as stream:
        refresh_id = post(buyer, REFRESH, pubkey=seller.pubkey, nonce=row["nonce"], price="50")
        event = answer(stream, refresh_id)
    assert told(event)["id"] == lease["id"]
    assert told(event)["seconds"] == 50
    ends = [datetime.fromisoformat(text) for text in (lease["expires_at"], told(event)["expires_at"])]
    assert ends[1] - ends[0] == timedelta(seconds=50)
    assert told(event)["address"] == lease["address"] == shop.peers()[row["publicKey"]]
    term = f"SELECT state FROM vpn_term WHERE contract_id = '{as_stored(seller, refresh_id)}'"
    assert execute(seller.database_url, term) == [("settled",)]
    assert buyer.post(REFRESH, {"pubkey": seller.pubkey, "nonce": "unknown", "price": "50"}).status == 400


def test_a_refresh_loses_no_packet(market, shop, tmp_path, record_property):
    seller, buyer = market
    lease = buy(buyer, seller, 3_000)
    nonce = bought(buyer, lease["id"])["nonce"]
    with Client(tmp_path) as client, WebsocketStream(buyer) as stream:
        shop.server.cable(client, "192.0.2.1/30", "192.0.2.2/30")
        shop.server.serve("10.77.0.1", 10)
        client.bring_up(file_of(buyer, lease["id"]).body.decode())
        assert client.reaches("udp", "10.77.0.1", 10)
        flow = Flow(client, "10.77.0.1", 10)
        for _ in range(3):
            refresh_id = post(buyer, REFRESH, pubkey=seller.pubkey, nonce=nonce, price="100")
            assert told(answer(stream, refresh_id))["type"] == "lease"
            # Other leases come meanwhile, and their peers.
            buy(buyer, seller, 3_000)
        sent, lost = flow.end()
    record_property("sent", sent)
    assert sent > 50
    assert lost == 0


def test_calls_that_are_refused_at_once(market):
    seller, buyer = market
    quote = ask_quote(buyer, seller)
    for price in ("9", "86401", "0", "-1", "1.5", "a"):
        reply = buyer.post(CONTRACT, {"pubkey": seller.pubkey, "nonce": quote["nonce"], "price": price})
        assert reply.status == 400, reply.body
        assert reply.json["message"].startswith("price: "), reply.body
    reply = buyer.post(CONTRACT, {"pubkey": seller.pubkey, "nonce": "0" * 32, "price": "60"})
    assert reply.json["message"].startswith("nonce: ")
    assert file_of(buyer, "5fedffdc-c883-4aaf-95bc-358d7a79b7db").status == 404
    buy(buyer, seller, 60)
    with WebsocketStream(buyer) as stream:
        contract_id = post(buyer, CONTRACT, pubkey=seller.pubkey, nonce=quote["nonce"], price="60")
        # What is under way would be counted by other tests.
        assert told(answer(stream, contract_id))["type"] == "lease"
    again = buyer.post(CONTRACT, {"pubkey": seller.pubkey, "nonce": quote["nonce"], "price": "60"})
    assert again.status == 400
    assert again.json["message"].startswith("nonce: was used")


def test_sales_are_counted(market):
    seller, buyer = market
    sides = {"sold": seller, "bought": buyer}

    def counted() -> dict:
        return {
            (name, side): value(node, f"impervious_vpn_{name}", direction=side, **labels)
            for side, node in sides.items()
            for name, labels in {"sat_total": {}, "payments_total": {"kind": "contract"}}.items()
        }

    before = counted()
    buy(buyer, seller, 60)
    grown = {("sat_total", side): 60 for side in sides} | {("payments_total", side): 1 for side in sides}
    seller.wait_until(lambda: counted() == {key: before[key] + grown[key] for key in before})
