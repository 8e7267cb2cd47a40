"""Plain Lightning invoices: made, paid, looked up; paid once and told once whatever happens."""

import hashlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from urllib.parse import urlencode

import grpc
import pytest
from coincurve import PrivateKey

from lightning.simulator import bolt11
from protos import lightning_pb2, lightning_pb2_grpc
from tests.support.commands import shell
from tests.support.databases import execute
from tests.support.nodes import Node, Reply
from tests.support.streams import GUARD_SECONDS, WebsocketStream, data_of, send, settle_down

pytestmark = pytest.mark.sql

GENERATE, PAY, CHECK = (f"/v1/lightning/{name}invoice" for name in ("generate", "pay", "check"))
DAY_SECONDS = 86_400
NOBODY = PrivateKey(b"\x0e" * 32).public_key.format().hex()


@pytest.fixture
def carol(network, tmp_path):
    with Node(network.nodes["carol"], tmp_path / "carol") as node:
        yield node


def generate(node: Node, amount: int = 21, **fields) -> dict:
    reply = node.post(GENERATE, {"amount": amount, **fields})
    assert reply.status == 200, reply.body
    return reply.json


def check(node: Node, invoice: str) -> dict:
    reply = node.post(CHECK, {"invoice": invoice})
    assert reply.status == 200, reply.body
    return reply.json


def pay(node: Node, invoice: str, headers: dict | None = None, **fields) -> Reply:
    return node.post(PAY, {"invoice": invoice, **fields}, headers)


def paid(node: Node, invoice: str, **fields) -> dict:
    reply = pay(node, invoice, **fields)
    assert reply.status == 200, reply.body
    return reply.json


def refused(reply: Reply, code: int, *words: str) -> None:
    assert reply.json["code"] == code, reply.body
    assert all(word in reply.json["message"] for word in words), reply.json["message"]


def told(node: Node, invoice_id: str) -> list[dict]:
    """All events of an invoice in the log so far: a message to nobody is told after them."""
    marker = node.post("/v1/message/send", {"msg": "aGk=", "pubkey": NOBODY}).json["id"]
    with WebsocketStream(node, "?after=0") as stream:
        events = stream.until(lambda event: event["id"] == marker)
    return [event for event in events if event["id"] == invoice_id]


def lnsb(**fields) -> str:
    """An invoice of the simulated network, made by hand."""
    values = {
        "payment_hash": hashlib.sha256(b"by hand").digest(),
        "amount": 5000,
        "timestamp": int(time.time()),
        "payment_addr": bytes(32),
    }
    return bolt11.encode(bolt11.PaymentRequest(**{**values, **fields}), PrivateKey(b"\x0d" * 32))


def with_prefix(invoice: str, prefix: str) -> str:
    """The same request for another network, with a right checksum."""
    human, _, coded = invoice.rpartition("1")
    human = prefix + human[len("lnsb") :]
    data = [bolt11.VALUES[char] for char in coded[:-6]]
    return human + "1" + "".join(bolt11.CHARSET[value] for value in data + bolt11._checksum(human, data))


def test_paid_invoice_is_told_once_and_its_preimage_is_right(alice, bob):
    began = int(time.time())
    made = generate(bob, 21, memo="zwei Kaffee ☕")
    assert made["invoice"].startswith("lnsb210n1")
    before = check(bob, made["invoice"])
    assert (before["paid"], before["state"], before["amount"], before["settledAt"]) == (
        False,
        "open",
        "21",
        "",
    )
    # The node and lnd look at the clock one after the other.
    for expires_at in (made["expiresAt"], before["expiresAt"]):
        assert began <= datetime.fromisoformat(expires_at).timestamp() - DAY_SECONDS <= time.time()
    with WebsocketStream(bob) as stream:
        result = paid(alice, made["invoice"], pubkey=bob.pubkey)
        event = stream.of(made["id"])
    assert (
        hashlib.sha256(bytes.fromhex(result["preimage"])).hexdigest()
        == made["paymentHash"]
        == result["paymentHash"]
    )
    assert (result["amountMsat"], result["feeMsat"], result["payee"]) == ("21000", "0", bob.pubkey)
    assert (event["serviceType"], event["amount"], event["fromPubkey"]) == ("lightning", "21", "")
    assert json.loads(data_of(event)) == {
        "paymentHash": made["paymentHash"],
        "invoice": made["invoice"],
        "memo": "zwei Kaffee ☕",
        "amount": "21",
    }
    after = check(bob, made["invoice"].upper())
    assert (after["paid"], after["state"], after["amountPaidMsat"]) == (True, "settled", "21000")
    assert after["settledAt"]
    assert paid(alice, "lightning:" + made["invoice"].upper()) == result
    assert len(told(bob, made["id"])) == 1


