"""Keys and messages of nodes that are no peers of the network's."""

import hashlib
import os
from uuid import uuid4

from coincurve import PrivateKey

from protos import envelope_pb2
from tests.support.records import item, packet, sealed

# A point of the curve that no node has.
STRANGER = PrivateKey(b"\x09" * 32).public_key.format().hex()


class LongMessage:
    """A message of one sender, cut into parts."""

    def __init__(
        self,
        *,
        count: int = 3,
        body: bytes | None = None,
        key: PrivateKey | None = None,
        compression: int = 0,
    ):
        self.key = key or PrivateKey()
        self.id = uuid4()
        self.body = body or os.urandom(50 * count)
        self.count = count
        self.compression = compression

    def record(self, recipient: str, index: int, **wrong) -> bytes:
        each = -(-len(self.body) // self.count)
        part = {
            "index": index,
            "count": self.count,
            "size": len(self.body),
            "sha256": hashlib.sha256(self.body).digest(),
        }
        body = wrong.pop("body", self.body[index * each : (index + 1) * each])
        made = item(
            body, id=self.id.bytes, part=envelope_pb2.Part(**part | wrong), compression=self.compression
        )
        return sealed(self.key, packet(made), recipient=bytes.fromhex(recipient))
