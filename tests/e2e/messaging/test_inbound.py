"""A node with an inbound policy among strangers: what it refuses is counted once and seen nowhere, whatever is killed.

Nodes on a network of their own: alice is the one under test, bob is a node too, and strangers pay from his lnd.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from coincurve import PrivateKey

from tests.support.admin import ACCOUNT, AdminPages
from tests.support.daphnes import Daphne
from tests.support.databases import execute
from tests.support.networks import simulated_network
from tests.support.nodes import Node
from tests.support.records import RECORD_NUMBER, item, packet, sealed
from tests.support.strangers import LongMessage
from tests.support.streams import WebsocketStream, b64, send

RULES = (
    "min_amount_sat",
    "only_known",
    "peer_messages_per_hour",
    "peer_bytes_per_hour",
    "all_messages_per_hour",
    "all_bytes_per_hour",
)
CONFIGURED = {
    "inbound": {
        "websocket": {"min_amount_sat": 3},
        "federate": {"min_amount_sat": 1_000},
        "strangers": {"bytes_per_hour": 100_000},
    }
}


@pytest.fixture(scope="module")
def own_network(tmp_path_factory):
    with simulated_network(tmp_path_factory.mktemp("network")) as network:
        yield network


@pytest.fixture(scope="module")
def alice(own_network, tmp_path_factory) -> Iterator[Node]:
    extra = {"sqlite3": ACCOUNT, **CONFIGURED}
    with Node(own_network.nodes["alice"], tmp_path_factory.mktemp("alice"), extra=extra) as node:
        yield node


@pytest.fixture(scope="module")
def bob(own_network, tmp_path_factory) -> Iterator[Node]:
    with Node(own_network.nodes["bob"], tmp_path_factory.mktemp("bob")) as node:
        yield node


@pytest.fixture(scope="module")
def elsewhere(alice) -> Iterator[AdminPages]:
    """The admin in a process of its own."""
    with Daphne(alice) as daphne:
        yield AdminPages(daphne)


@pytest.fixture(autouse=True)
def cleared(alice):
    yield
    execute(
        alice.database_url,
        "UPDATE messaging_inboundpolicy SET " + ", ".join(f"{rule} = NULL" for rule in RULES),
    )
    for table in ("refused", "inbounduse"):
        execute(alice.database_url, f"DELETE FROM messaging_{table}")
    execute(alice.database_url, "UPDATE messaging_peer SET blocked = FALSE")


@pytest.fixture
def pay(own_network, alice):
    """A stranger's payment with this record; its sats are gone, whatever becomes of the message."""

    def pay(record: bytes, sat: int = 1, number: int = RECORD_NUMBER) -> None:
        end = own_network.pay("bob", alice.pubkey, {number: record}, amount_msat=sat * 1000)
        assert end["status"] == "SUCCEEDED", end

    return pay


def set_rules(node: Node, service: str = "message", **rules) -> None:
    changes = ", ".join(f"{name} = {str(value).upper()}" for name, value in rules.items())
    execute(node.database_url, f"UPDATE messaging_inboundpolicy SET {changes} WHERE service = '{service}'")


def whole(node: Node, key: PrivateKey | None = None, body: bytes = b"hello", sat: int = 1, **fields) -> bytes:
    made = packet(item(body, amount_msat=sat * 1000, **fields))
    return sealed(key or PrivateKey(), made, recipient=bytes.fromhex(node.pubkey))


