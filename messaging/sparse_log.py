"""Lines of the log that strangers can cause for a satoshi each: one now and then with the counts, because a flood must not
fill the log.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

PAUSE_SECONDS = 60.0


class SparseLog:
    """Tells `text` for each thing that is counted: its names under `fields`, of which there are few, and how often since the
    last time. The first of a name is told at once, what comes within `pause_seconds` of a line together. Use from one
    event loop.
    """

    def __init__(
        self,
        logger: logging.Logger,
        level: int,
        text: str,
        fields: tuple[str, ...],
        *,
        pause_seconds: float = PAUSE_SECONDS,
    ):
        self._logger = logger
        self._level = level
        self._text = text
        self._fields = fields
        self._pause_seconds = pause_seconds
        self._untold: Counter[tuple[str, ...]] = Counter()
        # In this pause.
        self._told: set[tuple[str, ...]] = set()

    def note(self, counts: Mapping[Any, int]) -> None:
        """How often what was seen since: by tuples of as many words as there are fields."""
        self._untold += Counter(counts)
        is_pausing = bool(self._told)
        for names in sorted(self._untold.keys() - self._told):
            count = self._untold.pop(names)
            named = dict(zip(self._fields, names, strict=True))
            self._logger.log(self._level, self._text, extra=named | {"count": count})
            self._told.add(names)
        if self._told and not is_pausing:
            asyncio.get_running_loop().call_later(self._pause_seconds, self._end_pause)

    def _end_pause(self) -> None:
        self._told.clear()
        self.note(Counter())
