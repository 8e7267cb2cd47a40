import sys

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from messaging.required import required
from nodeapi import assembly, first_start, retention, schema, sqlite_space, welcome
from nodeapi.errors import StartError
from nodeapi.locks import lock_of


class Command(BaseCommand):
    help = "Deletes what is older than it is to be kept (events, messages), as a running node does daily."
    requires_system_checks = []

    def add_arguments(self, parser):
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--dry-run", action="store_true", help="only count")
        how.add_argument(
            "--compact",
            action="store_true",
            help="then write an SQLite database anew, as small as it can be, while the node does not run",
        )

    def handle(self, *args, dry_run: bool, compact: bool, **options):
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
            if dry_run:
                self._count(keep)
            elif compact:
                self._compact(keep)
            else:
                self._prune(keep)
        except StartError as error:
            raise CommandError(str(error)) from None
        except Error as error:
            raise CommandError(f"the database cannot be used: {error}") from None
        if keep.messages_days is None:
            self.stdout.write(
                "Messages, but those of strangers, are kept for ever: messages.keep_days is not set."
            )

    def _count(self, keep: retention.Keep) -> None:
        for name, count in retention.count_here(keep):
            self.stdout.write(f"{name}: {count} would be deleted")

    def _prune(self, keep: retention.Keep) -> None:
        for name, count, is_all in retention.prune_here(keep):
            if not is_all and sys.stderr.isatty():
                self.stderr.write(f"{name}: {count} …\r", ending="")
            if is_all:
                self.stdout.write(f"{name}: {count} deleted")
        sqlite_space.release_here()
        pages = sqlite_space.read_pages()
        if pages.free > pages.all // 2 and not pages.can_shrink:
            self.stdout.write(
                "More than half of the file is free, and it does not shrink by itself, because an older version made it: "
                "end the node and run this with --compact."
            )

    def _compact(self, keep: retention.Keep) -> None:
        config = required(settings.IMPD).database
        if config.sqlite_path is None:
            raise CommandError("--compact: PostgreSQL gives room to what comes next by itself (autovacuum)")
        with lock_of(config):
            self._prune(keep)
            before, after = sqlite_space.compact(config.sqlite_path)
        self.stdout.write(
            f"{config.sqlite_path}: {before / 2**20:,.1f} MB before, {after / 2**20:,.1f} MB now"
        )
