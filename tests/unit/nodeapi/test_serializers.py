"""What is checked of each request: the field that is wrong is named, and its value is not repeated."""

from uuid import UUID

import grpc
import pytest

from nodeapi.errors import ApiError
from nodeapi.operations import OPERATIONS
from nodeapi.serializers import MAX_SAT
from tests.support.doors import PUBKEY, operation

ROWS = {row.rpc_path.strip("/"): row for row in OPERATIONS}
MESSAGE_ID = UUID("5fedffdc-c883-4aaf-95bc-358d7a79b7db")
# The least that each operation asks for.
LEAST = {
    "messaging.Messaging/SendMessage": {"msg": b"x", "pubkey": PUBKEY},
    "messaging.Messaging/Broadcast": {"msg": b"x"},
    "messaging.Messaging/GetMessage": {"id": str(MESSAGE_ID)},
    "messaging.Messaging/ListMessagePayments": {"id": str(MESSAGE_ID)},
    "messaging.Messaging/GiveUpMessage": {"id": str(MESSAGE_ID)},
    "messaging.Messaging/EstimateMessage": {"pubkey": PUBKEY},
    "websocket.Websocket/Send": {"pubkey": PUBKEY, "data": b"x"},
    "federate.Federate/RequestFederate": {"pubkey": PUBKEY},
    "federate.Federate/LeaveFederation": {"pubkey": PUBKEY},
    "vpn.VPN/RequestQuote": {"pubkey": PUBKEY},
    "vpn.VPN/AcceptContract": {"pubkey": PUBKEY, "nonce": "n-_1", "price": "100"},
    "vpn.VPN/RefreshContract": {"pubkey": PUBKEY, "nonce": "n", "price": "1"},
    "vpn.VPN/GetLeaseConfig": {"id": str(MESSAGE_ID)},
    "socket.Socket/SendSocket": {"pubkey": PUBKEY},
    "signing.Signing/SignMessage": {"msg": "x"},
    "signing.Signing/VerifySignature": {"msg": "x", "signature": "y"},
    "lightning.Lightning/PayInvoice": {"invoice": "lnbc1"},
    "lightning.Lightning/CheckInvoice": {"invoice": "lnbc1"},
}


UNBOUNDED = {"max_cost_sat": None}


def check(rpc: str, **fields) -> dict:
    row = operation(rpc)
    return row.request.check(row.request_class(**(LEAST.get(rpc, {}) | fields)))


def refused(rpc: str, **fields) -> str:
    with pytest.raises(ApiError) as error:
        check(rpc, **fields)
    assert error.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return error.value.message


@pytest.mark.parametrize("rpc", ROWS)
def test_least_that_is_asked_for(rpc):
    check(rpc)
    row = operation(rpc)
    for field in LEAST.get(rpc, {}):
        rest = {name: value for name, value in LEAST[rpc].items() if name != field}
        with pytest.raises(ApiError) as error:
            row.request.check(row.request_class(**rest))
        assert error.value.message.startswith(f"{field}: is missing")


@pytest.mark.parametrize(
    ("rpc", "defaults"),
    [
        (
            "messaging.Messaging/SendMessage",
            {"msg": b"x", "pubkey": PUBKEY, "amount": 1, "reply_to_id": None, "expires_in": None} | UNBOUNDED,
        ),
        ("messaging.Messaging/Broadcast", {"msg": b"x", "amount": 1, "expires_in": None} | UNBOUNDED),
        ("messaging.Messaging/EstimateMessage", {"pubkey": PUBKEY, "size": 1, "amount": 1}),
        (
            "messaging.Messaging/ListMessages",
            {"pubkey": "", "service": "", "direction": "", "state": "", "before": None, "limit": 100},
        ),
        ("messaging.Messaging/ListPeers", {"limit": 100}),
        ("federate.Federate/ListFederations", {"state": "", "pubkey": "", "limit": 1000}),
        ("vpn.VPN/ListLeases", {"state": "", "pubkey": "", "limit": 100, "role": ""}),
        ("vpn.VPN/GetLeaseConfig", {"id": MESSAGE_ID, "format": ""}),
        (
            "lightning.Lightning/GenerateInvoice",
            {"amount": 0, "memo": "", "expires_in": None, "private": False},
        ),
        ("lightning.Lightning/PayInvoice", {"invoice": "lnbc1", "amount": 0, "timeout": None} | UNBOUNDED),
        ("signing.Signing/VerifySignature", {"msg": "x", "signature": "y", "pubkey": None}),
        ("node.Node/GetInfo", {}),
    ],
)
def test_what_stands_for_what_is_left_out(rpc, defaults):
    assert check(rpc) == defaults


