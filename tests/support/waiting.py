"""Waits for what comes about in its own time, on however busy a machine."""

import asyncio
import inspect
import time
from collections.abc import Callable

GUARD_SECONDS = 600


def until(condition: Callable[[], object]) -> None:
    for _ in range(GUARD_SECONDS * 20):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"did not come about in {GUARD_SECONDS} s")


async def until_in_loop(condition: Callable[[], object]) -> None:
    """Lets the tasks of this event loop run until the condition, which may be awaitable, is true."""
    async with asyncio.timeout(GUARD_SECONDS):
        while True:
            met = condition()
            if await met if inspect.isawaitable(met) else met:
                return
            await asyncio.sleep(0)
