import sys

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from nodeapi import assembly, first_start, retention, schema, welcome
from nodeapi.errors import StartError


class Command(BaseCommand):
    help = "Deletes what is older than it is to be kept (events, messages), as a running node does daily."
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("--dry-run", action="store_true", help="only count")

    def handle(self, *args, dry_run: bool, **options):
        if settings.IMPD is None:
            raise CommandError(welcome.no_configuration(settings.CONFIG_PLACES))
        database = settings.IMPD.database.sqlite_path
        if database and not database.exists():
            # To look into it would make one.
            raise CommandError(f"there is no database yet: {database}")
        keep = assembly.make_keep(settings.IMPD)
        try:
            found = schema.read()
            first_start.refuse_newer(found)
            if found.pending:
                raise CommandError(
                    "the database is not of this version yet: start the node, which migrates it"
                )
            self._prune(keep, dry_run)
        except StartError as error:
            raise CommandError(str(error)) from None
        except Error as error:
            raise CommandError(f"the database cannot be used: {error}") from None
        if keep.messages_days is None:
            self.stdout.write(
                "Messages, but those of strangers, are kept for ever: messages.keep_days is not set."
            )

    def _prune(self, keep: retention.Keep, dry_run: bool) -> None:
        word = "would be deleted" if dry_run else "deleted"
        for name, count, is_all in retention.prune_here(keep, dry=dry_run):
            if not is_all and sys.stderr.isatty():
                self.stderr.write(f"{name}: {count} …\r", ending="")
            if is_all:
                self.stdout.write(f"{name}: {count} {word}")
