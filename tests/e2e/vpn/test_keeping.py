"""What the seller's node keeps in order: its interface, byte counts, the operator's wishes, and payments that lead to
nothing.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from coincurve import PrivateKey

from lightning.simulator.process import SimulatedNetwork
from tests.support.code import copy_of_the_code
from tests.support.commands import shell
from tests.support.databases import execute
from tests.support.machines import LISTEN_PORT, PATH, Client
from tests.support.networks import Network
from tests.support.nodes import Node
from tests.support.records import item, packet, sealed
from tests.support.streams import WebsocketStream, send
from tests.support.vpn_market import (
    CONTRACT,
    RECORD_NUMBER,
    REFRESH,
    SERVER_IP,
    Shop,
    Stranger,
    answer,
    as_stored,
    ask_quote,
    bought,
    buy,
    contract_of,
    file_of,
    lease_state,
    make_due,
    moment,
    of_lease,
    one,
    open_shop,
    post,
    running_network,
    told,
    wait_for_shop,
    wait_until_freed,
)
from vpn import rules
from vpn.keys import new_key_pair

PAGES = """
from django.contrib.auth import get_user_model
from django.test import Client
import json
user, _ = get_user_model().objects.get_or_create(username="root", is_staff=True, is_superuser=True)
client = Client(HTTP_HOST="127.0.0.1")
client.force_login(user)
found = {}
for path in %r:
    reply = client.get("/admin/vpn/" + path)
    found[path] = [reply.status_code, reply.content.decode()]
print(json.dumps(found))
"""
WISH = """
from vpn.models import Lease, LeaseWish
LeaseWish.objects.create(lease=Lease.objects.get(contract_id="{lease}"), action="{action}", seconds={seconds},
asked_by="root")
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture(scope="module")
def lnds(tmp_path_factory) -> Iterator[SimulatedNetwork]:
    with running_network(tmp_path_factory.mktemp("network"), ["seller", "buyer", "slow"]) as lnds:
        yield lnds


@pytest.fixture(scope="module")
def market(lnds: SimulatedNetwork, shop: Shop, tmp_path_factory) -> Iterator[tuple[Node, Node]]:
    directory = tmp_path_factory.mktemp("market")
    with ExitStack() as stack:
        seller = stack.enter_context(Node(lnds.nodes["seller"], directory / "seller", extra=shop.config()))
        buyer = stack.enter_context(Node(lnds.nodes["buyer"], directory / "buyer"))
        wait_for_shop(seller)
        yield seller, buyer


def key_of(buyer: Node, lease: dict) -> str:
    return bought(buyer, lease["id"])["publicKey"]


def test_the_interface_gets_what_the_database_says_and_keeps_what_is_the_operators(market, shop):
    seller, buyer = market
    lease = buy(buyer, seller, 3_000)
    key, mine, intruder = key_of(buyer, lease), new_key_pair().public, new_key_pair().public
    seller.stop()
    shop.server.run("wg", "set", shop.server.interface, "peer", key, "remove")
    shop.server.run("wg", "set", shop.server.interface, "peer", mine, "allowed-ips", "10.99.0.5/32")
    shop.server.run("wg", "set", shop.server.interface, "peer", intruder, "allowed-ips", lease["address"])
    seller.start()
    seller.wait_until(lambda: shop.peers().get(key) == lease["address"] and intruder not in shop.peers())
    assert shop.peers()[mine] == "10.99.0.5/32"
    # What it has seen there is noted after the changes.
    seller.wait_until(lambda: mine in one(seller, 'SELECT "foreign" FROM vpn_shop'))
    # The operator's peer is nobody's lease.
    quote = ask_quote(buyer, seller)
    refused = Stranger(buyer.lnd).say(seller, type="contract", nonce=quote["nonce"], price="60", pubkey=mine)
    answer = f"SELECT COUNT(*) FROM messaging_message WHERE direction = 'out' AND reply_to = '{as_stored(seller, refused)}'"
    seller.wait_until(lambda: one(seller, answer) == 1)
    assert (
        one(seller, f"SELECT COUNT(*) FROM vpn_quote WHERE nonce = '{quote['nonce']}' AND used_at IS NULL")
        == 1
    )
    shop.server.run("wg", "set", shop.server.interface, "peer", mine, "remove")


