"""What the commands that ask a running node have in common: their options, the configuration, the end without
traceback.
"""

import logging
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from nodeapi import terminal
from nodeapi.cli.client import Door, NodeClient, NodeError, find_key


class NodeCommand(BaseCommand):
    """A command about a node. `requires_scopes`: what its API key must be good for."""

    requires_system_checks = ()
    requires_scopes = frozenset({"read"})

    def add_arguments(self, parser):
        parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON, for programs")
        parser.add_argument(
            "--key-file",
            metavar="FILE",
            help="holds the API key; default: IMPD_API_KEY, IMPD_API_KEY_FILE, or a key of the configuration",
        )

    def handle(self, *args, **options):
        # The node's own log lines would stand between the command's.
        logging.disable(logging.CRITICAL)
        try:
            if code := self.run(**options):
                raise SystemExit(code)
        except NodeError as error:
            raise terminal.fail(str(error)) from None
        except BrokenPipeError:
            raise SystemExit(1) from None

    def run(self, *args: Any, **options: Any) -> int | None:
        """The command's exit code, None for 0. May raise NodeError."""
        raise NotImplementedError

    def client(self, key_file: str | None, scopes: frozenset[str] | None = None) -> NodeClient:
        config = configuration()
        return NodeClient(
            Door.of(config, find_key(config, scopes=scopes or self.requires_scopes, key_file=key_file))
        )


def configuration():
    if settings.IMPD is None:
        raise NodeError(
            f"no configuration: name one by --config PATH (looked for {', '.join(settings.CONFIG_PLACES)}, and for the "
            "simulated node that ./impervious starts)"
        )
    return settings.IMPD
