"""What settled while nobody listened: a walk over lnd's invoices, from a stored mark to the end.

The mark is an add_index (they have no holes) below which no invoice of interest can change any more. Settle indices are
no help: they have holes that never fill, and any stranger can make one for a satoshi by paying a known preimage again.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import grpc

from lightning.client import LndError
from messaging.database import Database
from messaging.inbox import Inbox
from messaging.models import InvoiceMark
from protos.lnrpc import lightning_pb2

logger = logging.getLogger("messaging.catchup")

PAGE = 1_000
# A keysend is settled or canceled as soon as it is there. One that stays open after its expiry and a day more is dead.
DEAD_AFTER_SECONDS = 86_400

ListInvoices = Callable[[lightning_pb2.ListInvoiceRequest], Awaitable[lightning_pb2.ListInvoiceResponse]]


@dataclass(frozen=True)
class Found:
    """What one walk brought: payments that were not known before."""

    payments: int


class Walk:
    """Walks over the invoices of one lnd, whose key is `own_pubkey`. `walk` raises what `list_invoices` raises."""

    def __init__(self, *, database: Database, inbox: Inbox, own_pubkey: bytes, list_invoices: ListInvoices):
        self._database = database
        self._inbox = inbox
        self._pubkey = own_pubkey.hex()
        self._list_invoices = list_invoices

    async def walk(self) -> Found:
        offset = await self.begin()
        found, mark, passing = 0, offset, True
        while True:
            page = await self._page(offset)
            if not page.invoices:
                return Found(found)
            found += await self._inbox.store_now(list(page.invoices))
            now_seconds = time.time()
            for invoice in page.invoices:
                passing = passing and is_final(invoice, now_seconds)
                mark = invoice.add_index if passing else mark
            await self._database.write(partial(move_mark, self._pubkey, mark))
            offset = page.last_index_offset

    async def _page(self, offset: int) -> lightning_pb2.ListInvoiceResponse:
        """The next invoices, fewer where they are so large that lnd's answer would be too much: whoever pays a known preimage
        again and again makes one invoice grow. One that alone is too large is passed over.
        """
        count = PAGE
        while True:
            try:
                return await self._list_invoices(
                    lightning_pb2.ListInvoiceRequest(index_offset=offset, num_max_invoices=count)
                )
            except LndError as error:
                if error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
            if count == 1:
                logger.error("invoice %d is too large to be read: passed over", offset + 1)
                offset += 1
            else:
                count = max(1, count // 10)

    async def begin(self) -> int:
        """Where to begin. An lnd never seen before begins at its end, years of old payments are no news: so this has to
        be called before the node says that it is there.
        """
        newest = await self._list_invoices(
            lightning_pb2.ListInvoiceRequest(reversed=True, num_max_invoices=1)
        )
        end = newest.last_index_offset
        mark = await self._database.read(partial(read_mark, self._pubkey))
        if mark is None:
            if await self._database.read(InvoiceMark.objects.exists):
                logger.warning(
                    "this lnd is not the one that this node has worked with; its older payments are no news"
                )
            await self._database.write(partial(move_mark, self._pubkey, end))
            return end
        if mark > end:
            logger.warning(
                "lnd has fewer invoices than before: it was restored from an older state; all of them are looked at",
                extra={"mark": mark, "end": end},
            )
            return 0
        return mark


def is_final(invoice: lightning_pb2.Invoice, now_seconds: float) -> bool:
    """Whether an invoice, whose settled payments are stored, cannot bring anything any more."""
    if not invoice.is_keysend or invoice.state in (
        lightning_pb2.Invoice.SETTLED,
        lightning_pb2.Invoice.CANCELED,
    ):
        return True
    return invoice.creation_date + invoice.expiry + DEAD_AFTER_SECONDS < now_seconds


def read_mark(pubkey: str) -> int | None:
    return InvoiceMark.objects.filter(pubkey=pubkey).values_list("add_index", flat=True).first()


def move_mark(pubkey: str, add_index: int) -> None:
    InvoiceMark.objects.update_or_create(pubkey=pubkey, defaults={"add_index": add_index})
