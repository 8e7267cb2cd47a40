"""The walk over lnd's invoices where lnd's answers are too large. The pages come from a function, as lnd would give them."""

import asyncio
import time

import grpc
import pytest
from django.core.management import call_command
from django.db import connection

from lightning.client import LndError, Trouble
from messaging.catchup import Walk
from messaging.database import Database
from messaging.models import InvoiceMark
from protos.lnrpc import lightning_pb2

PUBKEY = b"\x02" * 33
TOO_LARGE = 5
LAST = 12


@pytest.fixture(autouse=True)
def migrated():
    call_command("migrate", verbosity=0)
    InvoiceMark.objects.all().delete()
    yield
    InvoiceMark.objects.all().delete()
    connection.close()


class Shelf:
    """Takes what the walk brings, and notes which invoices those were."""

    def __init__(self):
        self.stored: list[int] = []

    async def store_now(self, invoices) -> int:
        self.stored += [invoice.add_index for invoice in invoices]
        return 0


async def list_invoices(request: lightning_pb2.ListInvoiceRequest) -> lightning_pb2.ListInvoiceResponse:
    """Twelve plain invoices, of which one is more than an answer may hold."""
    if request.reversed:
        return lightning_pb2.ListInvoiceResponse(last_index_offset=LAST)
    indices = range(request.index_offset + 1, min(LAST, request.index_offset + request.num_max_invoices) + 1)
    if TOO_LARGE in indices:
        raise LndError(Trouble.REFUSED, "too large", code=grpc.StatusCode.RESOURCE_EXHAUSTED)
    invoices = [lightning_pb2.Invoice(add_index=index, creation_date=int(time.time())) for index in indices]
    return lightning_pb2.ListInvoiceResponse(
        invoices=invoices, last_index_offset=indices[-1] if invoices else 0
    )


async def walk(shelf: Shelf) -> None:
    database = Database()
    mark = InvoiceMark(pubkey=PUBKEY.hex(), add_index=0)
    try:
        await database.write(mark.save)
        await Walk(database=database, inbox=shelf, own_pubkey=PUBKEY, list_invoices=list_invoices).walk()
    finally:
        await database.close()


def test_one_that_is_too_large_stops_no_walk():
    shelf = Shelf()
    asyncio.run(walk(shelf))
    assert shelf.stored == [index for index in range(1, LAST + 1) if index != TOO_LARGE]
    assert InvoiceMark.objects.get().add_index == LAST
