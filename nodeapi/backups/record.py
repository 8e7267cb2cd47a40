"""When the last backup was made: kept in the database, for every process of the node."""

from datetime import datetime

from nodeapi.models import LastBackup


def note_backup(made_at: datetime) -> None:
    """A backup of this moment is whole. Raises django.db.Error."""
    LastBackup.objects.update_or_create(pk=1, defaults={"made_at": made_at})


def last_backup_at() -> datetime | None:
    """None if there was none. In a database that was restored, what it knew when its backup was made."""
    return LastBackup.objects.values_list("made_at", flat=True).filter(pk=1).first()
