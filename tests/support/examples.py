"""How much of a property or of a table of cases is tried: all of it in the long form of the tests, a part in the short."""

import os
from collections.abc import Sequence

import pytest

LONG = "TEST_LONG" in os.environ


def examples(count: int) -> int:
    """A tenth of the count in the short form."""
    return count if LONG else max(5, count // 10)


def pairs(firsts: Sequence[str], seconds: Sequence[str]) -> list:
    """Parameters: every pair. The short form takes each first with one second, and all seconds in turn."""
    return [
        pytest.param(first, second, marks=[] if row % len(seconds) == column else [pytest.mark.long])
        for row, first in enumerate(firsts)
        for column, second in enumerate(seconds)
    ]
