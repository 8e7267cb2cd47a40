from collections.abc import Sequence

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from nodeapi import schema


class Command(BaseCommand):
    help = (
        "Makes this version ready to be started: installs its packages, makes the pages at /docs, and says which migrations "
        "the next start applies. For the owner of the installation, before a service is started again."
    )
    requires_system_checks = []

    def handle(self, *args, **options):
        """./impervious has done the rest by now."""
        if settings.IMPD is None:
            self.stdout.write("No configuration is named (--config PATH), so no database was looked at.")
            return
        path = settings.IMPD.database.sqlite_path
        if path and not path.exists():
            self.stdout.write(f"There is no database yet: the first start makes {path}.")
            return
        try:
            found = schema.read()
        except Error as error:
            self.stdout.write(f"The database could not be looked at ({' '.join(str(error).split())}).")
            return
        if found.newer:
            raise CommandError(f"the database was made by {found.made_by}: this version will not start on it")
        self._tell(found.pending, copied=path is not None)

    def _tell(self, pending: Sequence[str], *, copied: bool) -> None:
        if not pending:
            self.stdout.write("The database is as this version needs it.")
            return
        before = "keeps a copy of the database and " if copied else ""
        self.stdout.write(f"The next start {before}applies: {', '.join(pending)}.")
        if not copied:
            self.stdout.write("There will be no copy of what the database is now: make a backup first.")
