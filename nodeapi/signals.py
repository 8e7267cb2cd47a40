"""The signals that end a process: the first one in order, the next one at once."""

import logging
import os
import signal
from types import FrameType
from typing import NoReturn

logger = logging.getLogger("nodeapi.signals")

END = (signal.SIGINT, signal.SIGTERM)


def begin_end() -> None:
    """From now on each of them ends this process, whatever it is doing, and without a traceback. A supervisor sees the signal
    as the cause, which systemd counts as an end in order; a shell sees 130 or 143. For the main thread.
    """
    logger.info("this process stops; another signal ends it at once")
    # The first process of a container is not ended by a signal that it does not handle.
    handler = _end if os.getpid() == 1 else signal.SIG_DFL
    for number in END:
        signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> NoReturn:
    os._exit(128 + number)
