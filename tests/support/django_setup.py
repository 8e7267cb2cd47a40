"""Django with a configuration of its own, before modules that import models are collected."""

import os
import tempfile
from pathlib import Path

import django
import yaml
from django.db.backends.signals import connection_created

from tests.support.databases import new_database_url

DIRECTORY = tempfile.TemporaryDirectory(prefix="impervious-tests-")


def set_up_django(directory: Path) -> None:
    config = {
        "service_list": [{"service_type": "message", "active": True, "custom_record_number": 400000}],
        "lightning": {"lnd_node": {"ip": "127.0.0.1", "port": 10009, "admin_macaroon_hex": "00" * 32}},
        "database": {"url": new_database_url(directory)},
    }
    path = directory / "config.yml"
    path.write_text(yaml.safe_dump(config))
    os.environ["DJANGO_SETTINGS_MODULE"] = "impervious_site.settings"
    before = os.environ.pop("IMPD_CONFIG", None)
    os.environ["IMPD_CONFIG"] = str(path)
    try:
        django.setup()
    finally:
        # Only these settings are for it: other tests start processes, and read configurations, of their own.
        del os.environ["IMPD_CONFIG"], os.environ["DJANGO_SETTINGS_MODULE"]
        if before is not None:
            os.environ["IMPD_CONFIG"] = before


def commit_without_waiting(connection, **_) -> None:
    """No test of this process cuts the power: its commits need not wait for the disk."""
    if connection.vendor == "sqlite":
        connection.cursor().execute("PRAGMA synchronous = OFF")


set_up_django(Path(DIRECTORY.name))
connection_created.connect(commit_without_waiting)
