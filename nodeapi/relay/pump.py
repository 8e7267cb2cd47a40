"""Passes datagrams between two bound UDP sockets. A program of its own, of Python's standard library alone.

    python -I -S pump.py    with the sockets as inherited descriptors

A process beside the node, so that a flood of datagrams takes nothing from the node's event loop and the node's work
delays no datagram. It reads its settings as one line of JSON on standard input, tells its state as lines of JSON on
standard output, and ends when standard input does, which the node's death brings about too.

Nothing is sent to an address that has not spoken on that very port, and for each datagram that comes in at most one of
the same size goes out.
"""

import json
import os
import select
import socket
import sys
import time

Address = tuple  # As the socket module has it: host, port and, for IPv6, flow and scope.

BUFFER_BYTES = 65_536
# Datagrams of one side before the other has its turn.
BATCH = 64
REPORT_SECONDS = 1.0
# What IPv4 and UDP add to a datagram: a limit of bandwidth that did not count it would not hold for small ones.
HEADER_BYTES = 28
IDLE = "idle"


class Bucket:
    """Lets `rate` bytes a second pass, and a second's worth at once. A datagram of any size passes when anything is
    left, and is paid back by those behind it.
    """

    def __init__(self, rate: int, clock=time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._left, self._at = float(rate), clock()

    def take(self, size_bytes: int) -> bool:
        now = self._clock()
        self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left <= 0:
            return False
        self._left -= size_bytes + HEADER_BYTES
        return True


class Pump:
    """`peers`, `datagrams` and `passed_bytes` have a place for each side: its address, or None before it has spoken,
    and what came from it and was passed on. What was not passed on is `dropped`.
    """

    def __init__(
        self,
        sockets: tuple[socket.socket, socket.socket],
        *,
        pin: bool,
        max_bytes_per_second: int | None = None,
        idle_seconds: int | None = None,
        peers=(None, None),
        datagrams=(0, 0),
        passed_bytes=(0, 0),
        dropped: int = 0,
    ) -> None:
        self._sockets = sockets
        self._own_ports = {one.getsockname()[1] for one in sockets}
        self._pin = pin
        self._bucket = Bucket(max_bytes_per_second) if max_bytes_per_second else None
        self._idle_seconds = idle_seconds
        self.peers: list[Address | None] = [tuple(peer) if peer else None for peer in peers]
        self.datagrams, self.passed_bytes, self.dropped = list(datagrams), list(passed_bytes), dropped
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._spoken_to = False
        self._first_words = False

    def run(self, control: int, tell) -> None:
        """Until something comes or ends on the descriptor `control`, or nobody has spoken for idle_seconds."""
        poller = select.poll()
        poller.register(control, select.POLLIN)
        sides = {one.fileno(): side for side, one in enumerate(self._sockets)}
        for descriptor in sides:
            poller.register(descriptor, select.POLLIN)
        told, tell_at = None, 0.0
        heard_at = time.monotonic()
        while True:
            wakes = self._idle_seconds or self._state() != told
            ready = poller.poll(REPORT_SECONDS * 1000 if wakes else None)
            for descriptor, _ in ready:
                if descriptor == control:
                    tell(self._state())
                    return
                self.drain(sides[descriptor])
            now = time.monotonic()
            if self._spoken_to:
                heard_at, self._spoken_to = now, False
            if self._idle_seconds and now - heard_at >= self._idle_seconds:
                tell(self._state() | {"ended": IDLE})
                return
            if now >= tell_at or self._first_words:
                state = self._state()
                if state != told:
                    tell(state)
                told, tell_at, self._first_words = state, now + REPORT_SECONDS, False

    def _state(self) -> dict:
        return {
            "peers": list(self.peers),
            "datagrams": list(self.datagrams),
            "passed_bytes": list(self.passed_bytes),
            "dropped": self.dropped,
        }

    def drain(self, side: int) -> None:
        """Passes on what waits on one side, BATCH datagrams at most."""
        receive, send = self._sockets[side].recvfrom_into, self._sockets[1 - side].sendto
        peers, buffer, view = self.peers, self._buffer, self._view
        for _ in range(BATCH):
            try:
                size, address = receive(buffer)
            except BlockingIOError:
                return
            except OSError:
                continue
            if address != peers[side] and not self._remembers(side, address):
                self.dropped += 1
                continue
            self._spoken_to = True
            other = peers[1 - side]
            if other is None or (self._bucket and not self._bucket.take(size)):
                self.dropped += 1
                continue
            try:
                send(view[:size], other)
            except OSError:
                self.dropped += 1
                continue
            self.datagrams[side] += 1
            self.passed_bytes[side] += size

    def _remembers(self, side: int, address: Address) -> bool:
        """Whether an address that is not this side's becomes it."""
        if self.peers[side] is not None and self._pin:
            return False
        if address[1] in self._own_ports and _is_local(self._sockets[side].family, address):
            # The relay's own port, by a forged source: its two sides would send to each other for ever.
            return False
        self._first_words |= self.peers[side] is None
        self.peers[side] = address
        return True


def _is_local(family: int, address: Address) -> bool:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address[0], 0))
        except OSError:
            return False
    return True


def _tell(state: dict) -> None:
    """A line shorter than PIPE_BUF is written whole or, when the node does not read, not at all: the next tells it."""
    try:
        os.write(1, json.dumps(state).encode() + b"\n")
    except BlockingIOError:
        pass


def main() -> None:
    settings = json.loads(sys.stdin.buffer.readline())
    first, second = (socket.socket(fileno=descriptor) for descriptor in settings.pop("descriptors"))
    for one in (first, second):
        one.setblocking(False)
    os.set_blocking(1, False)
    try:
        Pump((first, second), **settings).run(0, _tell)
    except BrokenPipeError:
        pass


if __name__ == "__main__":
    main()
