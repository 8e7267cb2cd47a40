"""What arrives, and when: a node's websocket, and lnd's invoice stream."""

import asyncio
import contextlib
import json
import time
from collections.abc import Hashable

from websockets.asyncio.client import connect

from protos.lnrpc import lightning_pb2
from tests.support.lnd_rpc import BareClient

WAIT_SECONDS = 60


class Sightings:
    """When each key was first seen."""

    def __init__(self):
        # Messages, or settled invoices, until now.
        self.told = 0
        self._at: dict[Hashable, float] = {}
        self._waiting: dict[Hashable, asyncio.Future] = {}

    def note(self, key: Hashable, moment: float) -> None:
        self._at.setdefault(key, moment)
        if (waiting := self._waiting.pop(key, None)) and not waiting.done():
            waiting.set_result(None)

    async def seen(self, key: Hashable) -> float:
        """Waits for it; the moment at which it was seen."""
        if key not in self._at:
            waiting = self._waiting.setdefault(key, asyncio.get_running_loop().create_future())
            await asyncio.wait_for(waiting, WAIT_SECONDS)
        return self._at.pop(key)


class _Background(Sightings):
    async def __aexit__(self, *_) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


class Stream(_Background):
    """A node's websocket: messages by their id; what became of our own by ("delivery", id)."""

    def __init__(self, address: str):
        super().__init__()
        self._address = address

    async def __aenter__(self) -> "Stream":
        self._connection = await connect(f"ws://{self._address}/v1/subscribe", compression=None)
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_) -> None:
        await super().__aexit__()
        await self._connection.close()

    async def _read(self) -> None:
        async for text in self._connection:
            moment = time.perf_counter()
            event = json.loads(text)["result"]
            if event["serviceType"] == "delivery":
                self.note(("delivery", event["id"]), moment)
            else:
                self.told += 1
                self.read(event)
                self.note(event["id"], moment)

    def read(self, event: dict) -> None:
        """For those who want more of it than when it came."""


class Invoices(_Background):
    """Settled invoices by their payment hash."""

    def __init__(self, client: BareClient):
        super().__init__()
        self._client = client

    async def __aenter__(self) -> "Invoices":
        self._task = asyncio.create_task(self._read())
        await asyncio.sleep(0.5)  # lnd does not tell when it has registered the subscriber
        return self

    async def _read(self) -> None:
        call = self._client.subscribe()
        try:
            async for invoice in call:
                if invoice.state == lightning_pb2.Invoice.SETTLED:
                    self.told += 1
                    self.note(invoice.r_hash, time.perf_counter())
        finally:
            call.cancel()
