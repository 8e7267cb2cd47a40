"""The log's line about what the inbound policy refuses: one now and then, because a flood must not fill the log."""

import asyncio
import logging
from collections import Counter

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 60.0


class RefusalLog:
    """Use from one event loop."""

    def __init__(self) -> None:
        self._untold: Counter[tuple[str, str]] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, refused: Counter[tuple[str, str]]) -> None:
        """The first is told at once, what comes within a minute of it together."""
        self._untold += refused
        if self._untold and self._timer is None:
            self._tell()

    def _tell(self) -> None:
        for (service, cause), count in sorted(self._untold.items()):
            logger.info("refused by the inbound policy", extra={"service": service, "cause": cause, "count": count})
        self._timer = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._end_pause)
        self._untold.clear()

    def _end_pause(self) -> None:
        self._timer = None
        if self._untold:
            self._tell()
