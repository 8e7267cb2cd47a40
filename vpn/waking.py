"""A bell between threads: a step that has stored something rings it after the commit, and the worker looks at once."""

import asyncio


class Wake:
    """`ring` from any thread; one task waits."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = asyncio.Event()

    def ring(self) -> None:
        if self._loop is None:
            self._rung.set()
            return
        try:
            self._loop.call_soon_threadsafe(self._rung.set)
        except RuntimeError:
            pass  # the loop has ended: the next start looks anyway

    async def wait(self, seconds: float) -> None:
        """Until it rings, or so many seconds have passed."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            pass
        self._rung.clear()
