"""A database for the parts of the API that store something."""

from collections.abc import AsyncIterator, Iterator

import pytest

from messaging.database import Database
from tests.support.tables import all_tables, emptied


@pytest.fixture
def tables(migrated: None) -> Iterator[None]:
    """All of the node's: what is counted over a whole table must not depend on which test ran before."""
    yield from emptied(all_tables())


@pytest.fixture
async def database(tables: None) -> AsyncIterator[Database]:
    database = Database()
    yield database
    await database.close()
