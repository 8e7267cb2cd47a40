"""How long a record to a node may be, where its route is known to be short: what is joined may fill it.

Only a hint. A record that does not fit any more, because the route has become longer, is not received; what it carried is
tried again by itself.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine

# Routes change; and lnd need not be asked often.
GOOD_FOR_SECONDS = 600.0
_MAX_REMEMBERED = 10_000

# Bytes that fit a record to this node (hex) for this service with some hops to spare; None when there is no way now.
Survey = Callable[[str, str], Awaitable[int | None]]


class Rooms:
    """`bytes_to` may be called from any thread; all else from one event loop."""

    def __init__(self, survey: Survey):
        self._survey = survey
        self._bytes: dict[str, int] = {}
        self._asked_at: dict[str, float] = {}

    def bytes_to(self, pubkey: str) -> int:
        """0 when it is not known."""
        return self._bytes.get(pubkey, 0)

    def is_due(self, pubkey: str) -> bool:
        """Whether it is time to look at the way to this node (again)."""
        asked_at = self._asked_at.get(pubkey)
        return asked_at is None or time.monotonic() - asked_at > GOOD_FOR_SECONDS

    def look(self, pubkey: str, service: str) -> Coroutine[None, None, None]:
        """To be run as a task; from now on it is not due."""
        if len(self._asked_at) >= _MAX_REMEMBERED:
            self._asked_at.clear()
            self._bytes.clear()
        self._asked_at[pubkey] = time.monotonic()
        return self._look(pubkey, service)

    async def _look(self, pubkey: str, service: str) -> None:
        room_bytes = await self._survey(pubkey, service)
        if room_bytes is None:
            self.forget(pubkey)
        else:
            self._bytes[pubkey] = room_bytes

    def forget(self, pubkey: str) -> None:
        """A record did not fit. It is not asked again before its time."""
        self._bytes.pop(pubkey, None)
