"""What the database's schema is of: this version, an older one, or a newer one."""

from dataclasses import dataclass

from django.conf import settings
from django.db import Error, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from nodeapi.models import SchemaVersion


@dataclass(frozen=True)
class Schema:
    """Migrations, as app.name: `pending` are not applied yet; `newer` were applied by a version that this code does not
    know. `is_empty`: no migration was ever applied.
    """

    pending: tuple[str, ...]
    newer: tuple[str, ...]
    is_empty: bool

    @property
    def made_by(self) -> str:
        """Which version made a newer schema, as far as it can be told."""
        names = ", ".join(self.newer[:3])
        version = _recorded_version()
        # Between releases versions have the same number.
        named = f"version {version}" if version not in ("", settings.VERSION) else "a newer version"
        return f"{named} of the node ({names})"


def read() -> Schema:
    """Raises django.db.Error."""
    executor = MigrationExecutor(connection)
    loader = executor.loader
    pending = [migration for migration, _ in executor.migration_plan(loader.graph.leaf_nodes())]
    squashed = {name for migration in loader.replacements.values() for name in migration.replaces}
    newer = [
        key for key in loader.applied_migrations if key not in loader.disk_migrations and key not in squashed
    ]
    return Schema(
        pending=tuple(f"{migration.app_label}.{migration.name}" for migration in pending),
        newer=tuple(sorted(f"{app}.{name}" for app, name in newer)),
        is_empty=not loader.applied_migrations,
    )


def record(version: str) -> None:
    """This version runs on the database now. Raises django.db.Error."""
    if _recorded_version() != version:
        SchemaVersion.objects.update_or_create(pk=1, defaults={"version": version, "since": timezone.now()})


def _recorded_version() -> str:
    try:
        # An older database has no such table; on PostgreSQL the failure must not end an outer transaction.
        with transaction.atomic():
            return SchemaVersion.objects.values_list("version", flat=True).filter(pk=1).first() or ""
    except Error:
        return ""
