"""How often each API key may call: at most so many calls in any 60 seconds. Of this process alone, and from its start on."""

import math
import time
from collections import deque
from collections.abc import Callable

import grpc

from nodeapi.errors import ApiError

WINDOW_SECONDS = 60.0
# So many moments are remembered of a key.
MAX_CALLS_PER_MINUTE = 100_000


class Rates:
    """Memory is bounded by the number of keys and their limits."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._calls: dict[str, deque[float]] = {}

    def count(self, name: str, per_minute: int) -> None:
        """ApiError RESOURCE_EXHAUSTED for a call too many, which does not count."""
        now = self._now()
        calls = self._calls.setdefault(name, deque())
        while calls and calls[0] <= now - WINDOW_SECONDS:
            calls.popleft()
        if len(calls) >= per_minute:
            # After the limit was made smaller there may be more than it permits.
            seconds = calls[len(calls) - per_minute] + WINDOW_SECONDS - now
            raise ApiError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the API key {name!r} has used up its {per_minute} calls a minute; the next is free in "
                f"{math.ceil(seconds)} s",
                retry_after_seconds=seconds,
            )
        calls.append(now)
