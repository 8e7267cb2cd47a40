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
TEXT_CHARACTERS = 104
# The first byte of a recoverable signature, as lnd (btcec) reads it: 27 + recovery id, + 4 for a compressed key.
HEADERS = range(27, 35)

_ALPHABET = "ybndrfg8ejkmcpqxot1uwisza345h769"
_ZBASE32 = str.maketrans(_ALPHABET, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


def digest(message: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(PREFIX + message).digest()).digest()


def compact_from_zbase32(text: str) -> bytes:
    """r ‖ s of a signature as lnd writes it. ValueError when it is none."""
    if len(text) != 104:
        raise ValueError("a signature of lnd has 104 characters")
    raw = base64.b32decode(text.translate(_ZBASE32))
    return raw[1:]


def recover(*, message: bytes, text: str) -> bytes:
    """The compressed key whose signature of `message` this is: that of lnd's VerifyMessage, without its question to the
    graph. ValueError, which says why, when the text is no signature at all. Almost any other text is one by some key.
    """
    if len(text) != TEXT_CHARACTERS:
        raise ValueError(f"has {len(text)} characters; a signature has {TEXT_CHARACTERS}")
    illegal = next((index for index, char in enumerate(text) if char not in _ALPHABET), None)
    if illegal is not None:
        raise ValueError(f"is not zbase32 (character {illegal + 1})")
    raw = base64.b32decode(text.translate(_ZBASE32))
    if raw[0] not in HEADERS:
        raise ValueError(f"is no signature (its first byte is {raw[0]})")
    recoverable = raw[1:] + bytes([(raw[0] - HEADERS.start) & 3])
    try:
        return PublicKey.from_signature_and_message(recoverable, digest(message), hasher=None).format()
    except Exception as error:  # coincurve raises a bare Exception for r, s or a point that cannot be
        if not isinstance(error, ValueError) and type(error) is not Exception:
            raise
        raise ValueError("is no signature (no key could have made it)") from None


def verify(*, message: bytes, compact: bytes, pubkey: bytes) -> bool:
    """Whether `compact` (r ‖ s) is `pubkey`'s signature of `message`. Bytes that are no key or no signature: False."""
    return verify_digest(digest=digest(message), compact=compact, pubkey=pubkey)


def verify_digest(*, digest: bytes, compact: bytes, pubkey: bytes) -> bool:
    """The same of what was hashed already."""
    if len(compact) != COMPACT_BYTES or not is_pubkey(pubkey):
        return False
    try:
        der = cdata_to_der(deserialize_compact(compact))
    except ValueError:
        return False
    return PublicKey(pubkey).verify(der, digest, hasher=None)


def is_pubkey(raw: bytes) -> bool:
    """Whether these are 33 bytes of a compressed point on secp256k1."""
    if len(raw) != PUBKEY_BYTES:
        return False
    try:
        PublicKey(raw)
    except ValueError:
        return False
    return True
