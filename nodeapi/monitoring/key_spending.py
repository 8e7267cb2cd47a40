"""What was spent with each API key, for the metrics."""

from collections.abc import Callable, Mapping

from channels.db import database_sync_to_async

from nodeapi.auth import Keys
from nodeapi.monitoring.asking import Refreshed

KEEP_SECONDS = 60.0
RETRY_SECONDS = 10.0


class KeySpending:
    """Adds up each key's rows again and again, behind whoever reads. Of a key with 100,000 messages a day that takes a second,
    for which no other read of the node should wait: a thread of its own does it, over a connection of its own.
    """

    def __init__(self, keys: Keys, spent_msat: Callable[[str], int]):
        self._keys = keys
        self._spent_msat = database_sync_to_async(spent_msat, thread_sensitive=False)
        self._found = Refreshed(
            self._look,
            keep_seconds=KEEP_SECONDS,
            retry_seconds=RETRY_SECONDS,
            what="what API keys have spent",
        )

    @property
    def msat_by_key(self) -> Mapping[str, int]:
        """Empty until it was looked up."""
        return self._found.last or {}

    async def _look(self) -> dict[str, int]:
        return {caller.name: await self._spent_msat(caller.name) for caller in self._keys.callers}
