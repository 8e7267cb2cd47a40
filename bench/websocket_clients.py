"""Many websocket clients in one process that does as little as it can: it counts events without reading them.

Every event is one text frame of JSON with exactly two opening braces. Events are of about 290 bytes, so that no length byte
of a frame looks like a brace or like a ping. Spoken to in lines of JSON:
    {"connect": N, "host": H, "port": P, "path": "/…"}  → {"connected": N, "seconds": S}    in addition to those that are there
    {"expect": EVENTS, "clients": N, "quiet": S}  → {"ready": 1}, and when each of the first N clients has had as many events, or
        nothing came for S seconds: {"received": R, "lost": L, "last": monotonic seconds, "bytes": B}. With "all": true, what
        came before the question counts too.
"""

import json
import os
import resource
import select
import socket
import sys
import time

BATCH = 50
BUFFER_BYTES = 1 << 18
BRACE, PING = b"{", b"\x89"


class Clients:
    def __init__(self):
        self._poll = select.epoll()
        self._sockets: list[socket.socket] = []
        self._braces: dict[int, int] = {}
        self._last_bytes = 0

    def connect(self, count: int, host: str, port: int, path: str) -> dict:
        start, left = time.monotonic(), count
        while left:
            batch = min(BATCH, left)
            self._connect_batch(batch, host, port, path)
            left -= batch
        return {"connected": count, "seconds": time.monotonic() - start}

    def _connect_batch(self, count: int, host: str, port: int, path: str) -> None:
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        batch = [socket.create_connection((host, port), timeout=60) for _ in range(count)]
        for client in batch:
            client.sendall(request)
        for client in batch:
            answer = b""
            while b"\r\n\r\n" not in answer:
                part = client.recv(4096)
                if not part:
                    raise ConnectionError(f"refused: {answer[:200]!r}")
                answer += part
            if not answer.startswith(b"HTTP/1.1 101"):
                raise ConnectionError(f"refused: {answer[:200]!r}")
            client.setblocking(False)
            # Frames may have come with the answer.
            self._braces[client.fileno()] = answer.partition(b"\r\n\r\n")[2].count(BRACE)
            self._poll.register(client, select.EPOLLIN)
        self._sockets += batch

    def expect(self, events: int, clients: int, quiet: float, *, count_all: bool = False) -> dict:
        if not count_all:
            self._braces = dict.fromkeys(self._braces, 0)
        watched = {client.fileno() for client in self._sockets[:clients]}
        self._last_bytes = 0
        complete, last, wanted = set(), time.monotonic(), 2 * events
        print(json.dumps({"ready": 1}), flush=True)
        while len(complete) < len(watched):
            ready = self._poll.poll(0.2)
            now = time.monotonic()
            for number, _ in ready:
                if self._take(number):
                    last = now
                    if self._braces[number] >= wanted and number in watched:
                        complete.add(number)
            if now - last > quiet:
                break
        received = sum(self._braces[number] for number in watched) // 2
        return {
            "received": received,
            "lost": events * len(watched) - received,
            "last": last,
            "bytes": self._last_bytes,
        }

    def _take(self, number: int) -> bool:
        """Reads what is there; True when there were events in it."""
        data = os.read(number, BUFFER_BYTES)
        if not data:
            self._poll.unregister(number)
            return False
        if PING in data and not (data := self._without_pings(number, data)):
            return False
        self._braces[number] += data.count(BRACE)
        self._last_bytes += len(data)
        return True

    def _without_pings(self, number: int, data: bytes) -> bytes:
        """Answers the pings among the frames, whose payload is random: neither JSON nor the frames' length has this byte."""
        events = b""
        while (start := data.find(PING)) >= 0:
            length = data[start + 1]
            payload = data[start + 2 : start + 2 + length]
            os.write(number, bytes([0x8A, 0x80 | length, 0, 0, 0, 0]) + payload)
            events, data = events + data[:start], data[start + 2 + length :]
        return events + data

    def idle(self) -> None:
        """Answers pings until the next line comes."""
        self._poll.register(sys.stdin, select.EPOLLIN)
        while True:
            for number, _ in self._poll.poll():
                if number == sys.stdin.fileno():
                    self._poll.unregister(sys.stdin)
                    return
                self._take(number)


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = Clients()
    while True:
        clients.idle()
        line = os.read(sys.stdin.fileno(), 65_536)
        if not line:
            return
        question = json.loads(line)
        if "connect" in question:
            answer = clients.connect(
                question["connect"], question["host"], question["port"], question["path"]
            )
        else:
            answer = clients.expect(
                question["expect"],
                question["clients"],
                question["quiet"],
                count_all=question.get("all", False),
            )
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