def test_fee_of_a_way_over_another_node(alice, bob, carol):
    result = paid(alice, generate(carol, 100)["invoice"])
    assert (result["amountMsat"], result["feeMsat"]) == ("100000", "1000")


def test_invoice_that_leaves_the_amount_open(alice, bob):
    made = generate(bob, 0, memo="")
    refused(pay(alice, made["invoice"]), 3, "amount: is missing")
    refused(pay(alice, made["invoice"], amount=-1), 3, "amount: ")
    assert paid(alice, made["invoice"], amount=33)["amountMsat"] == "33000"
    state = check(bob, made["invoice"])
    assert (state["paid"], state["amount"], state["amountPaidMsat"]) == (True, "0", "33000")
    # What was paid is not paid again, and another amount is not told as paid.
    assert paid(alice, made["invoice"], amount=33)["amountMsat"] == "33000"
    assert paid(alice, made["invoice"])["amountMsat"] == "33000"
    refused(pay(alice, made["invoice"], amount=34), 9, "with 33 sat")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("amount", -1, "must not be negative"),
        ("amount", 21_000_000 * 10**8 + 1, "more than there are satoshis"),
        ("memo", "ü" * 320, "has 640 bytes"),
        ("memo", "a\0b", "NUL"),
        ("expires_in", -1, "must be 1 to 31536000"),
        ("expires_in", 31_536_001, "must be 1 to 31536000"),
    ],
)
def test_generating_what_cannot_be(alice, field, value, words):
    reply = alice.post(GENERATE, {"amount": 1, field: value})
    assert reply.status == 400
    refused(reply, 3, f"{field}: ", words)


def test_memo_of_the_greatest_length(alice):
    memo = "ü" * 319 + "!"
    assert check(alice, generate(alice, 1, memo=memo)["invoice"])["memo"] == memo


GOOD = lnsb()
BAD_INVOICES = {
    "none": ("", "missing"),
    "a word": ("invoice", "no BOLT11"),
    "an address": ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "no BOLT11"),
    "mixed case": (GOOD[:20] + GOOD[20:].upper(), "mixes capitals"),
    "one character changed": (GOOD[:60] + ("q" if GOOD[60] != "q" else "p") + GOOD[61:], "checksum"),
    "cut off": (GOOD[:-1], "checksum"),
    "too long": ("lnsb1" + "q" * 8000, "the longest invoice"),
    "mainnet": (with_prefix(GOOD, "lnbc"), "is for mainnet (lnbc…), this node is on simulated"),
    "testnet": (with_prefix(GOOD, "lntb"), "is for testnet"),
    "regtest": (with_prefix(GOOD, "lnbcrt"), "is for regtest"),
    "signet": (with_prefix(GOOD, "lntbs"), "is for signet"),
    "empty": (with_prefix("lnsb1" + "q" * 10, "lnsb"), "lnd refuses it"),
}


@pytest.mark.parametrize("path", [PAY, CHECK])
@pytest.mark.parametrize("name", BAD_INVOICES)
def test_what_is_no_invoice_of_this_network(alice, path, name):
    invoice, words = BAD_INVOICES[name]
    reply = alice.post(path, {"invoice": invoice})
    assert reply.status == 400
    refused(reply, 3, "invoice: ", words)