def refused(node: Node) -> dict:
    rows = execute(node.database_url, "SELECT service, cause, count, amount_msat FROM messaging_refused")
    return {(service, cause): (count, amount_msat // 1000) for service, cause, count, amount_msat in rows}


def count(node: Node, table: str, where: str = "1 = 1") -> int:
    return execute(node.database_url, f"SELECT count(*) FROM messaging_{table} WHERE {where}")[0][0]


def seen(node: Node) -> tuple[int, int, int]:
    """Received messages, events of them, peers."""
    told = "service_type NOT IN ('delivery', 'federate')"
    return count(node, "message", "direction = 'in'"), count(node, "event", told), count(node, "peer")


def change(pages: AdminPages, path: str, **values: str) -> str:
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', pages.page(path))[1]
    return pages.page(path, csrfmiddlewaretoken=token, **values)


def test_what_the_admin_says_in_another_process_holds_at_once(alice, elsewhere, pay):
    path = "messaging/inboundpolicy/message/change/"
    before = seen(alice)
    change(elsewhere, path, min_amount_sat="5", only_known="unknown")
    pay(whole(alice, sat=4), sat=4)
    alice.wait_until(lambda: refused(alice) == {("message", "amount"): (1, 4)})
    pay(whole(alice, sat=5), sat=5)
    alice.wait_until(lambda: seen(alice) == tuple(number + 1 for number in before))
    change(elsewhere, path, min_amount_sat="0", only_known="true")
    pay(whole(alice))
    pay(b"unsigned, from an lncli somewhere")
    alice.wait_until(
        lambda: refused(alice) == {("message", "amount"): (1, 4), ("message", "not_known"): (2, 2)}
    )
    assert seen(alice) == tuple(number + 1 for number in before)
    shown = elsewhere.page("messaging/refused/")
    assert "paid too little" in shown
    assert "from a peer that is not known" in shown
    listed = elsewhere.page("messaging/inboundpolicy/")
    assert "at least (sat), only known peers" in listed
    assert "nothing: as in the configuration" in listed
    assert "3 sat" in listed
    assert "1,000 sat" in listed


def test_peer_that_is_blocked_before_it_was_heard_of(alice, elsewhere, pay):
    key, stranger = PrivateKey(), PrivateKey()
    pubkey = key.public_key.format().hex()
    assert "must be 66 hexadecimal digits" in change(
        elsewhere, "messaging/peer/add/", pubkey="02ab", blocked="on"
    )
    change(elsewhere, "messaging/peer/add/", pubkey=pubkey.upper(), label="spammer", blocked="on")
    before = seen(alice)
    pay(whole(alice, key))
    long = LongMessage(key=key)
    pay(long.record(alice.pubkey, 0))
    alice.wait_until(lambda: refused(alice) == {("message", "blocked"): (2, 2)})
    assert seen(alice) == before
    assert count(alice, "assembly") == 0
    assert elsewhere.fields(f"messaging/peer/{pubkey}/change/")["Refused"] == "2"
    # By the list's action, one that is there; and back.
    pay(whole(alice, stranger))
    alice.wait_until(lambda: seen(alice)[0] == before[0] + 1)
    chosen = {"_selected_action": stranger.public_key.format().hex(), "action": "block"}
    change(elsewhere, "messaging/peer/", **chosen)
    pay(whole(alice, stranger))
    alice.wait_until(lambda: refused(alice) == {("message", "blocked"): (3, 3)})
    change(elsewhere, "messaging/peer/", **chosen | {"action": "unblock"})
    pay(whole(alice, stranger))
    alice.wait_until(lambda: seen(alice)[0] == before[0] + 2)


def test_price_of_the_configuration_and_of_a_service_of_its_own(alice, bob):
    with WebsocketStream(alice, "?service=websocket") as stream:
        for amount in (2, 3):
            reply = bob.post(
                "/v1/websocket/send", {"data": b64(b"raw"), "pubkey": alice.pubkey, "amount": amount}
            )
            assert reply.status == 200, reply.body
        assert stream.event()["amount"] == "3"
    alice.wait_until(lambda: refused(alice) == {("websocket", "amount"): (1, 2)})


def test_strangers_share_of_the_disk(alice, bob):
    assert (
        bob.post("/v1/message/send", {"msg": b64(os.urandom(100_001)), "pubkey": alice.pubkey}).status == 200
    )
    alice.wait_until(lambda: set(refused(alice)) == {("message", "strangers_bytes")})
    before = seen(alice)
    send(bob, alice)
    alice.wait_until(lambda: seen(alice)[0] == before[0] + 1)


def test_long_message_pays_with_all_its_parts(alice, pay):
    set_rules(alice, min_amount_sat=6)
    before = seen(alice)
    good, cheap = LongMessage(), LongMessage()
    for index in range(3):
        made = cheap.record(alice.pubkey, index)
        pay(made, sat=1)
    alice.wait_until(lambda: refused(alice) == {("message", "amount"): (1, 3)})
    set_rules(alice, min_amount_sat=3)
    for index in range(3):
        pay(good.record(alice.pubkey, index), sat=1)
    alice.wait_until(lambda: seen(alice)[:2] == (before[0] + 1, before[1] + 1))
    assert count(alice, "receivedpart") == 0


def test_answers_that_this_node_asked_for_pass(alice, bob):
    set_rules(alice, only_known=True, min_amount_sat=1_000, peer_messages_per_hour=1, all_messages_per_hour=1)
    question = send(alice, bob)
    with WebsocketStream(alice, "?service=message") as stream:
        for _ in range(2):
            answer = send(bob, alice, replyToId=question)
            assert stream.event()["id"] == answer
    send(bob, alice)
    alice.wait_until(lambda: refused(alice) == {("message", "amount"): (1, 1)})
    # A federation: the other node's accept is such an answer, its request is none.
    assert alice.post("/v1/federate/request", {"pubkey": bob.pubkey}).status == 200
    alice.wait_until(lambda: alice.get("/v1/federate").json["federations"])
    bob.wait_until(lambda: bob.get("/v1/federate").json["federations"])
    assert refused(alice) == {("message", "amount"): (1, 1)}


FLOOD = 40


def test_flood_through_kills_and_walks_counts_each_payment_once(alice, pay):
    """Strangers without end, half of them refused for their price, the rest over a quota, while the node is killed."""
    set_rules(alice, min_amount_sat=2, all_messages_per_hour=10)
    before, lines, started = seen(alice), told_in_the_log(alice), time.monotonic()
    records = [(whole(alice, sat=1 + number % 2), 1 + number % 2) for number in range(FLOOD)]

    def flood() -> None:
        for record, sat in records[:-2]:
            pay(record, sat)

    flooding = Thread(target=flood)
    flooding.start()
    alice.wait_until(lambda: sum(number for number, _ in refused(alice).values()) > 3)
    alice.kill()
    alice.start()
    alice.wait_until(lambda: sum(number for number, _ in refused(alice).values()) > 6)
    alice.kill()
    flooding.join()
    # What is left was settled while nobody listened; and all of it is told once more, from the first invoice on.
    execute(alice.database_url, "UPDATE messaging_invoicemark SET add_index = 0")
    alice.start()
    # Of each cause one more, so that this life has both to tell: another may end between what it stores and its line.
    for record, sat in records[-2:]:
        pay(record, sat)
    half = FLOOD // 2
    expected = {("message", "amount"): (half, half), ("message", "all_messages"): (half - 5, FLOOD - 10)}
    alice.wait_until(lambda: refused(alice) == expected)
    marker = PrivateKey()
    set_rules(alice, min_amount_sat=0, all_messages_per_hour=0)
    pay(whole(alice, marker))
    alice.wait_until(lambda: seen(alice) == tuple(number + 6 for number in before))
    assert refused(alice) == expected
    # Of each cause one at the start of each of three lives, and one a minute: not one a record.
    alice.wait_until(lambda: told_in_the_log(alice) - lines >= 2)
    minutes = 1 + int(time.monotonic() - started) // 60
    assert told_in_the_log(alice) - lines <= 2 * (3 + minutes)


def told_in_the_log(node: Node) -> int:
    """Of these two causes: lines of other tests may come a minute late."""
    told = [json.loads(line) for line in node.log.splitlines() if "refused by the inbound policy" in line]
    return sum(line["service"] == "message" and line["cause"] in ("amount", "all_messages") for line in told)


def test_refused_body_is_nowhere(alice, pay):
    set_rules(alice, only_known=True)
    secret = os.urandom(20).hex().encode()
    pay(whole(alice, body=secret))
    alice.wait_until(lambda: refused(alice) == {("message", "not_known"): (1, 1)})
    assert secret.decode() not in alice.log
    if alice.database_url.startswith("sqlite"):
        path = alice.database_url.removeprefix("sqlite:///")
        assert all(secret not in Path(name).read_bytes() for name in (path, path + "-wal"))
