from collections.abc import AsyncIterator, Iterator

import pytest

from invoices.models import Invoice, InvoicePayment
from messaging.database import Database
from messaging.models import Event, IdempotencyKey
from tests.support.tables import emptied


@pytest.fixture
def tables(migrated: None) -> Iterator[None]:
    """Those of invoices, empty before and afterwards."""
    yield from emptied((Invoice, InvoicePayment, Event, IdempotencyKey))


@pytest.fixture
async def database(tables: None) -> AsyncIterator[Database]:
    database = Database()
    yield database
    await database.close()
