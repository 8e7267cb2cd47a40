"""Bodies of federate messages: what strangers may send is read, or refused with a word, and nothing else happens."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import bodies
from federation.bodies import Body, Unreadable

CHARACTERS = st.characters(categories=["L", "N", "P", "S"], include_characters=" ")
PLAIN = st.text(CHARACTERS, max_size=bodies.MAX_IMP_ID_CHARACTERS)
POSITIVE = st.integers(1, bodies.MAX_NUMBER)


@given(
    type=st.sampled_from(bodies.TYPES),
    imp_id=PLAIN,
    ttl=POSITIVE,
    expires_at=POSITIVE,
    round=st.integers(0, bodies.MAX_NUMBER),
    reason=PLAIN,
)
def test_what_is_written_is_read(**fields):
    body = Body(**fields)
    if bodies.is_plain(body.imp_id, 128) and bodies.is_plain(body.reason, 200):
        assert bodies.decode(bodies.encode(body)) == body


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["type", "imp_id", "ttl", "expires_at", "round", "reason", "else"])


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(raw):
    read_or_refused(raw)


@given(st.sampled_from(bodies.TYPES), st.dictionaries(KEYS, JSON))
def test_any_values(type, values):
    read_or_refused(json.dumps(values | {"type": type}).encode())


def read_or_refused(raw: bytes) -> None:
    try:
        body = bodies.decode(raw)
    except Unreadable as error:
        assert error.reason.replace("_", "").isalpha()
        return
    assert body.type in bodies.TYPES
    assert len(body.imp_id) <= 128
    assert body.imp_id.isprintable()
    for number in (body.ttl, body.expires_at, body.round):
        assert number is None or (type(number) is int and 0 <= number <= bodies.MAX_NUMBER)
    assert body.ttl != 0
    assert body.type != bodies.REQUEST or body.ttl


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "no_json"),
        (b"{", "no_json"),
        (b"\xff{}", "no_json"),
        (b'{"type":"request","ttl":NaN}', "no_json"),
        (b'{"type":"request","imp_id":"\\ud800","ttl":1}', "no_json"),
        (b"[" * 4_000, "no_json"),
        (b'{"a":' * 600 + b"1" + b"}" * 600, "no_type"),
        (b'{"type":"request","ttl":1,"imp_id":"' + b"x" * 10_000 + b'"}', "body_size"),
        (b"null", "no_type"),
        (b'"request"', "no_type"),
        (b'[{"type":"request"}]', "no_type"),
        (b'{"type":["request"]}', "no_type"),
        (b'{"type":"quote_request"}', "unknown_type"),
        (b'{"type":"REQUEST"}', "unknown_type"),
        (b'{"type":"request"}', "no_ttl"),
        (b'{"type":"accept","ttl":1}', "no_expires_at"),
    ],
)
def test_what_is_refused(raw, reason):
    with pytest.raises(Unreadable) as refused:
        bodies.decode(raw)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "number", ["-1", "0", "1.5", "1.0", "true", '"60"', "[60]", "1e3", "9007199254740993", "1" + "0" * 400]
)
@pytest.mark.parametrize("name", ["ttl", "expires_at"])
def test_numbers_that_are_none(name, number):
    raw = f'{{"type":"leave","{name}":{number}}}'.encode()
    with pytest.raises(Unreadable) as refused:
        bodies.decode(raw)
    assert refused.value.reason in (f"bad_{name}", "no_json")


@pytest.mark.parametrize(
    "imp_id", ["x" * 129, "a\nb", "a\x00b", "a\u202eb", "\u2066a", "\u200fa", "a\x1b[31m", "a\x85b", "\ufeff"]
)
def test_names_that_are_none(imp_id):
    with pytest.raises(Unreadable) as refused:
        bodies.decode(json.dumps({"type": "request", "ttl": 60, "imp_id": imp_id}).encode())
    assert refused.value.reason == "bad_imp_id"


def test_unknown_keys_are_passed_over():
    assert bodies.decode(b'{"type":"request","ttl":60,"imp_id":"B\xc3\xa4r","color":[1]}') == Body(
        type="request", ttl=60, imp_id="Bär"
    )


def test_the_longest_body_is_within_the_bounds():
    wide = Body(
        type="refuse",
        imp_id="\U0001f600" * 128,
        ttl=2**53,
        expires_at=2**53,
        round=2**53,
        reason="\U0001f600" * 200,
    )
    assert len(bodies.encode(wide)) <= bodies.MAX_BODY_BYTES
    assert bodies.decode(bodies.encode(wide)) == wide
