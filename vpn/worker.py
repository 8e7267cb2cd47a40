"""The VPN's worker: both halves side by side, so that neither waits for the other's lnd or interface."""

import asyncio

from messaging.workers import WorkerContext
from vpn import timing
from vpn.buyer import Buyer
from vpn.seller import Seller


async def run(context: WorkerContext) -> None:
    await timing.take_up(context.clock, context.database)
    async with asyncio.TaskGroup() as group:
        group.create_task(timing.keep_forever(context.clock, context.database))
        group.create_task(Seller(context).run())
        group.create_task(Buyer(context).run())