def test_bytes_and_handshakes_are_kept_over_a_restart_and_shown(market, shop, tmp_path):
    seller, buyer = market
    lease = buy(buyer, seller, 3_000)
    with Client(tmp_path) as client:
        shop.server.cable(client, "192.0.2.1/30", "192.0.2.2/30")
        shop.server.serve("10.77.0.1")
        client.bring_up(file_of(buyer, lease["id"]).body.decode())
        assert client.reaches("udp", "10.77.0.1")
        seller.stop()
        seller.start()
        key = key_of(buyer, lease)
        counted = f"SELECT received_bytes FROM vpn_lease WHERE wg_key = '{key}'"
        seller.wait_until(lambda: one(seller, counted))
    identity = one(seller, f"SELECT id FROM vpn_lease WHERE wg_key = '{key}'")
    paths = ["lease/", f"lease/{identity}/change/", "address/", "quote/", "term/", "leasestep/", "leasewish/"]
    pages = json.loads(shell(seller, PAGES % paths))
    assert {status for status, _ in pages.values()} == {200}
    assert lease["address"] in pages["lease/"][1]
    assert "Extend the chosen leases" in pages["lease/"][1]
    assert "1 day" not in pages["lease/"][1]
    assert "minutes" in pages["lease/"][1]
    assert "addresses taken" in pages["address/"][1]
    assert 'class="active"' in pages["address/"][1]
    bought = json.loads(
        shell(buyer, PAGES % ["purchasedlease/", f"purchasedlease/{lease['id']}/change/", "purchase/"])
    )
    assert {status for status, _ in bought.values()} == {200}
    private = file_of(buyer, lease["id"]).body.decode().split("PrivateKey = ")[1].split("\n")[0]
    assert not [path for path, (_, page) in (pages | bought).items() if private in page]


def test_an_interface_that_is_made_anew_goes_on_with_the_leases_and_their_bytes(lnds, shop, market, tmp_path):
    """The exit rules, which the machine has forgotten like the interface, are in force again too."""
    buyer = market[1]
    nft = tmp_path / "bin" / "nft"
    nft.parent.mkdir()
    nft.write_text(
        f'#!/bin/sh\nexec ip netns exec {shop.server.name} {shutil.which("nft", path=PATH)} "$@"\n'
    )
    nft.chmod(0o755)
    config = shop.config(subnet="10.77.1.0/24", allowed_ips="10.77.0.0/16", exit_rules=True)
    environ = {"PATH": f"{nft.parent}:{PATH}"}
    with (
        Client(tmp_path) as client,
        Node(lnds.nodes["slow"], tmp_path / "renewed", extra=config, environ=environ) as seller,
    ):
        wait_for_shop(seller)
        lease = buy(buyer, seller, 3_000)
        counters = f"SELECT received_bytes, seen_received_bytes FROM vpn_lease {by_contract(seller, lease)}"
        shop.server.run("ip", "address", "add", "10.77.1.1/24", "dev", shop.server.interface)
        shop.server.cable(client, "192.0.2.1/30", "192.0.2.2/30")
        client.bring_up(file_of(buyer, lease["id"]).body.decode())
        shop.server.serve("10.77.1.1", 9)
        # The rules let nobody to the server's own services but for those that allowed_ips names.
        assert client.reaches("udp", "10.77.1.1", 9)
        assert rules.exit_table(shop.server.interface) in shop.server.run("nft", "list", "tables")
        restart(seller)
        seller.wait_until(lambda: execute(seller.database_url, counters)[0][1])
        seller.stop()
        # The tunnel's own packets are counted until the node is gone.
        before = execute(seller.database_url, counters)[0][0]
        shop.server.renew_interface()
        shop.server.run("ip", "address", "add", "10.77.1.1/24", "dev", shop.server.interface)
        shop.server.run("nft", "flush", "ruleset")
        seller.start()
        seller.wait_until(lambda: shop.peers().get(key_of(buyer, lease)) == lease["address"])
        # They come after the first sample: from here on the new counters may grow beyond the old ones.
        seller.wait_until(
            lambda: rules.exit_table(shop.server.interface) in shop.server.run("nft", "list", "tables")
        )
        assert client.reaches("udp", "10.77.1.1", 9)
        restart(seller)
        seller.wait_until(lambda: execute(seller.database_url, counters)[0][1])
        total, counter = execute(seller.database_url, counters)[0]
        assert total == before + counter > before > 0


