import json
import os
import pwd

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from messaging.required import required
from nodeapi import first_start, keys, operators, schema
from nodeapi.errors import StartError
from nodeapi.key_list import HEADINGS, key_rows, parse_expiry
from nodeapi.locks import lock_of


class Command(BaseCommand):
    help = "The API keys of this node: make them, list them, revoke them. A running node knows within two seconds."
    requires_system_checks = []

    def add_arguments(self, parser):
        parts = parser.add_subparsers(dest="part", required=True)
        make = parts.add_parser("make", help="makes a key and prints it, this once")
        make.add_argument("--name", required=True, help="whose key it is")
        make.add_argument("--scopes", required=True, help=f"out of {','.join(keys.SCOPES)}")
        make.add_argument(
            "--expires", metavar="WHEN", help="90d, 12h, 2027-12-31 or 2027-12-31T18:00 (UTC); none: never"
        )
        make.add_argument(
            "--budget-sat", type=int, metavar="SAT", help="the most that its calls may cost in 24 hours"
        )
        make.add_argument("--calls-per-minute", type=int, metavar="N", help="how often it may call")
        listing = parts.add_parser("list", help="shows all keys, those of the configuration too")
        listing.add_argument("--json", action="store_true", help="for programs")
        revoke = parts.add_parser(
            "revoke", help="ends keys, and the streams that are open with them, for good"
        )
        revoke.add_argument("names", nargs="+", metavar="NAME")
        parts.add_parser(
            "forget",
            help="deletes revoked and expired keys from the list; without any key left, a node on "
            "loopback is open again",
        )

    def handle(self, *args, part: str, **options):
        if settings.IMPD is None:
            raise CommandError(
                f"needs a configuration: --config PATH, or one of {', '.join(settings.CONFIG_PLACES)}, or the simulated "
                "node that ./impervious starts"
            )
        # Words beside the key are no errors: Django would show them in red.
        self.stderr.style_func = None
        self._configured = [key.name for key in settings.IMPD.server.api_keys]
        self._actor = operators.Actor(name=f"{pwd.getpwuid(os.getuid()).pw_name} at the command line")
        try:
            _prepare_database()
            getattr(self, f"_{part}")(options)
        except keys.KeyProblem as problem:
            option = "NAME" if part == "revoke" else f"--{problem.field}"
            raise CommandError(f"{option}: {problem}") from None
        except StartError as error:
            raise CommandError(str(error)) from None

    def _make(self, options: dict) -> None:
        was_open = not key_rows(settings.IMPD, timezone.now())
        row, key = keys.key_make(
            name=options["name"],
            scopes=[word.strip() for word in options["scopes"].split(",") if word.strip()],
            expires_at=parse_expiry(options["expires"], timezone.now()) if options["expires"] else None,
            budget_sat=options["budget_sat"],
            calls_per_minute=options["calls_per_minute"],
            taken=self._configured,
            by=self._actor,
        )
        # The key alone goes to standard output: KEY=$(./impervious keys make …)
        self.stdout.write(key)
        self.stderr.write(f"This is the key {row.name!r} ({keys.limits_of(row)}). It is shown this once.")
        if was_open:
            self.stderr.write(
                "It is the first one: from now on every call needs a key, those of ./impervious status, send, message, listen, "
                "peers and leases too. Give them theirs by --key-file FILE, IMPD_API_KEY_FILE or server.api_keys."
            )

    def _list(self, options: dict) -> None:
        rows = key_rows(settings.IMPD, timezone.now())
        if options["json"]:
            self.stdout.write(json.dumps(rows, indent=2))
            return
        if not rows:
            open_text = "There are no API keys: the node serves whoever comes over loopback, and nobody else."
            closed_text = (
                "There are no API keys: the node listens beyond loopback, and does not start without one."
            )
            self.stdout.write(closed_text if required(settings.IMPD).server.exposed else open_text)
            return
        table = [HEADINGS, *([str(row[name]) for name in HEADINGS] for row in rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
        for line in table:
            self.stdout.write(
                "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            )

    def _revoke(self, options: dict) -> None:
        for name in options["names"]:
            keys.key_revoke(name, by=self._actor)
            self.stderr.write(f"The key {name!r} is revoked.")
        if not any(row["state"] == "valid" for row in key_rows(settings.IMPD, timezone.now())):
            self.stderr.write("No key is valid now: the node refuses every call until one is made.")

    def _forget(self, options: dict) -> None:
        self.stderr.write(f"Forgotten: {keys.keys_forget(by=self._actor)}.")


def _prepare_database() -> None:
    """A key is needed before the first start, where the node is to be reached by others."""
    found = schema.read()
    first_start.refuse_newer(found)
    if found.pending:
        with lock_of(required(settings.IMPD).database):
            first_start.migrate(settings.IMPD)
