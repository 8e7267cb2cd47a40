"""Limits of so many a minute, on machines where a few calls may take one."""

import itertools
import time
from collections.abc import Callable

import pytest


def within_a_minute(attempt: Callable[[int], None]) -> None:
    """`attempt(number)`, with other names each time: again where it failed and took so long that the limit let pass more."""
    for number in itertools.count():
        began = time.monotonic()
        try:
            attempt(number)
            return
        except (AssertionError, pytest.fail.Exception):
            if time.monotonic() - began < 60:
                raise
