import shlex
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from nodeapi import certificates

MAX_DAYS = 36_500


class Command(BaseCommand):
    help = (
        "Makes a self-signed certificate and its key for TLS: server.cert and server.key, for localhost, 127.0.0.1, ::1 and the "
        "hosts that are named."
    )
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument(
            "--host",
            action="append",
            default=[],
            metavar="NAME",
            help="a host name or an IP address that clients call this node by; may be given several times",
        )
        parser.add_argument("--days", type=int, default=825, help="how long the certificate is valid (825)")
        parser.add_argument(
            "--dir",
            "--out",
            dest="directory",
            type=Path,
            metavar="DIR",
            help="where to (beside the configuration file, or here without one)",
        )
        parser.add_argument("--force", action="store_true", help="replace what is there")

    def handle(self, *args, host, days, directory, force, **options):
        if not 1 <= days <= MAX_DAYS:
            raise CommandError(f"--days: is {days}; must be a whole number from 1 to {MAX_DAYS}")
        try:
            hosts = [certificates.checked_host(name) for name in host]
        except ValueError as error:
            raise CommandError(f"--host: {error}") from None
        directory = (directory or self._beside_configuration()).absolute()
        cert_pem, key_pem = certificates.make_pair(hosts, days=days)
        try:
            cert_path, key_path = certificates.write_pair(directory, cert_pem, key_pem, replace=force)
        except FileExistsError as error:
            raise CommandError(
                f"{error} is there already; --force replaces it, --dir names another place"
            ) from None
        except OSError as error:
            raise CommandError(f"{error.filename or directory}: {error.strerror}") from None
        names = ", ".join(certificates.read_pair(cert_path, key_path).names())
        self.stdout.write(
            f"A certificate for {names}, for {days} days. Below server: in the configuration:\n\n"
        )
        self.stdout.write(f"  tls_cert: {cert_path}\n  tls_key: {key_path}\n\n")
        self.stdout.write(
            f"Clients need the certificate, not the key: curl --cacert {shlex.quote(str(cert_path))} …"
        )

    def _beside_configuration(self) -> Path:
        path = settings.CONFIG_PATH
        return path.parent if path else Path.cwd()
