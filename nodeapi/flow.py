"""What ASGI does not tell: whether a client still reads. This knows Daphne and Twisted.

Daphne's `send` never blocks: what a client does not read piles up in Twisted's buffer. Twisted's transport says so when
the buffer is over its limit, by pausing its producer.
"""

import asyncio
from typing import Any

import daphne.server  # noqa: F401  (installs Twisted's asyncio reactor, which has to come first)
from autobahn.twisted.websocket import ConnectionDeny
from twisted.protocols.policies import ProtocolWrapper

STALL_SECONDS = 30.0
LOOK_SECONDS = 0.05
# Of a connection that is ended: for its client to read up to the end, which says why.
CLOSE_SECONDS = 5.0
MAX_REASON_BYTES = 123


class Connection:
    """The client behind an ASGI `send`. Under a server other than Daphne it never seems stalled."""

    def __init__(self, send):
        # Daphne hands its application partial(server.handle_reply, protocol).
        protocol: Any = next(iter(getattr(send, "args", ())), None)
        self._protocol = protocol
        channel = getattr(protocol, "channel", None) or protocol
        self._transport: Any = getattr(channel, "transport", None)
        # TLS wraps the transport whose buffer fills up.
        self._socket = self._transport
        while isinstance(self._socket, ProtocolWrapper):
            self._socket = self._socket.transport

    @property
    def stalled(self) -> bool:
        return bool(getattr(self._socket, "producerPaused", False))

    def allow(self, frame_bytes: int) -> None:
        """Daphne's websocket ends a connection rather than send a frame above a limit, which here grows with the need."""
        limit = getattr(self._protocol, "maxMessagePayloadSize", 0)
        if 0 < limit < frame_bytes:
            self._protocol.maxMessagePayloadSize = frame_bytes

    async def drained(self) -> bool:
        """Waits until the client reads again; False when it did not for STALL_SECONDS."""
        for _ in range(int(STALL_SECONDS / LOOK_SECONDS)):
            if not self.stalled:
                return True
            await asyncio.sleep(LOOK_SECONDS)
        return False

    def deny(self, status: int, reason: str) -> bool:
        """Refuses a websocket's handshake with this HTTP status; Daphne itself knows 403 only. False: the connection is not
        Daphne's, or its handshake is over.
        """
        handshake = getattr(self._protocol, "handshake_deferred", None)
        if handshake is None:
            return False
        del self._protocol.handshake_deferred
        # It stands in the status line, as it is.
        one_line = "".join(character if character.isprintable() else " " for character in reason)
        handshake.errback(ConnectionDeny(code=status, reason=one_line))
        self._protocol.server.protocol_disconnected(self._protocol)
        return True

    def close(self, code: int, reason: str) -> bool:
        """Ends an open websocket with any code that the protocol has; Daphne's own way refuses most. False: not Daphne's."""
        if not hasattr(self._protocol, "sendCloseFrame"):
            return False
        self._protocol.closeHandshakeTimeout = CLOSE_SECONDS
        self._protocol.sendCloseFrame(code=code, reasonUtf8=_cut(reason), isReply=False)
        return True

    def abort(self) -> None:
        """Ends the connection, whether or not the client takes what is buffered meanwhile."""
        if hasattr(self._transport, "abortConnection"):
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._transport.abortConnection)


def _cut(reason: str) -> bytes:
    """As much as a close frame has room for."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()
