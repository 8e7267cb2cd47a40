"""BOLT 11's own examples, which the simulated lnd reads as the specification says, and what it forbids besides."""

import pytest
from coincurve import PrivateKey

from lightning.bech32 import CHARSET, checked_payment_request
from lightning.simulator import bolt11
from lightning.simulator.errors import CallError
from tests.support.bolt11_examples import INVALID, KEY, VALID

SIGNER = PrivateKey(b"\x0b" * 32)
OTHER = PrivateKey(b"\x0c" * 32)
HASH = bytes.fromhex("0001020304050607080900010203040506070809000102030405060708090102")
PICO = "Please send 0.00967878534 BTC for a list of items within one week, amount in pico-BTC"
HIGH_S = "Public-key recovery with high-S signature"
# The rest of the words stands in the specification.
REASONS = {
    "Same, but adding invalid unknown feature 100": "requires the unknown feature 100",
    "Bech32 checksum is invalid": "checksum",
    "Malformed bech32 string (no 1)": "index of 1",
    "Malformed bech32 string (mixed case)": "lowercase",
    "Signature is not recoverable": "signature",
    "String is too short": "short",
    "Invalid multiplier": "amount",
    "Invalid sub-millisatoshi precision": "pico-bitcoin",
    "Missing required `s` field": "payment address",
    "Non canonical signature (high-S) with 'n' field defined": "signature",
}


def prefix_of(text: str) -> str:
    return "lntb" if text.lower().startswith("lntb") else "lnbc"


@pytest.mark.parametrize("title", VALID)
def test_valid_examples(title):
    text = VALID[title]
    read = bolt11.decode(text, prefix=prefix_of(text))
    if title not in (PICO, HIGH_S):
        assert read.destination.hex() == KEY
    if title != PICO:
        assert read.payment_hash == HASH
        assert read.payment_addr == b"\x11" * 32
    network = "testnet" if prefix_of(text) == "lntb" else "mainnet"
    assert checked_payment_request(text, network=network) == text.lower()


@pytest.mark.parametrize(
    ("title", "fields"),
    [
        (
            "Please make a donation of any amount",
            {"amount": 0, "timestamp": 1496314658, "description": "Please consider supporting this project"},
        ),
        (
            "Please send $3 for a cup of coffee to the same peer, within one minute",
            {"amount": 250_000_000, "description": "1 cup coffee", "expiry": 60},
        ),
        ("Now send $24 for an entire list of things (hashed)", {"amount": 2_000_000_000, "description": ""}),
        (PICO, {"amount": 967_878_534, "expiry": 604_800, "cltv_expiry": 10}),
    ],
)
def test_fields_of_examples(title, fields):
    read = bolt11.decode(VALID[title], prefix="lnbc")
    assert {name: getattr(read, name) for name in fields} == fields


def test_the_signature_with_a_high_s_is_of_some_key():
    assert bolt11.decode(VALID[HIGH_S], prefix="lnbc").destination.hex() != KEY


@pytest.mark.parametrize("title", INVALID)
def test_invalid_examples(title):
    with pytest.raises(CallError, match=REASONS[title]):
        bolt11.decode(INVALID[title], prefix="lnbc")


def made(*fields: list[int], human: str = "lnsb5u", without: str = "") -> str:
    """A request with these fields besides those that are required, signed by SIGNER."""
    data = bolt11._integer(1_800_000_000, 7)
    for tag, content in (("p", HASH), ("s", HASH), ("d", b"x")):
        if tag not in without:
            data += bolt11._field(tag, bolt11._groups(content))
    for field in fields:
        data += field
    data += bolt11._groups(SIGNER.sign_recoverable(bolt11._digest(human, data), hasher=None))
    return human + "1" + "".join(CHARSET[value] for value in data + bolt11._checksum(human, data))


def feature(bit: int) -> list[int]:
    return bolt11._field("9", bolt11._integer(1 << bit))


def test_the_key_in_an_n_field_is_the_payee():
    field = bolt11._field("n", bolt11._groups(SIGNER.public_key.format()))
    assert bolt11.decode(made(field)).destination == SIGNER.public_key.format()


@pytest.mark.parametrize("bit", [9, 14, 17, 48, 99, 101, 262, 1_001])
def test_features_that_are_known_or_odd(bit):
    assert bolt11.decode(made(feature(bit))).amount == 500_000


@pytest.mark.parametrize("bit", [0, 2, 100, 1_000, 5_000])
def test_features_that_are_unknown_and_even(bit):
    with pytest.raises(CallError, match=f"requires the unknown feature {bit}"):
        bolt11.decode(made(feature(bit)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (made(bolt11._field("n", bolt11._groups(OTHER.public_key.format()))), "signature"),
        (made(bolt11._field("n", bolt11._groups(b"\x02" + bytes(32)))), "signature"),
        (made(bolt11._field("p", bolt11._groups(HASH[:-1])), without="p"), "payment hash"),
        (made(bolt11._field("s", bolt11._groups(HASH[:-1])), without="s"), "payment address"),
        (made(bolt11._field("h", bolt11._groups(HASH))), "neither or both"),
        (made(without="d"), "neither or both"),
        (made(without="s"), "payment address"),
        (made(without="p"), "payment hash"),
        (made(human="lnsb05u"), "begins with zeros"),
        (made(human="lnsb0"), "begins with zeros"),
        (made(human="lnsb00"), "begins with zeros"),
        (made(bolt11._field("x", [0, 5])), "the field 'x' begins with zeros"),
        (made(bolt11._field("c", [0, 0, 9])), "the field 'c' begins with zeros"),
        (made(bolt11._field("9", [0, 8, 0])), "the field '9' begins with zeros"),
    ],
)
def test_what_is_forbidden(text, reason):
    with pytest.raises(CallError, match=reason):
        bolt11.decode(text)
