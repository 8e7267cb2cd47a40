"""Waits for what comes about in its own time, on however busy a machine."""

import time
from collections.abc import Callable

GUARD_SECONDS = 600


def until(condition: Callable[[], object]) -> None:
    for _ in range(GUARD_SECONDS * 20):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"did not come about in {GUARD_SECONDS} s")
