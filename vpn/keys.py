"""WireGuard's keys: pairs for buyers, and which public keys a seller takes. A key is canonical base64 of 32 bytes."""

import base64
import binascii
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEY_BYTES = 32
KEY_CHARACTERS = 44

_PRIME = 2**255 - 19
# Points of order 1, 2, 4 and 8 on the curve and on its twist (https://cr.yp.to/ecdh.html#validate), modulo the prime:
# what they agree on is known to everybody.
_LOW_ORDER = frozenset(
    {
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _PRIME - 1,
    }
)


@dataclass(frozen=True)
class KeyPair:
    """The private key does not print."""

    private: str = field(repr=False)
    public: str


def new_key_pair() -> KeyPair:
    key = X25519PrivateKey.generate()
    return KeyPair(_encoded(key.private_bytes_raw()), _encoded(key.public_key().public_bytes_raw()))


def public_of(private: str) -> str:
    """What `wg pubkey` answers for it."""
    return _encoded(X25519PrivateKey.from_private_bytes(decoded(private)).public_key().public_bytes_raw())


def decoded(text: str) -> bytes:
    """ValueError, which does not repeat the text, unless it is canonical base64 of 32 bytes."""
    try:
        content = base64.b64decode(text, validate=True) if len(text) == KEY_CHARACTERS else b""
    except (binascii.Error, ValueError):
        content = b""
    if len(content) != KEY_BYTES or _encoded(content) != text:
        raise ValueError("is no WireGuard key; must be 44 characters of base64 that stand for 32 bytes")
    return content


def check_public_key(text: str, *, own: str = "") -> str:
    """The key itself. ValueError for what is no key, for low-order points, encodings that are not the point's own, and
    the server's `own` key: `wg` takes them all, and none of them makes a tunnel.
    """
    point = int.from_bytes(decoded(text), "little")
    # X25519 leaves the highest bit out and then counts modulo the prime (RFC 7748, section 5).
    if point % 2**255 % _PRIME in _LOW_ORDER:
        raise ValueError("is a weak WireGuard key, of low order; make another with `wg genkey | wg pubkey`")
    if point >= _PRIME:
        raise ValueError("is not the canonical form of a WireGuard key; must be the output of `wg pubkey`")
    if text == own:
        raise ValueError("is the server's own key; must be the client's")
    return text


def is_public_key(text: str) -> bool:
    try:
        check_public_key(text)
    except ValueError:
        return False
    return True


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
