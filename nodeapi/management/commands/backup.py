from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError

from nodeapi import welcome
from nodeapi.backups import record
from nodeapi.backups.archive import BackupError
from nodeapi.backups.making import make_backup


class Command(BaseCommand):
    help = "Makes a backup, while the node runs or not: database, secret key, VPN keys, a copy of the configuration."
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("file", type=Path, metavar="FILE", help="the backup to write; keep it secret")
        parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
        parser.add_argument(
            "--without-vpn-key", action="store_true", help="leave out the VPN server's private key"
        )

    def handle(self, *args, file: Path, force: bool, without_vpn_key: bool, **options):
        if settings.IMPD is None:
            raise CommandError(welcome.no_configuration(settings.CONFIG_PLACES))
        try:
            manifest = make_backup(
                settings.IMPD, file, version=settings.VERSION, force=force, with_vpn_key=not without_vpn_key
            )
        except BackupError as error:
            raise CommandError(str(error)) from None
        try:
            record.note_backup(datetime.fromisoformat(manifest.made_at))
        except DatabaseError as error:
            self.stderr.write(
                f"The backup is whole, but its time could not be noted for the metrics: {error}"
            )
        size = sum(told["bytes"] for told in manifest.files.values())
        self.stdout.write(
            f"{file}: {', '.join(manifest.files)} ({size / 2**20:.1f} MB), as of {manifest.made_at}"
        )
        self.stdout.write("Whoever has it has the node's messages and keys. lnd's files are not in it.")
