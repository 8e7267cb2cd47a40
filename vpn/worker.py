"""The VPN's worker: both halves side by side, so that neither waits for the other's lnd or interface."""

import asyncio

from messaging.workers import WorkerContext
from vpn.buyer import Buyer
from vpn.seller import Seller


async def run(context: WorkerContext) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(Seller(context).run())
        group.create_task(Buyer(context).run())
