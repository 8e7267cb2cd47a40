from collections.abc import AsyncIterator, Iterator

import pytest

from messaging.database import Database
from tests.support.tables import emptied
from tests.support.vpn_deals import TABLES, vpn_settings
from vpn.settings import VpnSettings


@pytest.fixture
def tables(migrated: None) -> Iterator[None]:
    """Those of leases and messages, empty before and afterwards."""
    yield from emptied(TABLES)


@pytest.fixture
async def database(tables: None) -> AsyncIterator[Database]:
    database = Database()
    yield database
    await database.close()


@pytest.fixture
def settings() -> VpnSettings:
    return vpn_settings()