def test_invoices_that_are_not_paid(alice, bob, network):
    refused(pay(alice, generate(alice)["invoice"]), 3, "invoice: is this node's own")
    refused(pay(alice, lnsb(timestamp=int(time.time()) - 10, expiry=5)), 3, "invoice: expired at 20")
    refused(pay(alice, lnsb(amount=20_000_000_000)), 9, "invoice: 20000000 sat", "this node can spend")
    refused(pay(alice, lnsb()), 14, "invoice: not paid: no route now")
    refused(
        pay(alice, generate(bob)["invoice"], amount=20),
        3,
        "amount: is 20 sat, but the invoice asks for 21 sat",
    )
    refused(pay(alice, generate(bob)["invoice"], timeout=61), 3, "timeout: must be 1 to 60")


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("TIMEOUT", 4),
        ("NO_ROUTE", 14),
        ("ERROR", 14),
        ("INCORRECT_PAYMENT_DETAILS", 9),
        ("INSUFFICIENT_BALANCE", 9),
    ],
)
def test_failure_is_told_by_its_cause_and_may_be_tried_again(alice, bob, network, reason, code):
    made = generate(bob)
    settle_down(alice, bob)
    network.command("fail", count=1, reason=reason, node="bob")
    refused(pay(alice, made["invoice"], headers={"Idempotency-Key": made["id"]}), code, "invoice: not paid: ")
    # The same key asks for the same call; without it the invoice is tried again.
    refused(pay(alice, made["invoice"], headers={"Idempotency-Key": made["id"]}), code, "invoice: not paid: ")
    result = paid(alice, made["invoice"])
    assert pay(alice, made["invoice"], headers={"Idempotency-Key": made["id"]}).json == result


def test_invoice_of_others_is_not_found(alice, bob):
    refused(alice.post(CHECK, {"invoice": generate(bob)["invoice"]}), 5, "invoice: is not of this node")
    refused(alice.post(CHECK, {"invoice": lnsb()}), 5, "invoice: is not of this node")


def test_same_invoice_many_times_at_once_is_paid_once(alice, bob):
    made = generate(bob, 77)
    before = alice.get("/v1/node").json
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda _: pay(alice, made["invoice"]), range(10)))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1
    assert check(bob, made["invoice"])["amountPaidMsat"] == "77000"
    assert before["pubkey"] == alice.pubkey


def test_idempotency_key(alice, bob):
    first, second = generate(bob), generate(bob)
    key = {"Idempotency-Key": first["id"]}
    result = paid(alice, first["invoice"])
    # A key that comes with what is paid already names that payment.
    assert pay(alice, first["invoice"], headers=key).json == result
    refused(pay(alice, second["invoice"], headers=key), 6, "Idempotency-Key")
    assert check(bob, second["invoice"])["paid"] is False


def test_payment_that_takes_longer_than_the_caller_waits(alice, bob, network):
    made = generate(bob)
    network.command("hold", node="bob")
    try:
        refused(
            pay(alice, made["invoice"], timeout=1), 4, "invoice: the payment is still under way after 1 s"
        )
        later = ThreadPoolExecutor(1).submit(pay, alice, made["invoice"])
    finally:
        network.command("release", node="bob")
    assert later.result().status == 200


def begun(network, name: str) -> int:
    """Payments that this lnd has begun so far."""
    return next(node["payments"] for node in network.command("info") if node["name"] == name)


def test_killed_in_the_middle_of_a_payment_and_asked_again(carol, bob, network):
    """kill -9 while the payment is under way: the repeated call finds it, and it is paid once."""
    made = generate(bob, 55)
    before = begun(network, "carol")
    network.command("hold", node="bob")
    try:
        call = ThreadPoolExecutor(1).submit(pay, carol, made["invoice"])
        carol.wait_until(lambda: begun(network, "carol") == before + 1)
        carol.kill()
        assert call.exception()
        carol.start()
        refused(pay(carol, made["invoice"], timeout=1), 4, "still under way")
    finally:
        network.command("release", node="bob")
    result = paid(carol, made["invoice"])
    assert result["amountMsat"] == "55000"
    carol.kill()
    carol.start()
    assert paid(carol, made["invoice"]) == result
    assert check(bob, made["invoice"])["amountPaidMsat"] == "55000"
    assert begun(network, "carol") == before + 1


STORE = """
from datetime import timedelta
from django.utils import timezone
from invoices.models import InvoicePayment
InvoicePayment.objects.create(
    payer="{payer}", payee="{payee}", payment_hash=bytes.fromhex("{hash}"), payment_request="{invoice}",
    amount_msat=21000, fee_limit_msat=1000, cost_msat=22000, created_at=timezone.now() - timedelta(minutes={minutes}),
)
"""


