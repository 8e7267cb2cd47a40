"""What is under way by the tables, and nobody in this process follows to its end."""

from collections.abc import Collection, Iterable
from uuid import UUID

# How often is looked.
LOOK_SECONDS = 60.0


class Orphans:
    """Remembers one look. What is stored a moment before it is followed, or has just ended, is none."""

    def __init__(self) -> None:
        self._seen: set[UUID] = set()

    def of(self, under_way: Iterable[UUID], followed: Collection[UUID]) -> set[UUID]:
        """Those that nobody followed at the last look either."""
        unfollowed = {key for key in under_way if key not in followed}
        orphans, self._seen = unfollowed & self._seen, unfollowed
        return orphans
