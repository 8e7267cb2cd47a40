"""Which version's schema a database has, and who refuses it."""

import pytest
from django.conf import settings
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from nodeapi import first_start, schema
from nodeapi.errors import StartError
from nodeapi.models import SchemaVersion
from tests.support.tables import emptied


@pytest.fixture(autouse=True)
def versions(migrated: None):
    yield from emptied((SchemaVersion,))


@pytest.fixture
def future(versions):
    recorder = MigrationRecorder(connection)
    recorder.record_applied("messaging", "9999_future")
    yield
    recorder.record_unapplied("messaging", "9999_future")


def test_schema_of_this_version():
    assert schema.read() == schema.Schema(pending=(), newer=(), is_empty=False)
    first_start.refuse_newer(schema.read())


def test_schema_of_an_older_version():
    recorder = MigrationRecorder(connection)
    ((app, newest),) = MigrationLoader(connection).graph.leaf_nodes("nodeapi")
    recorder.record_unapplied(app, newest)
    try:
        assert schema.read().pending == (f"{app}.{newest}",)
    finally:
        recorder.record_applied(app, newest)


@pytest.mark.parametrize(
    ("recorded", "named"),
    [
        ("9.1.0", "version 9.1.0 of the node"),
        ("", "a newer version of the node"),
        (settings.VERSION, "a newer version of the node"),
    ],
)
def test_schema_of_a_newer_version_is_refused(future, recorded, named):
    if recorded:
        schema.record(recorded)
    found = schema.read()
    assert found.newer == ("messaging.9999_future",)
    with pytest.raises(StartError, match=rf"made by {named} \(messaging\.9999_future\), and this is version"):
        first_start.refuse_newer(found)


def test_app_of_a_newer_version():
    recorder = MigrationRecorder(connection)
    recorder.record_applied("calls", "0001_initial")
    try:
        assert schema.read().newer == ("calls.0001_initial",)
    finally:
        recorder.record_unapplied("calls", "0001_initial")


def test_version_that_could_not_be_recorded(future):
    with connection.schema_editor() as editor:
        editor.delete_model(SchemaVersion)
    try:
        assert "a newer version" in schema.read().made_by
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(SchemaVersion)


def test_version_is_written_when_it_changes():
    for version in ("0.2.0", "0.2.0", "0.3.0"):
        schema.record(version)
        row = SchemaVersion.objects.get()
        assert row.version == version
        if version == "0.2.0":
            since = SchemaVersion.objects.order_by("since").first().since
            assert row.since == since
