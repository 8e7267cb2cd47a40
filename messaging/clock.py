"""The time that things end by: the wall clock, unless it has just jumped.

A machine whose clock is set wrong for a while must not end everything at once. The wall clock is compared with one that
only counts seconds; when the two part, time goes on as it was until the wall clock has kept its new course for a while.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger("messaging.clock")

# What a clock may be corrected by without being doubted; how long it is watched after more than that.
JUMP_SECONDS = 10.0
SETTLE_SECONDS = 600.0

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def steady_seconds() -> float:
    """Seconds that pass, those in which the machine was suspended among them where the system counts these."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def boot_id() -> str:
    """While it is the same, so is the steady clock's beginning; empty where the system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class Clock:
    """Ask it now and then: it only notices a jump when it is asked."""

    def __init__(
        self, *, wall: Callable[[], float] = time.time, steady: Callable[[], float] = steady_seconds
    ):
        self._wall, self._steady = wall, steady
        # What has to be added to the steady seconds: as trusted, and as the wall clock has it since it jumped.
        self._trusted = wall() - steady()
        self._doubted: float | None = None
        self._doubted_since = 0.0
        self._looking = threading.Lock()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_seconds(), UTC)

    def now_seconds(self) -> float:
        """Unix time in seconds."""
        with self._looking:
            steady = self._steady()
            self._look(self._wall() - steady, steady)
            return steady + self._trusted

    @property
    def offset_seconds(self) -> float:
        """What is trusted: to be kept, with the boot's id, for the next process to `resume`."""
        return self._trusted

    def resume(self, offset_seconds: float) -> None:
        """Goes on from what an earlier process trusted: a clock that has jumped since, or while that one ran, is not
        believed because of a restart.
        """
        if abs(self._trusted - offset_seconds) > JUMP_SECONDS:
            self._trusted = offset_seconds
            self.now_seconds()

    def _look(self, offset: float, steady: float) -> None:
        if abs(offset - self._trusted) <= JUMP_SECONDS:
            if self._doubted is not None:
                logger.warning("the clock is back from its jump")
            self._trusted, self._doubted = offset, None
        elif self._doubted is None or abs(offset - self._doubted) > JUMP_SECONDS:
            self._doubted, self._doubted_since = offset, steady
            logger.warning(
                "the clock jumped by %.0f seconds; nothing ends by it unless it stays so for %.0f seconds",
                offset - self._trusted,
                SETTLE_SECONDS,
            )
        elif steady - self._doubted_since >= SETTLE_SECONDS:
            logger.warning("the clock has kept its new time; it holds from now on")
            self._trusted, self._doubted = offset, None


# That of this process: what it spends, and what was asked for in the last 24 hours, is counted by one clock.
PROCESS = Clock()


def now() -> datetime:
    """The time of this process's clock."""
    return PROCESS.now()
