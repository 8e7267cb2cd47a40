"""Rows of a unit test end with it."""

from collections.abc import Iterable, Iterator

from django.db import models


def emptied(tables: Iterable[type[models.Model]]) -> Iterator[None]:
    """What a fixture is made of: these tables are empty before and after the test. Those that protect the rows of others
    come first.
    """
    tables = tuple(tables)
    _clear(tables)
    yield
    _clear(tables)


def _clear(tables: tuple[type[models.Model], ...]) -> None:
    for table in tables:
        table.objects.all().delete()
