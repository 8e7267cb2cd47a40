"""Rows of a unit test end with it."""

from collections.abc import Iterable, Iterator

from django.apps import apps
from django.db import models

ROOMS = ("federation", "invoices", "messaging", "nodeapi", "vpn")


def all_tables() -> list[type[models.Model]]:
    """Those of the node, in an order in which they can be emptied."""
    tables = [table for room in ROOMS for table in apps.get_app_config(room).get_models()]
    return sorted(tables, key=lambda table: not _protects(table))


def _protects(table: type[models.Model]) -> bool:
    """Whether its rows keep others from being deleted."""
    references = [field.remote_field for field in table._meta.fields if field.remote_field]
    return any(reference.on_delete is models.PROTECT for reference in references)


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
        if table.objects.exists():
            table.objects.all().delete()
