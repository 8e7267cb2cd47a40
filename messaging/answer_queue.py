"""Unasked messages that wait for their turn, and how many of them are under way. No input, no output.

They have a queue of their own: a node that holds the payments of answers must not hold up what is asked for here. Half of the
places in flight are kept for known peers; a key costs a stranger nothing.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

MAX_IN_FLIGHT = 16


@dataclass(frozen=True)
class Waiting:
    """The key of a message, to whom it goes, and whether that is a known peer."""

    key: int
    pubkey: str
    known: bool


class AnswerQueue:
    """`work` is set whenever `take` may have something. Use from one event loop."""

    def __init__(self, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self._most = max_in_flight
        self._known: deque[Waiting] = deque()
        self._strangers: deque[Waiting] = deque()
        self._later = 0
        self._under_way = 0
        self._strangers_under_way = 0
        self.work = asyncio.Event()

    @property
    def in_flight(self) -> int:
        return self._under_way

    @property
    def queued(self) -> int:
        return len(self._known) + len(self._strangers)

    @property
    def retrying(self) -> int:
        return self._later

    def wait(self, answer: Waiting, *, seconds: float = 0.0) -> None:
        """It waits for its turn, which comes after so many seconds at the earliest."""
        if seconds <= 0:
            self._line_up(answer)
            return
        self._later += 1
        asyncio.get_running_loop().call_later(seconds, self._come_again, answer)

    def _come_again(self, answer: Waiting) -> None:
        self._later -= 1
        self._line_up(answer)

    def _line_up(self, answer: Waiting) -> None:
        (self._known if answer.known else self._strangers).append(answer)
        self.work.set()

    def take(self) -> Waiting | None:
        """What may start now. It is under way from here on, until `release`."""
        if self._under_way >= self._most:
            return None
        if self._known:
            answer = self._known.popleft()
        elif self._strangers and self._strangers_under_way < self._most // 2:
            answer = self._strangers.popleft()
        else:
            return None
        self.occupy(known=answer.known)
        return answer

    def occupy(self, *, known: bool) -> None:
        """One is under way, such as those that an earlier process left."""
        self._under_way += 1
        self._strangers_under_way += not known

    def release(self, *, known: bool) -> None:
        self._under_way -= 1
        self._strangers_under_way -= not known
        self.work.set()
