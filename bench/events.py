"""Events that arrive at a node faster than another node would send them: signed packets of several messages each, made
before the clock runs, paid by a bare client.
"""

import asyncio
import os
import uuid
from collections.abc import Callable

from protos import envelope_pb2
from protos.lnrpc import lightning_pb2
from tests.support.lnd_rpc import BareClient

MESSAGE_RECORD = 400_000
PER_RECORD = 10
BODY_BYTES = 60
AT_ONCE = 16
ZBASE32 = "ybndrfg8ejkmcpqxot1uwisza345h769"


def random_body() -> bytes:
    return os.urandom(BODY_BYTES)


class Producer:
    """Sends messages from one lnd to the node on another, so many in each payment."""

    def __init__(
        self,
        client: BareClient,
        to: str,
        *,
        per_record: int = PER_RECORD,
        make_body: Callable[[], bytes] = random_body,
    ):
        self._client, self._to, self._per_record, self._make_body = client, to, per_record, make_body

    async def prepare(self, count: int) -> list[bytes]:
        """Records that hold `count` messages together."""
        each = self._per_record
        sizes = [each] * (count // each) + ([count % each] if count % each else [])
        return [await self._record(size) for size in sizes]

    async def _record(self, messages: int) -> bytes:
        items = [envelope_pb2.Item(id=uuid.uuid4().bytes, body=self._make_body()) for _ in range(messages)]
        packet = envelope_pb2.Packet(items=items).SerializeToString()
        signed = b"impervious packet 1" + bytes.fromhex(self._to) + MESSAGE_RECORD.to_bytes(8, "big") + packet
        answer = await self._client.lightning.SignMessage(lightning_pb2.SignMessageRequest(msg=signed))
        compact = _from_zbase32(answer.signature)[1:]
        return b"IMP\x01" + bytes.fromhex(self._client.node.pubkey) + compact + packet

    async def send(self, records: list[bytes]) -> None:
        waiting = iter(records)

        async def worker() -> None:
            for record in waiting:
                payment = await self._client.keysend(self._to, {MESSAGE_RECORD: record})
                if payment.status != payment.SUCCEEDED:
                    raise RuntimeError(f"a keysend failed: {payment.failure_reason}")

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


def _from_zbase32(text: str) -> bytes:
    number = 0
    for letter in text:
        number = number << 5 | ZBASE32.index(letter)
    bits = len(text) * 5
    return (number >> bits % 8).to_bytes(bits // 8, "big")
