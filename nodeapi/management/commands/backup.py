import sys
from argparse import ArgumentTypeError
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError
from django.db.migrations.loader import MigrationLoader

from messaging.required import required
from nodeapi import welcome
from nodeapi.backups import record
from nodeapi.backups.archive import BackupError, Manifest
from nodeapi.backups.making import make_backup, stream_backup
from nodeapi.backups.restoring import check_backup
from nodeapi.backups.rotation import rotate

PIPE = "-"
KEEP = 7


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError("must be a whole number, at least 1")
    return int(text)


@dataclass(frozen=True)
class _Made:
    """What is in the backup, what to say of it, and what went wrong beside it."""

    manifest: Manifest
    told: list[str]
    problems: list[str] = field(default_factory=list)


class Command(BaseCommand):
    help = "Makes a backup, while the node runs or not: database, secret key, VPN keys, a copy of the configuration."
    requires_system_checks = []

    def add_arguments(self, parser):
        where = parser.add_mutually_exclusive_group(required=True)
        where.add_argument(
            "file",
            nargs="?",
            metavar="FILE",
            help="the backup to write, - for standard output; keep it secret",
        )
        where.add_argument(
            "--directory", type=Path, metavar="DIR", help="make, and check, one more of the backups in DIR"
        )
        parser.add_argument(
            "--keep",
            type=_at_least_one,
            metavar="N",
            help=f"with --directory: delete all but the newest N afterwards (default: {KEEP})",
        )
        parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
        parser.add_argument(
            "--without-vpn-key", action="store_true", help="leave out the VPN server's private key"
        )

    def handle(self, *args, file: str | None, directory: Path | None, **options):
        if settings.IMPD is None:
            raise CommandError(welcome.no_configuration(settings.CONFIG_PLACES))
        if options["keep"] and not directory:
            raise CommandError("--keep: goes with --directory")
        if options["force"] and directory:
            raise CommandError("--force: goes with FILE; --directory replaces nothing")
        with_vpn_key = not options["without_vpn_key"]
        try:
            if directory:
                made = self._rotate(directory.absolute(), options["keep"] or KEEP, with_vpn_key)
            elif file == PIPE:
                made = self._stream(with_vpn_key)
            else:
                manifest = self._make(Path(file or ""), force=options["force"], with_vpn_key=with_vpn_key)
                made = _Made(manifest, [f"{file}: {_contents(manifest)}"])
        except BackupError as error:
            raise CommandError(str(error)) from None
        # Before anything is told: whom it is told may be gone.
        self._note(made.manifest)
        # A pipe takes the backup and nothing else.
        told = self.stderr if file == PIPE else self.stdout
        for line in made.told:
            told.write(line)
        told.write("Whoever has it has the node's messages and keys. lnd's files are not in it.")
        if made.problems:
            raise CommandError("\n".join(["The backup is good, but", *made.problems]))

    def _make(self, path: Path, *, force: bool = False, with_vpn_key: bool) -> Manifest:
        return make_backup(
            settings.IMPD, path, version=settings.VERSION, force=force, with_vpn_key=with_vpn_key
        )

    def _rotate(self, directory: Path, keep: int, with_vpn_key: bool) -> _Made:
        known = set(MigrationLoader(None).disk_migrations)
        rotated = rotate(
            directory,
            keep,
            secret_key=required(settings.IMPD).database.secret_key_path,
            make=partial(self._make, with_vpn_key=with_vpn_key),
            check=partial(check_backup, settings.IMPD, known_migrations=known, room=directory),
        )
        told = [f"{rotated.path}: {_contents(rotated.manifest)}, checked"]
        told += [f"deleted: {path}" for path in rotated.deleted]
        return _Made(rotated.manifest, told, rotated.problems)

    def _stream(self, with_vpn_key: bool) -> _Made:
        self.stderr.style_func = None
        if sys.stdout is None or sys.stdout.isatty():
            raise CommandError("FILE: - writes bytes to standard output: let a file or a program take them")
        manifest = stream_backup(
            settings.IMPD, sys.stdout.buffer, version=settings.VERSION, with_vpn_key=with_vpn_key
        )
        return _Made(manifest, [_contents(manifest)])

    def _note(self, manifest: Manifest) -> None:
        try:
            record.note_backup(datetime.fromisoformat(manifest.made_at))
        except DatabaseError as error:
            self.stderr.write(
                f"The backup is whole, but its time could not be noted for the metrics: {error}"
            )


def _contents(manifest: Manifest) -> str:
    size_bytes = sum(told["bytes"] for told in manifest.files.values())
    return f"{', '.join(manifest.files)} ({size_bytes / 2**20:.1f} MB), as of {manifest.made_at}"
