"""Subscriptions of one node's clients: a queue for each open stream, filled by topic, no polling.

Also where streams hang (open, but silent, as over a dead TCP connection) or drop by command.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable
from typing import Any

import grpc

from lightning.simulator.errors import CallError


class Stream:
    """What one subscriber has still to be told, in order."""

    def __init__(self, owner: "Streams", topic: Hashable):
        self._owner = owner
        self.topic = topic
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self.hung = False
        # Newest add_index and settle_index this subscriber was told; only for SubscribeInvoices.
        self.add_index = self.settle_index = 0

    def put(self, item: Any) -> None:
        if not self.hung:
            self._queue.put_nowait(item)

    def close(self) -> None:
        self._owner.remove(self)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            item = await self._queue.get()
            if self.hung:
                continue
            if isinstance(item, CallError):
                raise item
            yield item


class Streams:
    def __init__(self) -> None:
        self._topics: dict[Hashable, set[Stream]] = {}

    def open(self, topic: Hashable) -> Stream:
        stream = Stream(self, topic)
        self._topics.setdefault(topic, set()).add(stream)
        return stream

    def remove(self, stream: Stream) -> None:
        subscribed = self._topics.get(stream.topic, set())
        subscribed.discard(stream)
        if not subscribed:
            self._topics.pop(stream.topic, None)

    def of(self, topic: Hashable) -> tuple[Stream, ...]:
        return tuple(self._topics.get(topic, ()))

    def publish(self, topic: Hashable, item: Any) -> None:
        for stream in self.of(topic):
            stream.put(item)

    def hang(self) -> int:
        """Every open stream stays open and tells nothing any more. Streams opened later work."""
        streams = self._all()
        for stream in streams:
            stream.hung = True
        return len(streams)

    def drop(self, text: str = "transport is closing") -> int:
        """Every open stream ends with UNAVAILABLE, also one that hangs."""
        streams = self._all()
        for stream in streams:
            stream.hung = False
            stream.put(CallError(text, grpc.StatusCode.UNAVAILABLE))
        return len(streams)

    def _all(self) -> list[Stream]:
        return [stream for streams in self._topics.values() for stream in streams]