@pytest.mark.parametrize(("minutes", "end"), [(0, ("settled", 21_000)), (11, ("failed", 0))])
def test_killed_before_lnd_heard_of_the_payment(carol, bob, minutes, end):
    """What kill -9 leaves between the commit and the call to lnd. What nobody waits for any more is not paid by itself."""
    made = generate(bob, 21)
    carol.kill()
    names = {
        "payer": carol.pubkey,
        "payee": bob.pubkey,
        "hash": made["paymentHash"],
        "invoice": made["invoice"],
    }
    shell(carol, STORE.format(**names, minutes=minutes))
    carol.start()
    stored = "SELECT state, cost_msat FROM invoices_invoicepayment"
    carol.wait_until(lambda: execute(carol.database_url, stored) == [end])
    assert check(bob, made["invoice"])["paid"] == (minutes == 0)
    assert paid(carol, made["invoice"])["amountMsat"] == "21000"


class Browser:
    """Somebody who is logged in to the admin pages."""

    def __init__(self, node: Node, username: str, password: str):
        self._node, self._cookies = node, ""
        form = self._get("/admin/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.body.decode())[1]
        cookie = form.headers["set-cookie"].partition(";")[0]
        login = urlencode({"csrfmiddlewaretoken": token, "username": username, "password": password}).encode()
        headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
        reply = node.post("/admin/login/", login, headers)
        assert reply.status == 302, reply.body
        self._cookies = reply.headers["set-cookie"].partition(";")[0]

    def _get(self, path: str) -> Reply:
        return self._node.get(path, {"Cookie": self._cookies} if self._cookies else {})

    def page(self, path: str) -> str:
        reply = self._get(path)
        assert reply.status == 200, (path, reply.status)
        return reply.body.decode()


def test_admin_pages_show_both_and_no_preimage(network, bob, tmp_path):
    account = {"sqlite3": {"username": "admin", "password": "a long password"}}
    with Node(network.nodes["carol"], tmp_path / "carol", extra=account) as carol:
        made = generate(carol, 12, memo="two coffees")
        result = paid(carol, generate(bob, 34, memo="a newspaper")["invoice"])
        paid(bob, made["invoice"])
        carol.wait_until(lambda: check(carol, made["invoice"])["paid"])
        browser = Browser(carol, "admin", "a long password")
        assert "Invoices made here" in browser.page("/admin/")
        assert "Invoices paid from here" in browser.page("/admin/")
        pages = {"invoice": ("two coffees", "12 sat"), "invoicepayment": ("a newspaper", "34 sat")}
        for model, words in pages.items():
            listed = browser.page(f"/admin/invoices/{model}/")
            shown = browser.page(re.search(rf"/admin/invoices/{model}/[-0-9a-f]+/change/", listed)[0])
            found = browser.page(f"/admin/invoices/{model}/?q={words[0].split()[1]}")
            for page in (listed, shown, found):
                assert all(word in page for word in words)
                assert result["preimage"] not in page
                assert "reimage" not in page
            assert not re.search("[ap]\\.m\\.", listed + shown)
        style = re.search(r'href="(/static/messaging/admin\.css)"', shown)[1]
        # A whole invoice is wider than any page.
        assert "overflow-wrap: anywhere" in browser.page(style)
        for number in range(6):
            generate(carol, 100 + number)
        listed = browser.page("/admin/invoices/invoice/")
        assert re.findall(r"\b(10\d) sat", listed)[:6] == [str(105 - number) for number in range(6)]


def test_settled_while_the_node_was_down_is_told_once(carol, bob):
    made, other = generate(carol, 31, memo="while away"), generate(carol, 32)
    carol.kill()
    paid(bob, made["invoice"])
    carol.start()
    carol.wait_until(lambda: len(told(carol, made["id"])) == 1)
    carol.kill()
    carol.start()
    assert check(carol, made["invoice"])["paid"] is True
    assert [event["amount"] for event in told(carol, made["id"])] == ["31"]
    assert told(carol, other["id"]) == []


def test_lnd_went_away_after_the_payment_was_accepted(carol, bob, network):
    """A payment that lnd could not even be asked for is made when it is back."""
    made = generate(bob, 5)
    network.command("hold", node="bob")
    try:
        refused(pay(carol, made["invoice"], timeout=1), 4, "still under way")
        network.command("down", node="carol")
        refused(pay(carol, made["invoice"], timeout=1), 14, "does not answer")
    finally:
        network.command("up", node="carol")
        network.command("release", node="bob")
    carol.wait_until(lambda: pay(carol, made["invoice"]).status == 200)


def test_limits_of_the_operator(network, alice, bob, tmp_path):
    limits = {
        "lightning": {"daily_budget_sat": 60, "max_amount_sat": 42, "max_fee_sat": 2, "max_fee_percent": 0}
    }
    with Node(network.nodes["carol"], tmp_path / "carol", extra=limits) as carol:
        refused(
            pay(carol, generate(bob, 43)["invoice"]), 3, "invoice: 43 sat", "lightning.max_amount_sat (42)"
        )
        refused(pay(carol, generate(bob, 0)["invoice"], amount=43), 3, "amount: 43 sat")
        # The fee counts too.
        refused(pay(carol, generate(bob, 41)["invoice"]), 3, "cost: this may cost up to 43 sat")
        settle_down(alice, bob)
        network.command("fail", count=1, reason="INCORRECT_PAYMENT_DETAILS", node="bob")
        refused(pay(carol, generate(bob, 40)["invoice"]), 9, "not paid")
        first = generate(bob, 40)["invoice"]
        paid(carol, first)
        refused(
            pay(carol, generate(bob, 19)["invoice"]), 8, "lightning.daily_budget_sat", "20 of 60 sat are left"
        )
        # Messages and invoices share the budget.
        send(carol, bob, amount=10)
        refused(pay(carol, generate(bob, 9)["invoice"]), 8, "lightning.daily_budget_sat")
        carol.kill()
        carol.start()
        refused(pay(carol, generate(bob, 9)["invoice"]), 8, "lightning.daily_budget_sat")
        assert paid(carol, first)["amountMsat"] == "40000"


def test_fee_limit_holds(network, alice, tmp_path):
    limits = {"lightning": {"max_fee_sat": 0, "max_fee_percent": 0}}
    with Node(network.nodes["carol"], tmp_path / "carol", extra=limits) as carol:
        refused(pay(carol, generate(alice, 10)["invoice"]), 14, "no route now", "within the fee limit")


def test_grpc(alice, bob):
    with grpc.insecure_channel(alice.grpc) as own, grpc.insecure_channel(bob.grpc) as far:
        payer, payee = lightning_pb2_grpc.LightningStub(own), lightning_pb2_grpc.LightningStub(far)
        request = lightning_pb2.GenerateInvoiceRequest(amount=3, memo="by gRPC")
        made = payee.GenerateInvoice(request, timeout=GUARD_SECONDS)
        result = payer.PayInvoice(
            lightning_pb2.PayInvoiceRequest(invoice=made.invoice), timeout=GUARD_SECONDS
        )
        assert hashlib.sha256(bytes.fromhex(result.preimage)).hexdigest() == made.payment_hash
        checked = payee.CheckInvoice(
            lightning_pb2.CheckInvoiceRequest(invoice=made.invoice), timeout=GUARD_SECONDS
        )
        assert checked.paid
        with pytest.raises(grpc.RpcError) as none:
            payer.PayInvoice(lightning_pb2.PayInvoiceRequest(invoice="lnsb1"), timeout=GUARD_SECONDS)
    assert none.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_scopes(network, bob, tmp_path):
    keys = []
    for scope in ("read", "send", "pay"):
        (tmp_path / scope).write_text(scope * 8)
        keys.append({"name": scope, "key_file": str(tmp_path / scope), "scopes": [scope]})
    allowed = {GENERATE: "send", PAY: "pay", CHECK: "read"}
    with Node(network.nodes["carol"], tmp_path / "carol", extra={"server": {"api_keys": keys}}) as carol:
        for path, needed in allowed.items():
            for scope in ("read", "send", "pay"):
                status = carol.post(
                    path, {"invoice": "none"}, {"Authorization": "Bearer " + scope * 8}
                ).status
                assert (status == 403) == (scope != needed)
