"""The body of a `socket` message: exactly the published JSON, and strangers' bytes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.socket_offer import NoOffer, SocketOffer, decode

BODY = b'{"recordId":"SOCKET","protocol":"udp","ip":"127.0.0.1","port1":":6000","port2":":9000"}'
GOOD = json.loads(BODY)


def test_as_published():
    offer = SocketOffer(ip="127.0.0.1", port1=6000, port2=9000)
    assert offer.encode() == BODY
    assert decode(BODY) == offer


def test_unknown_keys_and_spaces_are_left_out():
    assert decode(json.dumps(GOOD | {"more": [1, {"x": 2}]}, indent=4).encode()).encode() == BODY


def test_ipv6():
    assert decode(json.dumps(GOOD | {"ip": "2001:0DB8::1"}).encode()).ip == "2001:db8::1"


@pytest.mark.parametrize("name", list(GOOD))
@pytest.mark.parametrize("value", [None, 1, 2130706433, True, "", "x y", ["udp"], {}, "\u0000", "é" * 10])
def test_a_field_that_is_wrong(name, value):
    with pytest.raises(NoOffer):
        decode(json.dumps(GOOD | {name: value}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"port1": "6000"},
        {"port1": ":0"},
        {"port1": ":65536"},
        {"port2": ":06000"},
        {"port2": ":６000"},
        {"port2": ":1\n"},
        {"ip": "localhost"},
        {"ip": "1.2.3"},
        {"ip": "fe80::1%eth0"},
        {"protocol": "u" * 17},
        {"recordId": "socket"},
    ],
)
def test_values_that_are_nearly_right(change):
    with pytest.raises(NoOffer):
        decode(json.dumps(GOOD | change).encode())


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b"\xff", b"[" * 1_000, BODY + b" " * 1_024, BODY.decode().encode("utf-16")],
    ids=lambda body: repr(body[:8]),
)
def test_what_is_none(body):
    with pytest.raises(NoOffer):
        decode(body)


@given(st.binary(max_size=1_200))
def test_any_bytes(body):
    with pytest.raises(NoOffer):
        decode(body)
