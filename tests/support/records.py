"""Records made with real keys, good and broken, without the code under test where that counts."""

import hashlib
import zlib
from uuid import uuid4

from coincurve import PrivateKey
from coincurve.ecdsa import deserialize_recoverable, recoverable_convert, serialize_compact

from protos import envelope_pb2

RECORD_NUMBER = 400000


def compact_signature(key: PrivateKey, message: bytes) -> bytes:
    """r ‖ s over lnd's digest, as SignMessage makes it."""
    digest = hashlib.sha256(hashlib.sha256(b"Lightning Signed Message:" + message).digest()).digest()
    recoverable = key.sign_recoverable(digest, hasher=None)
    return serialize_compact(recoverable_convert(deserialize_recoverable(recoverable)))


def sealed(
    key: PrivateKey, packet: bytes, *, recipient: bytes, record_number: int = RECORD_NUMBER, version: int = 1
) -> bytes:
    """The record of these packet bytes, whatever they are."""
    message = b"impervious packet 1" + recipient + record_number.to_bytes(8, "big") + packet
    sender = key.public_key.format()
    return b"IMP" + bytes([version]) + sender + compact_signature(key, message) + packet


def item(body: bytes = b"hello", **fields) -> envelope_pb2.Item:
    return envelope_pb2.Item(**{"id": uuid4().bytes, "body": body, "amount_msat": 1000} | fields)


def packet(*items: envelope_pb2.Item) -> bytes:
    return envelope_pb2.Packet(items=items).SerializeToString()


def deflated(body: bytes) -> bytes:
    compressor = zlib.compressobj(level=9, wbits=-15)
    return compressor.compress(body) + compressor.flush()