def test_each_call_that_sends_or_pays_may_bound_its_cost():
    """What is done once sends or pays, but for an invoice that is made."""
    for rpc, row in ROWS.items():
        may = row.once and row.method != "GenerateInvoice"
        assert ("max_cost_sat" in row.request_class.DESCRIPTOR.fields_by_name) == may
        if may:
            assert check(rpc, max_cost_sat=5)["max_cost_sat"] == 5
            assert refused(rpc, max_cost_sat=-1) == "max_cost_sat: must not be negative"


WITH_PUBKEY = sorted(
    rpc for rpc, row in ROWS.items() if "pubkey" in row.request_class.DESCRIPTOR.fields_by_name
)


@pytest.mark.parametrize("rpc", WITH_PUBKEY)
def test_pubkey(rpc):
    assert check(rpc, pubkey=PUBKEY.upper())["pubkey"] == PUBKEY
    no_digits = "pubkey: must be 66 hexadecimal digits"
    for wrong in ("x", PUBKEY[:-2], PUBKEY + "00", PUBKEY[:-1] + "g", " " + PUBKEY[1:], PUBKEY[:-3] + "  8"):
        assert refused(rpc, pubkey=wrong) == no_digits
    for wrong in ("02" + "ff" * 32, "05" + PUBKEY[2:], "00" * 33):
        assert refused(rpc, pubkey=wrong) == "pubkey: is not a public key: no such point on the curve"


@pytest.mark.parametrize("pubkey", ["", "\N{ARABIC-INDIC DIGIT TWO}" * 66, "0279 " + PUBKEY[5:]])
def test_pubkey_of_odd_characters(pubkey):
    assert refused("socket.Socket/SendSocket", pubkey=pubkey).startswith("pubkey: ")


EXPIRES = "expires_in: must be 1 to 86400 seconds"
LIMIT = "limit: must be 1 to 1000"
STATES = "queued, in_flight, retrying, settled, failed, received"
AMOUNTS = {"negative": "amount: must not be negative", "much": "amount: is more than there are satoshis"}
SEND, LIST = "messaging.Messaging/SendMessage", "messaging.Messaging/ListMessages"
ACCEPT = "vpn.VPN/AcceptContract"
NO_NONCE = "nonce: is none; must be that of a quote"
NO_PRICE = "price: must be a whole number of sat from 1 on, such as 100"