def test_buyers_are_told_when_the_tunnel_is_found_elsewhere(market, shop):
    seller, buyer = market
    lease, over = buy(buyer, seller, 3_000), buy(buyer, seller, 3_000)
    make_due(seller, over["id"], "warns_at", "expires_at")
    wait_until_freed(seller, over["id"])
    with WebsocketStream(buyer) as stream:
        seller.stop()
        seller.configure(shop.config(server_ip="192.0.2.77", dns="9.9.9.9"))
        seller.start()
        event = told(stream.until(of_lease("lease", lease["id"]))[-1])
        assert (event["endpoint"], event["expires_at"]) == (f"192.0.2.77:{LISTEN_PORT}", lease["expires_at"])
        file = file_of(buyer, lease["id"]).body.decode()
        assert f"Endpoint = 192.0.2.77:{LISTEN_PORT}\n" in file
        assert "DNS = 9.9.9.9\n" in file
        # And back, once each.
        seller.stop()
        seller.configure(shop.config())
        seller.start()
        stream.until(of_lease("lease", lease["id"]))
        assert file_of(buyer, lease["id"]).body.decode() == file.replace("192.0.2.77", SERVER_IP).replace(
            "DNS = 9.9.9.9\n", ""
        )
    assert bought(buyer, over["id"])["endpoint"] == f"{SERVER_IP}:{LISTEN_PORT}"


def test_a_price_of_nothing_sells_nothing(market, shop):
    seller, buyer = market
    lease = buy(buyer, seller, 3_000)
    # To strangers a closed shop says nothing.
    seller.ended(send(seller, buyer))
    seller.stop()
    seller.configure(shop.config(price=0))
    seller.start()
    refused = ask_quote(buyer, seller)
    assert (refused["type"], refused["reason"]) == ("refusal", "closed")
    seller.wait_until(lambda: "no VPN can be sold: vpn.price is 0" in seller.log)
    # What is sold stays, and is prolonged at its own price.
    assert shop.peers()[key_of(buyer, lease)] == lease["address"]
    with WebsocketStream(buyer) as stream:
        refresh_id = post(
            buyer, REFRESH, pubkey=seller.pubkey, nonce=bought(buyer, lease["id"])["nonce"], price="100"
        )
        assert told(answer(stream, refresh_id))["type"] == "lease"
    seller.stop()
    seller.configure(shop.config())
    seller.start()
    wait_for_shop(seller)


def restart(node: Node) -> None:
    node.stop()
    node.start()


def by_contract(seller: Node, lease: dict) -> str:
    return f"WHERE contract_id = '{as_stored(seller, lease['id'])}'"


def test_the_operator_extends_and_ends_a_lease(market, shop):
    seller, buyer = market
    lease = buy(buyer, seller, 3_000)
    key = key_of(buyer, lease)
    with WebsocketStream(buyer) as stream:
        shell(seller, WISH.format(lease=lease["id"], action="extend", seconds=3600))
        extended = told(stream.until(of_lease("lease", lease["id"]))[-1])
        assert extended["seconds"] == 3_000
        assert extended["expires_at"] > lease["expires_at"]
        shell(seller, WISH.format(lease=lease["id"], action="end", seconds=0))
        stream.until(of_lease("ended", lease["id"]))
    assert key not in shop.peers()
    wait_until_freed(seller, lease["id"])
    shell(seller, WISH.format(lease=lease["id"], action="end", seconds=0))
    outcomes = (
        "SELECT w.outcome FROM vpn_leasewish w JOIN vpn_lease l ON l.id = w.lease_id "
        f"WHERE l.contract_id = '{as_stored(seller, lease['id'])}' ORDER BY w.id"
    )
    done = [("done",), ("done",), ("not done: the lease does not run",)]
    seller.wait_until(lambda: execute(seller.database_url, outcomes) == done)


