"""The database as the node needs it at its start: migrated (where it is a file, copied before), in the present if it was
restored, with a first admin, and with an API key where the node is to be reached by others.
"""

import logging

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection

from nodeapi import keys, schema
from nodeapi.backups import returned
from nodeapi.database_copy import refuse_copied
from nodeapi.errors import StartError
from nodeapi.node_files import copies_of, files_in_use, tighten
from nodeapi.safety_copy import copy_before_migration

logger = logging.getLogger("nodeapi.first_start")


def prepare_database(config) -> None:
    """Blocks; runs before the event loop. StartError when the database is a newer version's; an older one cannot be copied
    before its migration; a restored one lacks its files; or a node that others reach has no API key.
    """
    _close_files(config.database)
    if config.database.sqlite_path:
        refuse_copied(config.database.sqlite_path)
    migrate(config)
    schema.record(settings.VERSION)
    returned.finish(config)
    _make_first_admin(config.admin)
    if warning := keys.require_credentials(config):
        logger.warning("configuration: %s", warning)
    connection.close()


def migrate(config) -> None:
    """As the code needs it. Nothing is done where nothing is to be done. StartError when the database is a newer
    version's.
    """
    found = schema.read()
    refuse_newer(found)
    if found.pending:
        if not found.is_empty:
            _keep_what_was(config.database.sqlite_path, found.pending[0])
        call_command("migrate", interactive=False, verbosity=0)
        logger.info("database migrated")


def refuse_newer(found: schema.Schema) -> None:
    """StartError when a newer version has changed the schema: this one could damage what is there."""
    if found.newer:
        raise StartError(
            f"database.url: the database was made by {found.made_by}, and this is version {settings.VERSION}: install that version, "
            "or put back the copy from before its update (docs/upgrading.md)"
        )


def _close_files(database) -> None:
    """Earlier versions let other users read the database, if another command than the node made it."""
    if database.sqlite_path is None:
        return
    path = database.sqlite_path
    if changed := tighten([*files_in_use(path), *copies_of(path)]):
        logger.warning("other users could read %s; now they cannot", ", ".join(map(str, changed)))


def _keep_what_was(path, migration: str) -> None:
    if path is None:
        logger.warning(
            "the PostgreSQL database is migrated now; a copy of what it was is yours to make (pg_dump)"
        )
        return
    copy = copy_before_migration(path, migration)
    logger.info("the database is migrated now; what it was is kept in %s", copy)


def _make_first_admin(admin) -> None:
    users = get_user_model().objects
    if not admin.username or admin.password is None or users.filter(is_superuser=True).exists():
        return
    users.create_superuser(username=admin.username, password=admin.password.get_secret_value())
    logger.info("first admin account made", extra={"username": admin.username})
