"""The time by which leases end, kept over restarts: a node that is started while its machine's clock is wrong goes on
by the time that it knew before.
"""

import asyncio
import logging

from messaging.clock import Clock, boot_id
from messaging.database import Database
from vpn.models import KeptClock

logger = logging.getLogger("vpn.timing")

LOOK_SECONDS = 5.0
# Clocks are corrected by less all the time.
WORTH_KEEPING_SECONDS = 1.0


async def take_up(clock: Clock, database: Database) -> None:
    """Before anything ends by the clock."""
    kept = await database.read(KeptClock.objects.first)
    if kept and boot_id() and kept.boot_id == boot_id():
        clock.resume(kept.offset_seconds)
    await _keep(clock, database)


async def keep_forever(clock: Clock, database: Database) -> None:
    kept_seconds = clock.offset_seconds
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        clock.now()
        if abs(clock.offset_seconds - kept_seconds) < WORTH_KEEPING_SECONDS:
            continue
        try:
            await _keep(clock, database)
            kept_seconds = clock.offset_seconds
        except Exception:
            logger.exception("VPN: the time could not be kept; trying again")


async def _keep(clock: Clock, database: Database) -> None:
    row = KeptClock(pk=1, boot_id=boot_id(), offset_seconds=clock.offset_seconds)
    await database.write(row.save)
