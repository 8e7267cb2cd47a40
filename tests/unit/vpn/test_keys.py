import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from vpn import keys

PRIME = 2**255 - 19
LOW_ORDER = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
)
# An encoding of its own: one of 19 numbers from the prime on, or with the highest bit.
NOT_CANONICAL = st.integers(PRIME, 2**255 - 1) | st.integers(2**255, 2**256 - 1)


def text_of(point: int | bytes) -> str:
    return base64.b64encode(point if isinstance(point, bytes) else point.to_bytes(32, "little")).decode()


def gives_a_secret(point: bytes) -> bool:
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(point))
    except ValueError:
        return False
    return True


def test_a_pair_is_taken_and_keeps_its_private_half():
    pair = keys.new_key_pair()
    assert keys.check_public_key(pair.public) == pair.public == keys.public_of(pair.private)
    assert pair.private not in repr(pair)
    assert pair.public in repr(pair)
    assert keys.new_key_pair().private != pair.private


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_are_refused(point):
    assert not gives_a_secret(bytes.fromhex(point))
    with pytest.raises(ValueError, match="low order"):
        keys.check_public_key(text_of(bytes.fromhex(point)))


@given(st.integers(0, PRIME - 1).map(lambda point: point.to_bytes(32, "little")))
def test_what_gives_a_secret_is_taken(point):
    assert keys.is_public_key(text_of(point)) == gives_a_secret(point)


@given(NOT_CANONICAL)
def test_other_encodings_of_a_point_are_refused(point):
    with pytest.raises(ValueError, match=r"not the canonical form|of low order"):
        keys.check_public_key(text_of(point))


def test_own_key_is_refused():
    own = keys.new_key_pair().public
    with pytest.raises(ValueError, match="server's own"):
        keys.check_public_key(own, own=own)


@given(st.binary(min_size=32, max_size=32), st.sampled_from("\n \t-_=A"), st.integers(0, 44))
def test_one_text_is_one_key(content, character, place):
    text = text_of(content)
    assert keys.decoded(text) == content
    for other in (text[:place] + character + text[place:], text[:place] + character + text[place + 1 :]):
        if other == text:
            continue
        try:
            assert text_of(keys.decoded(other)) == other
        except ValueError as error:
            assert other not in str(error)


@pytest.mark.parametrize("ending", "BCDFGH")
def test_bits_behind_the_last_byte_are_refused(ending):
    # 43 characters hold 258 bits: the last two have to be 0.
    with pytest.raises(ValueError, match="is no WireGuard key"):
        keys.check_public_key("A" * 41 + "g" + ending + "=")


@given(st.text(max_size=60) | st.text("A=é", min_size=44, max_size=44))
def test_junk_is_no_key(text):
    try:
        keys.decoded(text)
    except ValueError:
        assert not keys.is_public_key(text)
