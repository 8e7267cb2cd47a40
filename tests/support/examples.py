"""How many examples a property is tried with: a tenth of them, unless the tests run with --long."""

import os

LONG = "TEST_LONG" in os.environ


def examples(count: int) -> int:
    return count if LONG else max(5, count // 10)
