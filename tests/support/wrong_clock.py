"""A node whose wall clock is wrong: what it takes for the time is shifted, its steady clock is not.

    clock = WrongClock(directory)
    node = Node(…, environ=clock.environ)
    clock.shift(86_400)

The node's own code is as it is: Python reads a `sitecustomize` of ours before anything else. (libfaketime breaks
sleeping against the steady clock, and the clock of the system is everybody's.)
"""

import os
from pathlib import Path

SITE = """
import datetime, sys, time
from pathlib import Path

true_time, offset = time.time, Path({offset!r})


def shifted_time():
    return true_time() + float(offset.read_text())


# gRPC hands deadlines made of time.time() to its core, which has the system's clock.
time.time = lambda: shifted_time() if sys._getframe(1).f_globals.get("__name__") == "messaging.clock" else true_time()

from django.utils import timezone

timezone.now = lambda: datetime.datetime.fromtimestamp(shifted_time(), datetime.UTC)
"""


class WrongClock:
    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        self._offset = directory / "offset"
        (directory / "sitecustomize.py").write_text(SITE.format(offset=str(self._offset)))
        self.environ = {"PYTHONPATH": str(directory)}
        self.shift(0)

    def shift(self, seconds: float) -> None:
        """By so much from the true time."""
        new = self._offset.with_suffix(".new")
        new.write_text(str(seconds))
        os.replace(new, self._offset)
