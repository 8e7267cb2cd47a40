"""Keys and messages of nodes that are no peers of the network's."""

import asyncio
import hashlib
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from coincurve import PrivateKey

from lightning import signature
from lightning.simulator.process import SimulatedNetwork
from lightning.simulator.program import DATABASE
from protos import envelope_pb2
from protos.lnrpc import lightning_pb2
from tests.support.lnd_rpc import BareClient
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


class StrangeNode:
    """A node that is there, with an lnd of its own, and is played by the test: it says what it likes."""

    def __init__(self, lnd: Any):
        self.lnd = lnd

    @property
    def pubkey(self) -> str:
        return self.lnd.pubkey

    def send(self, to: str, record_number: int, *items: envelope_pb2.Item, amount_sat: int = 1) -> None:
        """One payment with all of these."""
        asyncio.run(self._send(to, record_number, packet(*items), amount_sat))

    async def _send(self, to: str, record_number: int, content: bytes, amount_sat: int) -> None:
        signed = b"impervious packet 1" + bytes.fromhex(to) + record_number.to_bytes(8, "big") + content
        async with BareClient(self.lnd) as client:
            reply = await client.lightning.SignMessage(lightning_pb2.SignMessageRequest(msg=signed))
            record = (
                b"IMP\x01"
                + bytes.fromhex(self.pubkey)
                + signature.compact_from_zbase32(reply.signature)
                + content
            )
            payment = await client.keysend(to, {record_number: record}, amount_sat=amount_sat)
        assert payment.status == lightning_pb2.Payment.SUCCEEDED


@dataclass(frozen=True)
class LndPayments:
    """What an lnd has paid or tried to pay, as it knows it itself (msat with fees)."""

    tried: int
    in_flight: int
    paid_msat: int
    largest_msat: int


def payments_of(network: SimulatedNetwork, name: str) -> LndPayments:
    """All payments of one node of a simulated network, read beside it."""
    with closing(sqlite3.connect(network.directory / DATABASE, timeout=60)) as connection:
        rows = connection.execute(
            "SELECT payment FROM payment JOIN node ON node.id = payment.node WHERE node.name = ?", (name,)
        ).fetchall()
    payments = [lightning_pb2.Payment.FromString(row[0]) for row in rows]
    costs = [
        payment.value_msat + payment.fee_msat
        for payment in payments
        if payment.status == lightning_pb2.Payment.SUCCEEDED
    ]
    return LndPayments(
        tried=len(payments),
        in_flight=sum(payment.status == lightning_pb2.Payment.IN_FLIGHT for payment in payments),
        paid_msat=sum(costs),
        largest_msat=max(costs, default=0),
    )
