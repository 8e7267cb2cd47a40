"""Follows invoices in lnd: its stream of a single invoice is the only one that tells when a payment is held."""

import asyncio
import logging
from collections.abc import Callable

from lightning.client import LndClient, LndError
from protos.lnrpc import lightning_pb2

logger = logging.getLogger("vpn.watch")


class InvoiceWatch:
    """`changed` is called when one of those that are followed is held or has ended; `take` says which. A stream that
    ends is opened again by the next `follow`; what it missed is for its user to look up now and then.
    """

    def __init__(self, client: LndClient, changed: Callable[[], None]):
        self._client = client
        self._changed = changed
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._told: set[bytes] = set()

    @property
    def followed(self) -> set[bytes]:
        return set(self._tasks)

    def follow(self, hashes: set[bytes]) -> None:
        """These and no others."""
        for payment_hash in self._tasks.keys() - hashes:
            self._tasks.pop(payment_hash).cancel()
        for payment_hash in hashes:
            task = self._tasks.get(payment_hash)
            if task is None or task.done():
                self._tasks[payment_hash] = asyncio.create_task(self._listen(payment_hash))

    def take(self) -> set[bytes]:
        told, self._told = self._told, set()
        return told

    def close(self) -> None:
        self.follow(set())

    async def _listen(self, payment_hash: bytes) -> None:
        try:
            async for invoice in self._client.subscribe_single_invoice(payment_hash):
                if invoice.state != lightning_pb2.Invoice.OPEN:
                    self._told.add(payment_hash)
                    self._changed()
        except LndError as error:
            logger.debug("invoice stream: %s", error)
