"""What the operator allows to be spent: in one call, and in 24 hours."""

import pytest

from tests.support.nodes import Node
from tests.support.streams import b64, settle_down

pytestmark = pytest.mark.sql


@pytest.fixture
def carol(network, tmp_path):
    limits = {
        "lightning": {"daily_budget_sat": 30, "max_amount_sat": 50, "max_fee_sat": 4, "max_fee_percent": 0}
    }
    with Node(network.nodes["carol"], tmp_path / "carol", extra=limits) as node:
        yield node


def post(node: Node, pubkey: str, *, amount: int = 1, size: int = 5, headers: dict | None = None):
    body = {
        "msg": b64(bytes(range(256)) * (size // 256 + 1)) if size > 100 else "aGVsbG8=",
        "pubkey": pubkey,
        "amount": amount,
    }
    return node.post("/v1/message/send", body, headers)


def test_amount_above_the_limit_of_a_call(carol, bob):
    reply = post(carol, bob.pubkey, amount=51)
    assert (reply.status, reply.json["code"]) == (400, 3)
    assert reply.json["message"].startswith("amount: ")
    assert "lightning.max_amount_sat" in reply.json["message"]


def test_limit_of_a_call_bounds_its_fees_and_parts_too(carol, bob):
    for fields in ({"amount": 47}, {"size": 20_000}):
        reply = post(carol, bob.pubkey, **fields)
        assert (reply.status, reply.json["code"]) == (400, 3)
        assert reply.json["message"].startswith("cost: this may cost up to ")
        assert "lightning.max_amount_sat (50)" in reply.json["message"]


def test_call_bounds_its_own_cost(carol, bob):
    body = {"msg": "aGVsbG8=", "pubkey": bob.pubkey, "amount": 2, "maxCostSat": 5}
    reply = carol.post("/v1/message/send", body)
    assert (reply.status, reply.json["code"]) == (400, 9)
    assert reply.json["message"] == (
        "maxCostSat: is 5, but this may cost up to 6 sat with its fees; nothing was sent or paid"
    )
    made = bob.post("/v1/lightning/generateinvoice", {"amount": 2}).json["invoice"]
    paying = carol.post("/v1/lightning/payinvoice", {"invoice": made, "maxCostSat": "5"})
    assert (paying.status, paying.json["code"]) == (400, 9)
    assert paying.json["message"].startswith("maxCostSat: ")


def test_budget_counts_what_was_spent_and_reserves_what_may_be(carol, bob):
    """A payment to bob, who is a channel peer, costs no fee; 4 sat are reserved for one all the same."""
    for _ in range(2):
        reply = post(carol, bob.pubkey, amount=12)
        assert reply.status == 200
        carol.ended(reply.json["id"])
    refused = post(carol, bob.pubkey, amount=3)
    assert (refused.status, refused.json["code"]) == (429, 8)
    assert refused.reason == "Too Many Requests"
    assert 80_000 <= int(refused.headers["retry-after"]) <= 86_400
    assert "lightning.daily_budget_sat" in refused.json["message"]
    assert "6 of 30 sat are left" in refused.json["message"]
    long = post(carol, bob.pubkey, size=5_000)
    assert long.json["code"] == 8
    key = {"Idempotency-Key": "within-the-budget"}
    last = post(carol, bob.pubkey, amount=2, headers=key)
    assert last.status == 200
    carol.ended(last.json["id"])
    carol.kill()
    carol.start()
    assert post(carol, bob.pubkey, amount=1).json["code"] == 8
    # What was accepted before is no new expense.
    assert post(carol, bob.pubkey, amount=2, headers=key).json == last.json


def test_what_failed_costs_nothing(carol, alice, bob, network):
    settle_down(alice, bob)
    network.command("fail", count=1, reason="INCORRECT_PAYMENT_DETAILS", node="bob")
    assert carol.ended(post(carol, bob.pubkey, amount=15).json["id"])["state"] == "failed"
    for _ in range(2):
        sent = post(carol, bob.pubkey, amount=11)
        assert sent.status == 200
        assert carol.ended(sent.json["id"])["state"] == "settled"
