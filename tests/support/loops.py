"""Networks that live on an event loop, for tests that are not asynchronous."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from tests.support.real_lnd import RealNetwork

# Ends what hangs, on however busy a machine.
GUARD_SECONDS = 900


class LoopThread:
    """An event loop of its own, because the network's processes belong to one."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, coroutine):
        future: Future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(timeout=GUARD_SECONDS)


@contextmanager
def running(network: RealNetwork, loop: LoopThread) -> Iterator[RealNetwork]:
    loop.run(network.__aenter__())
    try:
        yield network
    finally:
        loop.run(network.stop())
