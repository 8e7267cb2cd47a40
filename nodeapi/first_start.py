"""The database as the node needs it at its start: migrated (where it is a file, copied before), in the present if it was
restored, with a first admin, and with an API key where the node is to be reached by others.
"""

import logging

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from nodeapi import keys
from nodeapi.backups import returned
from nodeapi.safety_copy import copy_before_migration

logger = logging.getLogger(__name__)


def prepare_database(config) -> None:
    """Blocks; runs before the event loop. StartError when an older database cannot be copied before its migration, a
    restored one lacks its files, or a node that others reach has no API key.
    """
    migrate(config)
    returned.finish(config)
    _make_first_admin(config.admin)
    if warning := keys.require_credentials(config):
        logger.warning("configuration: %s", warning)
    connection.close()


def migrate(config) -> None:
    """As the code needs it. Nothing is done where nothing is to be done."""
    executor, pending = _pending()
    if pending:
        if executor.loader.applied_migrations:
            _keep_what_was(config.database.sqlite_path, pending[0])
        call_command("migrate", interactive=False, verbosity=0)
        logger.info("database migrated")


def is_migrated() -> bool:
    return not _pending()[1]


def _pending() -> tuple[MigrationExecutor, list]:
    executor = MigrationExecutor(connection)
    return executor, [
        migration for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())
    ]


def _keep_what_was(path, migration) -> None:
    if path is None:
        logger.warning(
            "the PostgreSQL database is migrated now; a copy of what it was is yours to make (pg_dump)"
        )
        return
    copy = copy_before_migration(path, f"{migration.app_label}.{migration.name}")
    logger.info("the database is migrated now; what it was is kept in %s", copy)


def _make_first_admin(admin) -> None:
    users = get_user_model().objects
    if not admin.username or admin.password is None or users.filter(is_superuser=True).exists():
        return
    users.create_superuser(username=admin.username, password=admin.password.get_secret_value())
    logger.info("first admin account made", extra={"username": admin.username})
