"""lnd's message signatures, verified locally. Pure: no input, no output.

lnd's SignMessage makes an ECDSA signature over sha256(sha256("Lightning Signed Message:" ‖ message)) and returns it as
zbase32 text: one recovery byte, then r and s of 32 bytes each.
"""

import base64
import hashlib

from coincurve import PublicKey
from coincurve.ecdsa import cdata_to_der, deserialize_compact

PREFIX = b"Lightning Signed Message:"
PUBKEY_BYTES = 33
COMPACT_BYTES = 64

_ZBASE32 = str.maketrans("ybndrfg8ejkmcpqxot1uwisza345h769", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


def digest(message: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(PREFIX + message).digest()).digest()


def compact_from_zbase32(text: str) -> bytes:
    """r ‖ s of a signature as lnd writes it. ValueError when it is none."""
    if len(text) != 104:
        raise ValueError("a signature of lnd has 104 characters")
    raw = base64.b32decode(text.translate(_ZBASE32))
    return raw[1:]


def verify(*, message: bytes, compact: bytes, pubkey: bytes) -> bool:
    """Whether `compact` (r ‖ s) is `pubkey`'s signature of `message`. Bytes that are no key or no signature: False."""
    if len(compact) != COMPACT_BYTES or not is_pubkey(pubkey):
        return False
    try:
        der = cdata_to_der(deserialize_compact(compact))
    except ValueError:
        return False
    return PublicKey(pubkey).verify(der, digest(message), hasher=None)


def is_pubkey(raw: bytes) -> bool:
    """Whether these are 33 bytes of a compressed point on secp256k1."""
    if len(raw) != PUBKEY_BYTES:
        return False
    try:
        PublicKey(raw)
    except ValueError:
        return False
    return True
