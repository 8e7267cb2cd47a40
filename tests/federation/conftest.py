"""Django is set up, once for all tests, by the conftest of messaging."""

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.db import connection

from tests.messaging.conftest import DIRECTORY  # noqa: F401


@pytest.fixture(scope="session")
def migrated() -> Iterator[None]:
    call_command("migrate", verbosity=0)
    yield
    connection.close()
