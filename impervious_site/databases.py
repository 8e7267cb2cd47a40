"""Django's settings for either kind of database. What was answered with an id survives a power cut in both."""

from collections.abc import Mapping
from typing import Any

_DJANGO_NAMES = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}


def sqlite_settings(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "impervious_site.sqlite",
        "NAME": name,
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            # FULL waits for the disk at each (grouped) commit.
            # The log keeps no more than 32 MB once it is empty, however large it was.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-8000; "
            "PRAGMA journal_size_limit=33554432;",
        },
    }


def postgres_settings(parameters: Mapping[str, str]) -> dict[str, Any]:
    """From libpq's parameters. synchronous_commit stays the server's; a node refuses to start where it is off."""
    named = {django: parameters[libpq] for libpq, django in _DJANGO_NAMES.items() if libpq in parameters}
    options = {name: value for name, value in parameters.items() if name not in _DJANGO_NAMES}
    return {"ENGINE": "django.db.backends.postgresql", **named, "OPTIONS": options}
