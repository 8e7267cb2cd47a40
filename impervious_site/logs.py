"""The log: JSON lines on standard error, with a level for each part."""

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from impervious_site import log_parts
from impervious_site.config_models import Logging

# What these tell at info is told by the doors already.
QUIET = ("daphne", "django.channels.server")
STRANGERS_A_MINUTE = 60
STRANGERS_CHARACTERS = 200


class JsonLines(JsonFormatter):
    """Times as RFC 3339 has them, in UTC whatever the machine's zone."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (logging's name)
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class OfStrangers(logging.Filter):
    """What Django tells of requests that it refuses, which anybody can have told who reaches the pages: without a stack,
    and without the request, in whose address anything may stand; at most so many a minute.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        super().__init__()
        self._now = now
        self._until = 0.0
        self._told = self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not _is_refusal(record):
            return True
        if self._now() >= self._until:
            self._until, self._told = self._now() + 60, 0
        if self._told >= STRANGERS_A_MINUTE:
            self._left_out += 1
            return False
        self._told += 1
        record.msg, record.args = record.getMessage()[:STRANGERS_CHARACTERS], None
        record.exc_info = record.exc_text = record.stack_info = None
        record.__dict__.pop("request", None)
        if self._left_out:
            record.left_out, self._left_out = self._left_out, 0
        return True


def _is_refusal(record: logging.LogRecord) -> bool:
    if record.name == "django.request":
        return getattr(record, "status_code", 500) < 500
    return record.name.startswith("django.security.")


def logging_settings(level: str, parts: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Django's LOGGING. `level` is that of the node's own rooms; libraries never tell less than info demands."""
    of_others, levels = _levels(level, parts)
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": JsonLines,
                "format": "{asctime}{levelname}{name}{message}",
                "style": "{",
                "rename_fields": {"asctime": "time", "levelname": "level", "name": "part"},
            }
        },
        "filters": {"of_strangers": {"()": OfStrangers}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["of_strangers"]}
        },
        "root": {"handlers": ["stderr"], "level": of_others},
        "loggers": {name: {"level": own} for name, own in levels.items()},
    }


def _levels(level: str, parts: Iterable[tuple[str, str]]) -> tuple[int, dict[str, int]]:
    """The root's, and by logger."""
    numbers = logging.getLevelNamesMapping()
    of_others = max(numbers["INFO"], numbers[level.upper()])
    # Those of others never go below info: they may tell what must not be told.
    levels = {part: numbers[level.upper()] for part in log_parts.GROUPS}
    levels |= {name: max(numbers["WARNING"], of_others) for name in QUIET}
    levels |= {name: numbers[own.upper()] for name, own in parts}
    return of_others, levels


def set_levels(before: Logging, now: Logging) -> None:
    """In a process that runs."""
    root, levels = _levels(now.level, now.parts)
    logging.getLogger().setLevel(root)
    for name in {part for part, _ in before.parts} - levels.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