def changed_copy(directory: Path, file: str, changes: dict[str, str]) -> Path:
    """A copy of the code with other constants in a file of vpn/."""
    copy = copy_of_the_code(directory / "copy")
    path = copy / "vpn" / file
    code = path.read_text()
    for before, after in changes.items():
        assert before in code
        code = code.replace(before, after)
    path.write_text(code)
    return copy


def test_who_does_not_pay_keeps_nobody_from_buying(lnds, shop, market, tmp_path):
    """On a copy of the node that lets 6 contracts of strangers wait instead of 500, and each for longer than 2 minutes."""
    honest, greedy, modest = market[0], Stranger(lnds.nodes["buyer"]), PrivateKey()
    changes = {"MAX_UNPAID = 1_000": "MAX_UNPAID = 12", "INVOICE_SECONDS = 120": "INVOICE_SECONDS = 3_600"}
    copy = changed_copy(tmp_path, "selling.py", changes)
    config = shop.config(subnet="10.80.0.0/28", quotes_per_minute=4)
    with Node(lnds.nodes["slow"], tmp_path / "beset", extra=config, root=copy) as seller:
        wait_for_shop(seller)
        invoices = [contract_of(greedy, seller) for _ in range(4)]
        assert [invoice["type"] for invoice in invoices] == ["invoice"] * 4
        # A minute later it is given quotes again.
        execute(seller.database_url, f"UPDATE vpn_quote SET created_at = '{moment(seller, -100)}'")
        assert contract_of(greedy, seller)["reason"] == "busy"
        for body in ({"type": "quote_request"},) * 2:
            say_as(modest, lnds, seller, body)
        buyer = f"buyer = '{modest.public_key.format().hex()}'"
        seller.wait_until(lambda: one(seller, f"SELECT COUNT(*) FROM vpn_quote WHERE {buyer}") == 2)
        for (nonce,) in execute(seller.database_url, f"SELECT nonce FROM vpn_quote WHERE {buyer}"):
            body = {"type": "contract", "nonce": nonce, "price": "60", "pubkey": new_key_pair().public}
            say_as(modest, lnds, seller, body)
        unpaid = "SELECT COUNT(*) FROM vpn_lease WHERE state = 'contracted'"
        seller.wait_until(lambda: one(seller, unpaid) == 6)
        assert buy(honest, seller, 3_000)["address"]
        given_way = "SELECT buyer, id FROM vpn_lease WHERE state = 'canceled'"
        oldest = one(seller, f"SELECT MIN(id) FROM vpn_lease WHERE buyer = '{greedy.pubkey}'")
        assert execute(seller.database_url, given_way) == [(greedy.pubkey, oldest)]
        # Its invoice is canceled in lnd; the others can still be paid.
        canceled = "SELECT COUNT(*) FROM vpn_term WHERE state = 'canceled'"
        seller.wait_until(lambda: one(seller, canceled) == 1)
        assert [greedy.pays(invoice["payment_request"]) for invoice in invoices[:2]] == [False, True]


def say_as(key: PrivateKey, lnds: SimulatedNetwork, to: Node, body: dict) -> None:
    """A vpn message of a node that has this key and no lnd of its own."""
    record = sealed(
        key,
        packet(item(json.dumps(body).encode())),
        recipient=bytes.fromhex(to.pubkey),
        record_number=RECORD_NUMBER,
    )
    assert Network(lnds).pay("buyer", to.pubkey, {RECORD_NUMBER: record}, amount_msat=1_000)


