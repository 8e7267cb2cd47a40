"""A database for the parts of the API that store something."""

from collections.abc import AsyncIterator, Iterator

import pytest

from messaging.database import Database
from messaging.models import Attempt, Event, IdempotencyKey, InvoiceMark, Message
from nodeapi.models import ApiKey, AuditEntry

TABLES = (AuditEntry, ApiKey, IdempotencyKey, Message, Attempt, Event, InvoiceMark)


@pytest.fixture
def tables(migrated: None) -> Iterator[None]:
    """Empty before and afterwards."""
    _clear()
    yield
    _clear()


@pytest.fixture
async def database(tables: None) -> AsyncIterator[Database]:
    database = Database()
    yield database
    await database.close()


def _clear() -> None:
    for table in TABLES:
        if table.objects.exists():
            table.objects.all().delete()
