"""The database as the node needs it at its start: migrated, and with a first admin account."""

import logging

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

logger = logging.getLogger(__name__)


def prepare_database(config) -> None:
    """Blocks; runs before the event loop."""
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        call_command("migrate", interactive=False, verbosity=0)
        logger.info("database migrated")
    _make_first_admin(config.admin)
    connection.close()


def _make_first_admin(admin) -> None:
    users = get_user_model().objects
    if not admin.username or admin.password is None or users.filter(is_superuser=True).exists():
        return
    users.create_superuser(username=admin.username, password=admin.password.get_secret_value())
    logger.info("first admin account made", extra={"username": admin.username})
