"""The engine: all that one node does of its own accord. It lives in the runimpd process, once."""

import asyncio
import logging
from dataclasses import dataclass
from functools import partial

from lightning.carrier import KeysendCarrier
from lightning.client import LndClient, LndError
from messaging.database import Database
from messaging.events import Published, Waker
from messaging.events import prune as prune_events
from messaging.inbox import Inbox
from messaging.outbox import Limits, Outbox
from messaging.registry import Registry
from nodeapi.lnd_status import LndStatus

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 1.0
PRUNE_SECONDS = 86_400.0
# A little at a time, so that other writes need not wait.
PRUNE_AT_ONCE = 1_000


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """Bytes of one message; the outbox' limits; lnd's fee limits (the larger of the two holds)."""

    max_bytes: int
    outbox: Limits
    max_fee_sat: int
    max_fee_percent: float
    keep_days: int


class Engine:
    """Made once lnd has answered. `run` works until cancelled."""

    def __init__(
        self,
        *,
        database: Database,
        client: LndClient,
        lnd: LndStatus,
        registry: Registry,
        limits: EngineLimits,
        version: str,
        feed: Published,
    ):
        self.lnd = lnd
        self.registry = registry
        self.limits = limits
        self.version = version
        self.own_pubkey = bytes.fromhex(lnd.info.identity_pubkey)
        self._client = client
        self._database = database
        self._waker = Waker(feed)
        self.outbox = Outbox(
            database=database,
            carrier=KeysendCarrier(
                client, max_fee_sat=limits.max_fee_sat, max_fee_percent=limits.max_fee_percent
            ),
            own_pubkey=self.own_pubkey,
            record_numbers={service.service_type: service.record_number for service in registry.services},
            limits=limits.outbox,
            published=self._waker.published,
        )
        self.inbox = Inbox(
            database=database,
            registry=registry,
            own_pubkey=self.own_pubkey,
            max_bytes=limits.max_bytes,
            published=self._waker.published,
        )
        lnd.on_return = self.outbox.retry_now

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._waker.run())
            group.create_task(self.inbox.run())
            group.create_task(self.outbox.run())
            group.create_task(self.lnd.run())
            group.create_task(self._listen())
            group.create_task(self._prune_daily())

    async def _listen(self) -> None:
        """lnd's invoices into the inbox, over a stream that is replaced when it ends."""
        while True:
            try:
                async for invoice in self._client.subscribe_invoices():
                    await self.inbox.take(invoice)
            except LndError as error:
                logger.warning("invoice stream: %s; opening it again", error)
            except Exception:
                logger.exception("invoice stream; opening it again")
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _prune_daily(self) -> None:
        while True:
            prune = partial(prune_events, keep_days=self.limits.keep_days, most=PRUNE_AT_ONCE)
            try:
                while await self._database.write(prune):
                    pass
            except Exception:
                logger.exception("old events could not be deleted; trying again tomorrow")
            await asyncio.sleep(PRUNE_SECONDS)
