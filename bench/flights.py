"""One message, one way or the other: through the two nodes, and as a bare keysend. Both of the same size on the wire."""

import hashlib
import json
import os
import time
from dataclasses import dataclass

from bench.rest_client import RestClient, message_body
from bench.worlds import Line, Pair

# The record of a message with this body is the envelope's header and item around it: RECORD_BYTES in all.
BODY_BYTES = 120
RECORD_BYTES = 255
BARE_HEAD_BYTES = RECORD_BYTES - BODY_BYTES
# Of no service: the node on B's side reads such an invoice and drops it.
BARE_RECORD = 70_000


@dataclass(frozen=True)
class Flight:
    """Seconds from the start until the call was answered, the far end saw it, and the sender knew that it was settled."""

    answered: float
    arrived: float
    settled: float


class NodeFlights:
    def __init__(self, line: Line, *, body_bytes: int = BODY_BYTES):
        self._line, self._body_bytes = line, body_bytes

    async def fly(self, rest: RestClient, *, until_settled: bool) -> Flight:
        body = message_body(self._line.b.pubkey, os.urandom(self._body_bytes))
        start = time.perf_counter()
        identity = json.loads(await rest.post("/v1/message/send", body))["id"]
        answered = time.perf_counter()
        arrived = await self._line.b_stream.seen(identity)
        settled = await self._line.a_stream.seen(("delivery", identity)) if until_settled else arrived
        return Flight(answered - start, arrived - start, settled - start)


class BareFlights:
    def __init__(self, pair: Pair, *, record_bytes: int = RECORD_BYTES):
        self._pair, self._record_bytes = pair, record_bytes

    async def fly(self, rest: RestClient, *, until_settled: bool) -> Flight:
        preimage = os.urandom(32)
        records = {BARE_RECORD: os.urandom(self._record_bytes)}
        start = time.perf_counter()
        payment = await self._pair.client.keysend(self._pair.b.pubkey, records, preimage=preimage)
        settled = time.perf_counter()
        if payment.status != payment.SUCCEEDED:
            raise RuntimeError(f"a bare keysend failed: {payment.failure_reason}")
        arrived = await self._pair.invoices.seen(hashlib.sha256(preimage).digest())
        return Flight(settled - start, arrived - start, settled - start)
