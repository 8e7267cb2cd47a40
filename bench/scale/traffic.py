"""Messages that arrive at the node at a steady rate, each with the instant of its making in it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.events import BODY_BYTES, Producer
from tests.support.lnd_rpc import BareClient

CLOCK_BYTES = 8


def timed_body() -> bytes:
    return time.monotonic_ns().to_bytes(CLOCK_BYTES) + os.urandom(BODY_BYTES - CLOCK_BYTES)


class Traffic:
    """Sends at `rate` messages a second, which may be changed; 0 sends none."""

    def __init__(self, client: BareClient, to: str):
        self._producer = Producer(client, to, per_record=1, make_body=timed_body)
        self.rate = 0.0
        self.begun = 0

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator["Traffic"]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._flow(group))
            yield self
            task.cancel()

    async def _flow(self, group: asyncio.TaskGroup) -> None:
        due = time.monotonic()
        while True:
            if not self.rate:
                await asyncio.sleep(0.05)
                due = time.monotonic()
                continue
            due += 1 / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            # Where it was set to 0 meanwhile, nobody counts with one more.
            if self.rate:
                self.begun += 1
                group.create_task(self._send())

    async def _send(self) -> None:
        await self._producer.send(await self._producer.prepare(1))
