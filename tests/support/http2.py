"""A gRPC client that keeps to HTTP/2 and to nothing else: it leaves calls incomplete, opens more streams than it may, and
pings when it likes. It holds one copy of what it sends, however many streams send it.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.support.waiting import GUARD_SECONDS

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INITIAL_WINDOW, INITIAL_WINDOW_SETTING = 65_535, 4
FRAME_BYTES = 16_384
_PING = struct.Struct(">Q")


def message(raw: bytes) -> bytes:
    """A whole message as it stands in a stream."""
    return part_of_message(raw, len(raw))


def part_of_message(raw: bytes, size: int) -> bytes:
    """The beginning of a message that has `size` bytes."""
    return struct.pack(">BI", 0, size) + raw


@dataclass
class Stream:
    """One call. `answer` are the header blocks and data that came for it, raw: gRPC's server writes words as they are."""

    number: int
    unsent: memoryview
    ends: bool
    window: int
    answer: bytes = b""
    closed: bool = False


class Http2Client:
    """One connection. Nothing happens but in `advance`, which sends what the windows allow and takes what has come."""

    def __init__(self, port: int):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS)
        self._socket.setblocking(False)
        self._received = b""
        self._unsent = bytearray()
        self._window = self._stream_window = INITIAL_WINDOW
        self._next = 1
        self.streams: dict[int, Stream] = {}
        self.ended = False
        self.goaway = b""
        self.pongs = 0
        self._unsent += PREFACE
        self._frame(SETTINGS, 0, 0, b"")
        # What the server has to say never stands still for want of room.
        self._frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - INITIAL_WINDOW))

    def __enter__(self) -> "Http2Client":
        return self

    def __exit__(self, *_) -> None:
        self._socket.close()

    def call(
        self, path: str, body: bytes | memoryview = b"", *, key: str | None = None, ends: bool = False
    ) -> Stream:
        """Begin a call whose request is `body`, and which is at its end then, or is not."""
        metadata = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        if key is not None:
            metadata["x-api-key"] = key
        stream = Stream(self._next, memoryview(body), ends, self._stream_window)
        self._next += 2
        self.streams[stream.number] = stream
        block = b"".join(b"\0" + _hpack(name) + _hpack(value) for name, value in metadata.items())
        self._frame(HEADERS, END_HEADERS, stream.number, block)
        return stream

    def ping(self) -> None:
        self._frame(PING, 0, 0, _PING.pack(1))

    @property
    def unanswered(self) -> list[Stream]:
        return [stream for stream in self.streams.values() if not stream.closed]

    def advance(self) -> bool:
        """Whether anything went over the connection."""
        if self.ended:
            return False
        for stream in self.streams.values():
            self._fill(stream)
        return self._send() | self._take()

    def _fill(self, stream: Stream) -> None:
        while not stream.closed and stream.unsent and len(self._unsent) < 4 * FRAME_BYTES:
            size = min(len(stream.unsent), self._window, stream.window, FRAME_BYTES)
            if size <= 0:
                return
            last = stream.ends and size == len(stream.unsent)
            self._frame(DATA, END_STREAM if last else 0, stream.number, stream.unsent[:size])
            stream.unsent = stream.unsent[size:]
            stream.window -= size
            self._window -= size

    def _frame(self, kind: int, flags: int, number: int, payload: bytes | memoryview) -> None:
        self._unsent += struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, number)
        self._unsent += payload

    def _send(self) -> bool:
        if not self._unsent:
            return False
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return False
        except OSError:
            self.ended = True
            return False
        del self._unsent[:sent]
        return True

    def _take(self) -> bool:
        try:
            data = self._socket.recv(2**18)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.ended |= not data
        self._received += data
        while len(self._received) >= 9:
            size = int.from_bytes(self._received[:3])
            if len(self._received) < 9 + size:
                break
            kind, flags, number = struct.unpack(">BBI", self._received[3:9])
            payload, self._received = self._received[9 : 9 + size], self._received[9 + size :]
            self._handle(kind, flags, number, payload)
        return bool(data)

    def _handle(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        stream = self.streams.get(number)
        if kind == SETTINGS and not flags & ACK:
            self._settings(payload)
            self._frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and flags & ACK:
            self.pongs += 1
        elif kind == PING:
            self._frame(PING, ACK, 0, payload)
        elif kind == GOAWAY:
            self.goaway += payload
        elif kind == WINDOW_UPDATE and number == 0:
            self._window += int.from_bytes(payload)
        elif stream is None:
            return
        elif kind == WINDOW_UPDATE:
            stream.window += int.from_bytes(payload)
        elif kind == RST_STREAM:
            stream.closed = True
        elif kind in (DATA, HEADERS):
            stream.answer += payload
            stream.closed |= bool(flags & END_STREAM)

    def _settings(self, payload: bytes) -> None:
        for setting, value in struct.iter_unpack(">HI", payload):
            if setting == INITIAL_WINDOW_SETTING:
                for stream in self.streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value


def _hpack(text: str) -> bytes:
    """A string literal that is not compressed."""
    raw = text.encode()
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    rest, size = len(raw) - 127, b"\x7f"
    while rest >= 128:
        size += bytes([rest % 128 + 128])
        rest //= 128
    return size + bytes([rest]) + raw


def run(clients: Iterable[Http2Client], until: Callable[[], object] | None = None) -> None:
    """Let them work until the condition; without one, until nothing more goes over their connections."""
    clients = list(clients)
    end, quiet_since = time.monotonic() + GUARD_SECONDS, time.monotonic()
    while time.monotonic() < end:
        moved = [client.advance() for client in clients]
        if until is not None and until():
            return
        if any(moved):
            quiet_since = time.monotonic()
            continue
        if until is None and time.monotonic() - quiet_since > 1.0:
            return
        time.sleep(0.01)
    raise AssertionError(f"did not come about in {GUARD_SECONDS} s")
