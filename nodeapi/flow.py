"""What ASGI does not tell: whether a client still reads, and how to bound what it may send. Both know Daphne and Twisted.

Daphne's `send` never blocks: what a client does not read piles up in Twisted's buffer. Twisted's transport says so when
the buffer is over its limit, by pausing its producer.
"""

import asyncio

import daphne.server  # noqa: F401  (installs Twisted's asyncio reactor, which has to come first)
from autobahn.twisted.websocket import ConnectionDeny
from daphne import http_protocol

from nodeapi import codec
from nodeapi.errors import ApiError, invalid

STALL_SECONDS = 30.0
LOOK_SECONDS = 0.05
MAX_REASON_BYTES = 123


class Connection:
    """The client behind an ASGI `send`. Under a server other than Daphne it never seems stalled."""

    def __init__(self, send):
        # Daphne hands its application partial(server.handle_reply, protocol).
        protocol = next(iter(getattr(send, "args", ())), None)
        self._protocol = protocol
        channel = getattr(protocol, "channel", None) or protocol
        self._transport = getattr(channel, "transport", None)

    @property
    def stalled(self) -> bool:
        return bool(getattr(self._transport, "producerPaused", False))

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
        Daphne's, or its handshake is over."""
        handshake = getattr(self._protocol, "handshake_deferred", None)
        if handshake is None:
            return False
        del self._protocol.handshake_deferred
        handshake.errback(ConnectionDeny(code=status, reason=reason))
        self._protocol.server.protocol_disconnected(self._protocol)
        return True

    def close(self, code: int, reason: str) -> bool:
        """Ends an open websocket with any code that the protocol has; Daphne's own way refuses most. False: not Daphne's."""
        if not hasattr(self._protocol, "sendCloseFrame"):
            return False
        self._protocol.sendCloseFrame(code=code, reasonUtf8=_cut(reason), isReply=False)
        return True

    def abort(self) -> None:
        """Ends the connection without waiting for the client to take what is buffered."""
        if hasattr(self._transport, "abortConnection"):
            asyncio.get_running_loop().call_later(1.0, self._transport.abortConnection)


def _cut(reason: str) -> bytes:
    """As much as a close frame has room for."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()


def bound_bodies(max_bytes: int) -> None:
    """From now on Daphne refuses larger request bodies, and stores nothing of them.

    Daphne reads a body to its end, to disk when it is large, before an application sees the request.
    """

    class BoundedRequest(http_protocol.WebRequest):
        received_bytes = 0
        too_large = False
        content_types: list[bytes] = []

        def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
            # Twisted would parse a body that is said to be a form, and end the connection when it is none.
            self.content_types = self.requestHeaders.getRawHeaders(b"content-type") or []
            self.requestHeaders.removeHeader(b"content-type")
            super().requestReceived(command, path, version)

        def handleContentChunk(self, data: bytes) -> None:
            self.received_bytes += len(data)
            if self.received_bytes > max_bytes:
                if not self.too_large:
                    self.too_large = True
                    self.content.seek(0)
                    self.content.truncate()
                return
            super().handleContentChunk(data)

        def process(self):
            self.requestHeaders.setRawHeaders(b"content-type", self.content_types)
            if self.too_large:
                return self._refuse(invalid("body", f"is larger than {max_bytes} bytes"))
            return super().process()

        def _refuse(self, error: ApiError) -> None:
            self.setResponseCode(error.http_status)
            self.setHeader(b"content-type", b"application/json")
            self.write(codec.dump(error.as_json()))
            self.finish()

    http_protocol.WebRequest = BoundedRequest
