"""Lines of the log that strangers can cause for a satoshi each: one now and then with the counts, because a flood must not
fill the log."""

import asyncio
import logging
from collections import Counter

PAUSE_SECONDS = 60.0


class SparseLog:
    """Tells `text` for each thing that is counted: its names under `fields`, and how often since the last time. The first is
    told at once, what comes within `pause_seconds` of it together. Use from one event loop."""

    def __init__(
        self, logger: logging.Logger, level: int, text: str, fields: tuple[str, ...], *, pause_seconds: float = PAUSE_SECONDS
    ):
        self._logger = logger
        self._level = level
        self._text = text
        self._fields = fields
        self._pause_seconds = pause_seconds
        self._untold: Counter[tuple[str, ...]] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, counts: Counter[tuple[str, ...]]) -> None:
        self._untold += counts
        if self._untold and self._timer is None:
            self._tell()

    def _tell(self) -> None:
        for names, count in sorted(self._untold.items()):
            self._logger.log(self._level, self._text, extra=dict(zip(self._fields, names)) | {"count": count})
        self._timer = asyncio.get_running_loop().call_later(self._pause_seconds, self._end_pause)
        self._untold.clear()

    def _end_pause(self) -> None:
        self._timer = None
        if self._untold:
            self._tell()
