"""Bodies of vpn messages: what is written is read back, and no bytes of a stranger do anything but be read or
refused.
"""

from datetime import UTC, datetime
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn import bodies

ID = uuid4()
MOMENT = datetime(2026, 11, 23, 14, 0, 0, tzinfo=UTC)
GOOD = {
    "quote_request": {},
    "quote": {"nonce": "a" * 32, "price": "100", "min_price": "1", "max_price": "9", "expires_at": MOMENT},
    "contract": {"nonce": "a" * 32, "price": "100", "pubkey": "k"},
    "refresh": {"nonce": "a" * 32, "price": "100", "pubkey": "k"},
    "invoice": {"payment_request": "lnbc1", "seconds": 3600},
    "lease": {
        "id": ID,
        "address": "10.0.0.2/32",
        "endpoint": "192.0.2.1:51820",
        "server_pub_key": "k",
        "dns": "",
        "further_dns": "",
        "allowed_ips": "0.0.0.0/0",
        "keepalive": 25,
        "expires_at": MOMENT,
        "seconds": 3600,
        "payment_hash": "ab" * 32,
    },
    "lease_request": {"id": ID},
    "refusal": {"reason": "full", "text": "no address is free"},
    "expiring": {"id": ID, "expires_at": MOMENT},
    "ended": {"id": ID, "expires_at": MOMENT},
}
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("type", GOOD)
def test_what_is_written_is_read_back(type):
    assert bodies.decode(bodies.encode(type, **GOOD[type])) == {"type": type} | GOOD[type]


def test_unknown_keys_are_passed_over():
    assert bodies.decode(bodies.encode("lease_request", id=ID, surprise=[1])) == {
        "type": "lease_request",
        "id": ID,
    }


@pytest.mark.parametrize("type", GOOD)
@given(field=st.sampled_from(sorted({name for fields in GOOD.values() for name in fields})), value=ANYTHING)
def test_a_field_of_anything_is_read_as_its_type_or_refused(type, field, value):
    known = type in GOOD and field in GOOD[type]
    body = orjson.loads(bodies.encode(type, **GOOD[type])) | {field: value}
    try:
        raw = orjson.dumps(body)
    except TypeError:
        return
    try:
        read = bodies.decode(raw)
    except bodies.Unreadable as error:
        assert error.reason == f"bad_{field}"
        assert known
        return
    if known:
        # JSON has no infinity: it is written as null.
        told = orjson.loads(raw)[field]
        assert isinstance(read[field], __builtins__["type"](GOOD[type][field])) or told is None
        assert not isinstance(read[field], str) or read[field].isprintable()


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_be_refused(raw):
    with pytest.raises(bodies.Unreadable):
        bodies.decode(raw)


def test_what_is_too_long_is_refused():
    for body in (b'"' * (bodies.MAX_BODY_BYTES + 1), bodies.encode("invoice", payment_request="l" * 8000)):
        with pytest.raises(bodies.Unreadable):
            bodies.decode(body)
