"""Tells why payments hang that seem to have no end: where they stand in the node's tables, as long as that is so."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial

from messaging.database import Database

logger = logging.getLogger("messaging.suspected")

TELL_SECONDS = 1.0

# By the names of payments, why they hang; and the names of those that do not any more.
Store = Callable[[Mapping[bytes, str], Collection[bytes]], None]


async def tell_forever(
    database: Database, suspected: Callable[[], Mapping[bytes, str]], store: Store
) -> None:
    """Runs `store` in a transaction whenever `suspected` has changed, until cancelled."""
    told: dict[bytes, str] = {}
    while True:
        try:
            causes = dict(suspected())
            if causes != told:
                await database.write(partial(store, causes, told.keys() - causes.keys()))
                told = causes
        except Exception:
            logger.exception("why payments hang could not be stored; trying again")
        await asyncio.sleep(TELL_SECONDS)
