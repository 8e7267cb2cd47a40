"""What was meant by a name that is not known, and what was meant as something else."""

import time

import pytest

from nodeapi import codec
from nodeapi.operations import OPERATIONS
from nodeapi.spelling import misspelled

SEND = ["msg", "pubkey", "amount", "reply_to_id", "replyToId", "expires_in", "expiresIn"]
# All fields of the messages of 2021: clients send some of them where they mean nothing.
FIELDS_OF_2021 = [
    "id",
    "msg",
    "pubkey",
    "amount",
    "reply_to_id",
    "replyToId",
    "nonce",
    "price",
    "protocol",
    "ip",
    "port1",
    "port2",
    "signature",
    "result",
    "memo",
    "invoice",
    "preimage",
    "paid",
    "from_pubkey",
    "fromPubkey",
    "data",
    "service_type",
    "serviceType",
]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("amout", "amount"),
        ("amuont", "amount"),
        ("ammount", "amount"),
        ("amnt", "amount"),
        ("Amount", "amount"),
        ("AMOUNT", "amount"),
        ("amount ", "amount"),
        ("mgs", "msg"),
        ("msgs", "msg"),
        ("pub_key", "pubkey"),
        ("pubky", "pubkey"),
        ("reply-to-id", "replyToId"),
    ],
)
def test_near(given, meant):
    assert misspelled([given], SEND) == (given, meant)


@pytest.mark.parametrize(
    "given", ["message", "account", "count", "id", "ms", "m", "", "to", "\0", "x" * 10_000]
)
def test_something_else(given):
    assert misspelled([given], SEND) is None


def test_known_names_are_passed_over():
    assert misspelled(["amount", "note", "pubkey", "amuont"], SEND) == ("amuont", "amount")


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.rpc_path)
def test_what_clients_of_2021_send_is_still_ignored(row):
    known = codec.known_names(codec.descriptor_of(row.request_class))
    assert misspelled([name for name in FIELDS_OF_2021 if name not in known], known) is None


def test_many_unknown_names_cost_little():
    names = [f"am{number}" for number in range(100_000)]
    began = time.process_time()
    misspelled(names, SEND)
    assert time.process_time() - began < 5