def test_a_tunnel_that_does_not_come_to_be_gives_the_money_back(lnds, shop, market, tmp_path):
    """With a `wg` that says yes and sets nothing; on a copy of the node that waits 3 seconds instead of 240."""
    _, buyer = market
    copy = changed_copy(tmp_path, "seller.py", {"GIVE_BACK_SECONDS = 240": "GIVE_BACK_SECONDS = 3"})
    lazy = tmp_path / "wg"
    lazy.write_text(f'#!/bin/sh\n[ "$1" = set ] && exit 0\nexec {shop.server.wg} "$@"\n')
    lazy.chmod(0o755)
    config = shop.config(subnet="10.79.0.0/30", binary_path=str(lazy))
    with Node(lnds.nodes["slow"], tmp_path / "slow", extra=config, root=copy) as seller:
        wait_for_shop(seller)
        paid_sat = Stranger(lnds.nodes["slow"]).paid_sat()
        quote = ask_quote(buyer, seller)
        with WebsocketStream(buyer) as stream:
            contract_id = post(buyer, CONTRACT, pubkey=seller.pubkey, nonce=quote["nonce"], price="60")
            refused = told(answer(stream, contract_id))
        assert refused["type"] == "refusal"
        assert "could not be made in time" in refused["text"]
        payment = (
            "SELECT p.state, p.cost_msat FROM invoices_invoicepayment p JOIN vpn_purchase v "
            f"ON v.payment_hash = p.payment_hash WHERE v.id = '{as_stored(buyer, contract_id)}'"
        )
        buyer.wait_until(lambda: execute(buyer.database_url, payment) == [("failed", 0)])
        assert lease_state(seller, contract_id) == "canceled"
        seller.wait_until(
            lambda: one(seller, "SELECT COUNT(*) FROM vpn_address WHERE lease_id IS NOT NULL") == 0
        )
        assert Stranger(lnds.nodes["slow"]).paid_sat() == paid_sat


def test_a_lease_in_use_is_renewed_within_its_budget_and_another_is_not(market, lnds, shop, tmp_path):
    seller, _ = market
    with Client(tmp_path) as client:
        renew = {"enabled": True, "budget_sat": 2_000, "lead_seconds": 600}
        config = {"vpn": {"binary_path": str(client.wg), "auto_renew": renew}}
        shop.server.cable(client, "192.0.2.1/30", "192.0.2.2/30")
        with (
            Node(lnds.nodes["slow"], tmp_path / "renewing", extra=config) as buyer,
            WebsocketStream(buyer) as stream,
        ):
            used, unused = buy(buyer, seller, 1_500), buy(buyer, seller, 1_500)
            shop.server.serve("10.77.0.1", 8)
            client.bring_up(file_of(buyer, used["id"]).body.decode())
            assert client.reaches("udp", "10.77.0.1", 8)

            def come_near_the_end() -> None:
                near = f"UPDATE vpn_purchasedlease SET expires_at = '{moment(buyer, 300)}' WHERE id = "
                for lease in (used, unused):
                    execute(buyer.database_url, f"{near}'{as_stored(buyer, lease['id'])}'")
                # As if the last refresh had moved the end to there.
                execute(buyer.database_url, "UPDATE vpn_purchase SET ended_before = NULL")

            come_near_the_end()
            is_used = of_lease("lease", used["id"])
            renewed = told(stream.until(lambda event: is_used(event) and is_later(event, used))[-1])
            assert renewed["seconds"] == 1_500
            # A second one would go over the budget.
            come_near_the_end()
            buyer.wait_until(lambda: "a VPN lease is not renewed" in buyer.log)
            renewals = "SELECT lease_id, price_sat FROM vpn_purchase WHERE kind = 'refresh'"
            rows = [(str(row[0]), row[1]) for row in execute(buyer.database_url, renewals)]
            assert rows == [(as_stored(buyer, used["id"]), 1_500)]


def is_later(event: dict, lease: dict) -> bool:
    return told(event)["expires_at"] > lease["expires_at"]
