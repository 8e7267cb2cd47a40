import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils.module_loading import import_string

from nodeapi import first_start, installation, welcome
from nodeapi.errors import StartError
from nodeapi.runtime import Runtime

logger = logging.getLogger("nodeapi.management.commands.runimpd")


def _tells_in_words(output: Any) -> bool:
    """Whether a person started it, or reads this output. Else it is a log, whose lines are JSON."""
    return "IMPD_LAUNCHED" in os.environ or output.isatty()


def _end(text: str, *, exc_info: bool = False, **fields: str) -> NoReturn:
    logger.critical(text, exc_info=exc_info, extra=fields)
    sys.exit(1)


class Command(BaseCommand):
    help = "Runs the node: the LND listener, the outbox, gRPC, and HTTP with the websocket stream."
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument(
            "--no-http", action="store_true", help="leave HTTP and websocket to separate daphnes"
        )

    def handle(self, *args, no_http: bool, **options):
        if settings.IMPD is None:
            raise CommandError(welcome.no_configuration(settings.CONFIG_PLACES))
        # Until there is a configuration to be read again, SIGHUP must not end the node.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # asgi.py then leaves the making of the API to the runtime.
        os.environ["IMPD_ENGINE_HERE"] = "1"
        # ./impervious makes them beside the node.
        if "IMPD_LAUNCHED" not in os.environ and installation.is_site_stale():
            logger.warning(
                "the pages at /docs are missing, or of another version: ./impervious prepare makes them"
            )
        for warning in settings.IMPD.warnings:
            logger.warning("configuration: %s", warning)
        try:
            runtime = Runtime(
                settings.IMPD,
                version=settings.VERSION,
                with_http=not no_http,
                before=lambda: first_start.prepare_database(settings.IMPD),
                on_started=partial(self._started, with_http=not no_http),
                reload=import_string(settings.RELOAD)(settings.IMPD),
            )
            runtime.run()
        except StartError as error:
            if _tells_in_words(sys.stderr):
                raise CommandError(str(error)) from None
            _end("the node cannot start, or go on", error=str(error))
        except Exception:
            if _tells_in_words(sys.stderr):
                raise
            _end("the node ends by an error of its own", exc_info=True)

    def _started(self, pubkey: str, *, with_http: bool) -> None:
        """Tells the person who started it; what a supervisor collects is the log."""
        if not _tells_in_words(self.stdout):
            return
        simulated = os.environ.get("IMPD_SIMULATED")
        simulation = Path(simulated) if simulated else None
        text = welcome.started(settings.IMPD, pubkey, with_http=with_http, simulation=simulation)
        self.stdout.write(text)
        sys.stdout.flush()
