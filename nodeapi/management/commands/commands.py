from django.core.management.base import BaseCommand

from nodeapi import terminal
from nodeapi.cli import overview


class Command(BaseCommand):
    help = "Lists the commands; ./impervious help."
    requires_system_checks = []

    def handle(self, *args, **options):
        overview.show(terminal.console())
