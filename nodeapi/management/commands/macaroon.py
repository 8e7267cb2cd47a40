from django.conf import settings
from django.core.management.base import BaseCommand

from lightning.rpcs import Rpc, bake_line
from nodeapi.assembly import lnd_calls


class Command(BaseCommand):
    help = "Prints the lncli command that bakes a macaroon for exactly the calls that this node makes."
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument(
            "--all", action="store_true", help="for all services, whether or not they are active"
        )

    def handle(self, *args, all: bool, **options):
        calls = list(Rpc) if all or settings.IMPD is None else lnd_calls(settings.IMPD)
        self.stdout.write(bake_line(calls))
