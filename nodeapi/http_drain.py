"""The end of a Daphne's connections: nothing new is taken, what was asked is answered. This knows Daphne and Twisted."""

import asyncio
from typing import Any

import daphne.server
from twisted.internet import reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure

from nodeapi.http_limits import Seats
from nodeapi.http_server import BACKLOG

# A client that has just connected, or has just been answered on a connection that it keeps, may have sent a request which is
# not here yet.
LINGER_SECONDS = 1.0
# For an idle client to close its side.
CLOSE_SECONDS = 1.0
FLUSH_SECONDS = 0.2


class HttpDrain:
    """Use from the event loop that the Daphne of this process runs in."""

    def __init__(self, seats: Seats):
        self._seats = seats

    def begin(self) -> None:
        """Stop listening. Connections end with the answer that they wait for, idle ones after a moment."""
        if self._seats.closing:
            return
        self._seats.closing = True
        for port in _listening_ports():
            _close(port)
        daphne.server.twisted_loop.call_later(LINGER_SECONDS, self._close_idle)

    async def ended(self, seconds: float) -> None:
        """Wait until no connection is left, but no longer than so many seconds. Requests that are not here by then are refused."""
        try:
            async with asyncio.timeout(seconds):
                await self._seats.empty.wait()
        except TimeoutError:
            for channel in self._seats.arriving:
                channel.refuse(b"503 Service Unavailable", [])
            # What was written leaves in a later turn of the event loop.
            await asyncio.sleep(FLUSH_SECONDS)

    def _close_idle(self) -> None:
        for channel in self._seats.idle:
            channel.loseConnection()
            daphne.server.twisted_loop.call_later(CLOSE_SECONDS, channel.transport.abortConnection)


def _close(port: Any) -> None:
    """Take the connections that the kernel has made already: closing the port would reset them. `stopListening` closes it
    only in the next turn of the event loop, when there may be more of them.
    """
    port.stopReading()
    port.numberAccepts = BACKLOG
    port.doRead()
    port.connectionLost(Failure(ConnectionDone()))


def _listening_ports() -> list[Any]:
    running: Any = reactor
    return [reader for reader in running.getReaders() if IListeningPort.providedBy(reader)]
