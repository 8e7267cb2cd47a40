"""Keys and lnd's message signatures. Pure.

lnd signs sha256(sha256("Lightning Signed Message:" ‖ msg)) deterministically (RFC 6979) and writes 65 bytes, a recovery
byte (31 + id) then r ‖ s, as 104 characters of zbase32.
"""

import base64
import binascii
import hashlib

from coincurve import PrivateKey, PublicKey

from lightning.simulator.errors import CallError

PREFIX = b"Lightning Signed Message:"
COMPRESSED_HEADER = 31
_ZBASE32, _BASE32 = "ybndrfg8ejkmcpqxot1uwisza345h769", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_TO_ZBASE32 = str.maketrans(_BASE32, _ZBASE32)
_FROM_ZBASE32 = str.maketrans(_ZBASE32, _BASE32)


def sign_message(key: PrivateKey, message: bytes) -> str:
    if not message:
        raise CallError("need a message to sign")
    signature = key.sign_recoverable(_digest(message), hasher=None)
    compact = bytes([COMPRESSED_HEADER + signature[64]]) + signature[:64]
    return base64.b32encode(compact).decode().translate(_TO_ZBASE32)


def recover_signer(message: bytes, signature: str) -> bytes | None:
    """The compressed key that made the signature, None when it is none."""
    if not message:
        raise CallError("need a message to verify")
    illegal = next((index for index, char in enumerate(signature) if char not in _ZBASE32), None)
    if illegal is not None:
        raise CallError(f"failed to decode signature: illegal z-base-32 data at input byte {illegal}")
    return _recover(_digest(message), signature) if len(signature) == 104 else None


def _recover(digest: bytes, signature: str) -> bytes | None:
    try:
        raw = base64.b32decode(signature.translate(_FROM_ZBASE32))
        recovery = (raw[0] - 27) & 3
        return PublicKey.from_signature_and_message(raw[1:] + bytes([recovery]), digest, hasher=None).format()
    except (ValueError, binascii.Error):
        return None
    except Exception as error:  # coincurve raises a bare Exception for what is no signature
        if type(error) is not Exception:
            raise
        return None


def _digest(message: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(PREFIX + message).digest()).digest()
