"""How both halves of the worker look after their rows: again and again, and several rows at a time, so that the commits
and the calls of lnd of one row do not wait for those of another.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from lightning.client import LndError
from vpn.waking import Wake

logger = logging.getLogger("vpn.looking")

AT_ONCE = 16

Row = TypeVar("Row")


async def look_forever(
    look: Callable[[], Awaitable[None]], wake: Wake, pause_seconds: Callable[[], float], *, name: str
) -> None:
    """When `wake` rings, and after each pause. Trouble is logged, and what was left is taken up by the next look."""
    while True:
        try:
            await look()
        except LndError as error:
            logger.warning("VPN: %s; trying again", error)
        except Exception:
            logger.exception("VPN: %s could not be looked after; trying again", name)
        await wake.wait(pause_seconds())


async def each(rows: Iterable[Row], step: Callable[[Row], Awaitable[None]]) -> None:
    """One that lnd has trouble with holds up no other. Raises what passes, such as that lnd is away, once all had their
    turn.
    """
    turns = asyncio.Semaphore(AT_ONCE)

    async def take(row: Row) -> None:
        async with turns:
            try:
                await step(row)
            except LndError as error:
                if error.trouble.passes:
                    raise
                logger.error("VPN: a payment cannot be looked after: %s", error)

    ends = await asyncio.gather(*map(take, rows), return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
