import sys
from pathlib import Path
from typing import IO

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db.migrations.loader import MigrationLoader

from messaging.required import required
from nodeapi import welcome
from nodeapi.backups.archive import BackupError
from nodeapi.backups.restoring import Restored, check_backup, restore_backup
from nodeapi.errors import StartError

MEANING = """\
At its next start this node
  - goes on with event numbers that were never used, so that the cursors of its clients stay good;
  - looks through lnd for what it received since the backup, and tells it again, once, under the same ids;
  - asks lnd what became of payments that were under way when the backup was made; none is paid again;
  - gives up messages that waited to be sent then: they may have been sent since. Send again what is missed.
What was sent since the backup, and leases that were sold since, are not known to it. docs/backup.md says more.
"""


class Command(BaseCommand):
    help = (
        "Puts a backup back, while the node does not run. All of it is checked before anything is replaced."
    )
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("file", metavar="FILE", help="what `backup` wrote, - for standard input")
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--check",
            action="store_true",
            help="only say whether the backup is good; the node may run, and nothing is changed",
        )
        what.add_argument(
            "--force", action="store_true", help="in place of a database that is there; it is kept"
        )

    def handle(self, *args, file: str, check: bool, force: bool, **options):
        if settings.IMPD is None:
            raise CommandError(welcome.no_configuration(settings.CONFIG_PLACES))
        known = set(MigrationLoader(None).disk_migrations)
        source = _standard_input() if file == "-" else Path(file)
        if check:
            self._check(source, known)
            return
        try:
            restored = restore_backup(settings.IMPD, source, force=force, known_migrations=known)
        except (BackupError, StartError) as error:
            raise CommandError(f"{error}\nNothing was changed.") from None
        self.stdout.write(self._told(restored))

    def _check(self, source: Path | IO[bytes], known: set[tuple[str, str]]) -> None:
        try:
            manifest = check_backup(settings.IMPD, source, known_migrations=known)
        except BackupError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(
            f"The backup is good: {', '.join(manifest.files)}, as of {manifest.made_at}, made by version {manifest.version}."
        )

    def _told(self, restored: Restored) -> str:
        kept = "".join(f"What was there before is kept in {path}\n" for path in restored.kept)
        return (
            f"The backup of {restored.manifest.made_at} is in place.\n{kept}{MEANING}{self._keys(restored)}"
        )

    def _keys(self, restored: Restored) -> str:
        """What was revoked since the backup is not known to it."""
        if restored.keys:
            names = ", ".join(repr(name) for name in restored.keys)
            return f"Valid again are the API keys {names}: revoke those that were revoked since (./impervious keys revoke NAME).\n"
        server = required(settings.IMPD).server
        if server.api_keys or server.exposed or restored.keys is None:
            return ""
        return "No API key in it is valid: ./impervious keys list says whether the node is open.\n"


def _standard_input() -> IO[bytes]:
    if sys.stdin is None or sys.stdin.isatty():
        raise CommandError("FILE: - reads bytes from standard input: let a file or a program give them")
    return sys.stdin.buffer
