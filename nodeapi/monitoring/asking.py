"""Questions that may take long, or never be answered, asked by many: one is under way at a time, and nobody waits long."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")

logger = logging.getLogger("nodeapi.monitoring.asking")

# Of what takes long: the pause after it, in multiples of the time that it took.
LEISURE = 100


class NoAnswer(Exception):
    """It was asked, and has not been answered for too long."""


class Asked(Generic[Answer]):
    """The last answer, while it is younger than `keep_seconds`; then it is asked again. Whoever asks waits for
    `patience_seconds` at most and is told the last answer then; after `give_up_seconds` without a new one, NoAnswer. What
    the question raises is an answer too.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Answer]],
        *,
        keep_seconds: float,
        patience_seconds: float = 1.0,
        give_up_seconds: float = 5.0,
    ):
        self._ask = ask
        self._keep_seconds = keep_seconds
        self._patience_seconds = patience_seconds
        self._give_up_seconds = give_up_seconds
        self._asking: asyncio.Task | None = None
        self._asked_at = 0.0
        self._last: asyncio.Task | None = None
        self._answered_at = 0.0

    async def answer(self) -> Answer:
        if self._last is None or time.monotonic() - self._answered_at >= self._keep_seconds:
            await self._ask_again()
        overdue = self._asking is not None and time.monotonic() - self._asked_at >= self._give_up_seconds
        if self._last is None or overdue:
            raise NoAnswer
        return self._last.result()

    async def _ask_again(self) -> None:
        if self._asking is None:
            self._asked_at = time.monotonic()
            self._asking = asyncio.create_task(self._answered())
        asking = self._asking
        # The first answer is worth a longer wait: there is no other.
        patience = self._patience_seconds if self._last else self._give_up_seconds
        await asyncio.wait({asking}, timeout=patience)

    async def _answered(self) -> None:
        task = asyncio.ensure_future(self._ask())
        await asyncio.wait({task})
        self._last, self._answered_at, self._asking = task, time.monotonic(), None
        # Asked for, so that the loop does not complain of an error that nobody looked at.
        if not task.cancelled():
            task.exception()


class Refreshed(Generic[Answer]):
    """The last answer to a question that takes long and whose answer changes slowly. Nobody waits: what is old is asked for
    again behind whoever reads it, and asking takes a hundredth of the time at most. `what` is asked for, as the log is to name it.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[Answer]], *, keep_seconds: float, retry_seconds: float, what: str
    ):
        self._ask = ask
        self._keep_seconds = keep_seconds
        self._retry_seconds = retry_seconds
        self._what = what
        self._last: Answer | None = None
        self._due_at = 0.0
        self._asking: asyncio.Task | None = None

    @property
    def last(self) -> Answer | None:
        """None before the first answer."""
        if self._asking is None and time.monotonic() >= self._due_at:
            self._asking = asyncio.get_running_loop().create_task(self._ask_again())
        return self._last

    async def _ask_again(self) -> None:
        began, pause_seconds = time.monotonic(), self._retry_seconds
        try:
            self._last = await self._ask()
            pause_seconds = self._keep_seconds
        except Exception as error:
            logger.debug("%s could not be read: %s", self._what, type(error).__name__)
        finally:
            now = time.monotonic()
            self._due_at, self._asking = now + max(pause_seconds, LEISURE * (now - began)), None