@pytest.mark.parametrize(
    ("rpc", "fields", "message"),
    [
        (SEND, {"amount": -1}, AMOUNTS["negative"]),
        (SEND, {"amount": MAX_SAT + 1}, AMOUNTS["much"]),
        (SEND, {"expires_in": -1}, EXPIRES),
        (SEND, {"expires_in": 86_401}, EXPIRES),
        (SEND, {"reply_to_id": "x"}, "reply_to_id: is not a UUID"),
        ("websocket.Websocket/Send", {"amount": -1}, AMOUNTS["negative"]),
        ("messaging.Messaging/Broadcast", {"amount": -1}, AMOUNTS["negative"]),
        ("messaging.Messaging/Broadcast", {"expires_in": 86_401}, EXPIRES),
        ("messaging.Messaging/EstimateMessage", {"size": -1}, "size: must not be negative"),
        ("messaging.Messaging/GetMessage", {"id": "' OR 1=1"}, "id: is not a UUID"),
        (LIST, {"direction": "up"}, "direction: must be out or in"),
        (LIST, {"state": "lost"}, f"state: must be one of {STATES}"),
        (LIST, {"before": "x"}, "before: is not a UUID"),
        (LIST, {"limit": 1_001}, LIMIT),
        (LIST, {"limit": -1}, LIMIT),
        ("messaging.Messaging/ListPeers", {"limit": 1_001}, LIMIT),
        ("federate.Federate/ListFederations", {"limit": 1_001}, LIMIT),
        ("vpn.VPN/ListLeases", {"limit": 1_001}, LIMIT),
        ("vpn.VPN/ListLeases", {"role": "thief"}, "role: must be one of bought, sold, all"),
        ("vpn.VPN/ListLeases", {"state": "x"}, "state: must be one of active, expiring, ended, all"),
        ("vpn.VPN/GetLeaseConfig", {"format": "png"}, "format: must be qr, or left out"),
        (ACCEPT, {"nonce": "a b"}, NO_NONCE),
        (ACCEPT, {"nonce": "n" * 65}, NO_NONCE),
        (ACCEPT, {"price": "0"}, NO_PRICE),
        (ACCEPT, {"price": "-5"}, NO_PRICE),
        (ACCEPT, {"price": "1.5"}, NO_PRICE),
        (ACCEPT, {"price": "\N{ARABIC-INDIC DIGIT TWO}"}, NO_PRICE),
        (ACCEPT, {"price": "9" * 17}, NO_PRICE),
        ("lightning.Lightning/GenerateInvoice", {"amount": -1}, AMOUNTS["negative"]),
        ("lightning.Lightning/GenerateInvoice", {"amount": MAX_SAT + 1}, AMOUNTS["much"]),
        (
            "lightning.Lightning/GenerateInvoice",
            {"expires_in": 31_536_001},
            "expires_in: must be 1 to 31536000 seconds",
        ),
        (
            "lightning.Lightning/GenerateInvoice",
            {"memo": "ü" * 320},
            "memo: has 640 bytes; an invoice has room for 639",
        ),
        (
            "lightning.Lightning/GenerateInvoice",
            {"memo": "a\0b"},
            "memo: must not contain the character NUL",
        ),
        ("lightning.Lightning/PayInvoice", {"timeout": 61}, "timeout: must be 1 to 60 seconds"),
    ],
)
def test_what_is_wrong(rpc, fields, message):
    assert refused(rpc, **fields) == message


@pytest.mark.parametrize(
    ("rpc", "fields"),
    [
        (SEND, {"amount": MAX_SAT, "expires_in": 86_400}),
        (SEND, {"amount": 1, "expires_in": 1}),
        (LIST, {"limit": 1, "direction": "in", "state": "failed", "service": "s" * 32}),
        (LIST, {"limit": 1_000, "direction": "out"}),
        (ACCEPT, {"price": "9" * 16}),
        ("lightning.Lightning/GenerateInvoice", {"memo": " spaces stay ", "expires_in": 31_536_000}),
        ("lightning.Lightning/GenerateInvoice", {"memo": "x" * 639, "amount": MAX_SAT}),
        ("lightning.Lightning/PayInvoice", {"timeout": 60}),
        ("signing.Signing/SignMessage", {"msg": " as it is\n"}),
        ("federate.Federate/ListFederations", {"state": "all"}),
        ("vpn.VPN/ListLeases", {"role": "sold", "state": "ended"}),
        ("vpn.VPN/GetLeaseConfig", {"format": "qr"}),
    ],
)
def test_what_is_just_right(rpc, fields):
    assert fields.items() <= check(rpc, **fields).items()


def test_ids_in_any_form():
    for text in (str(MESSAGE_ID), str(MESSAGE_ID).upper(), MESSAGE_ID.hex):
        assert check("messaging.Messaging/GetMessage", id=text)["id"] == MESSAGE_ID


def test_one_request_leaves_nothing_for_the_next():
    """One serializer serves all requests of its operation."""
    check(SEND, amount=7, expires_in=5)
    refused(SEND, amount=-1)
    assert check(SEND)["amount"] == 1
    assert check(SEND)["expires_in"] is None


@pytest.mark.parametrize("rpc", ROWS)
def test_replies_are_messages(rpc):
    row = operation(rpc)
    assert row.reply.data_to_message({}) == row.reply_class()
