"""The log: JSON lines on standard error, with a level for each part."""

import logging
from collections.abc import Iterable
from typing import Any

from impervious_site.config_values import LOG_ROOMS

# What these tell at info is told by the doors already.
QUIET = ("daphne", "django.channels.server")


def logging_settings(level: str, parts: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Django's LOGGING. `level` is that of the node's own rooms; libraries never tell less than info demands."""
    numbers = logging.getLevelNamesMapping()
    of_others = max(numbers["INFO"], numbers[level.upper()])
    loggers = {room: {"level": level.upper()} for room in LOG_ROOMS}
    loggers |= {name: {"level": max(numbers["WARNING"], of_others)} for name in QUIET}
    loggers |= {name: {"level": own.upper()} for name, own in parts}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "format": "{asctime}{levelname}{name}{message}",
                "style": "{",
                "rename_fields": {"asctime": "time", "levelname": "level", "name": "part"},
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": of_others},
        "loggers": loggers,
    }
