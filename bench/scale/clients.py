"""Thousands of websocket clients in one process, each with a cursor of its own: one that is cut off returns, to another
server if its own is away, and goes on after the last event it has had.

Spoken to in lines of JSON:
    {"connect": N, "addresses": ["host:port", …], "after": SEQ}  → {"connected": N, "seconds": S} once all are
    {"report": 1}  → see `Clients.report`; samples and returns are those since the last report
Every event's `data` begins with the instant of its making: nanoseconds of the machine's monotonic clock, 8 bytes.
"""

import base64
import json
import os
import random
import resource
import select
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass

from bench.scale.tally import tally

BUFFER_BYTES = 1 << 18
SAMPLE_EVERY = 61
MOST_OPENING = 200
RETURN_SECONDS = 2.0
PING, CLOSE, TEXT = 0x9, 0x8, 0x1
CLOCK_CHARACTERS = 12


@dataclass(slots=True, eq=False)
class Client:
    number: int
    last: int
    sum: int = 0
    count: int = 0
    home: int = 0
    link: socket.socket | None = None
    is_open: bool = False
    pending: bytes = b""
    due: float = 0.0


class Clients:
    def __init__(self):
        self._poll = select.epoll()
        self._addresses: list[tuple[str, int]] = []
        self._all: list[Client] = []
        self._by_socket: dict[int, Client] = {}
        self._waiting: list[Client] = []
        self._open = self._opening = self._returns = self._events = 0
        self._lags_ms: list[float] = []
        self._causes: Counter[str] = Counter()

    def connect(self, count: int, addresses: list[str], after: int) -> None:
        self._addresses = [
            (host, int(port)) for host, _, port in (address.rpartition(":") for address in addresses)
        ]
        self._all = [Client(number, after, home=number % len(addresses)) for number in range(count)]
        self._waiting = list(self._all)

    @property
    def complete(self) -> bool:
        return self._open == len(self._all)

    def report(self) -> dict:
        """`ends`: how many clients have had the same events in the same order, by their tally; `open`: how many are connected."""
        ends = Counter(f"{client.last} {client.count} {client.sum}" for client in self._all)
        told = {
            "open": self._open,
            "ends": ends,
            "lowest": min((client.last for client in self._all), default=0),
            "events": self._events,
            "returns": self._returns,
            "lags_ms": self._lags_ms,
            "causes": self._causes,
        }
        self._lags_ms, self._returns, self._events, self._causes = [], 0, 0, Counter()
        return told

    def turn(self) -> bool:
        """Serves what is there; True when a line waits on standard input."""
        self._open_due()
        spoken = False
        for number, mask in self._poll.poll(0.05):
            if number == sys.stdin.fileno():
                spoken = True
            elif client := self._by_socket.get(number):
                self._serve(client, mask)
        return spoken

    def listen_to_questions(self) -> None:
        self._poll.register(sys.stdin, select.EPOLLIN)

    def _open_due(self) -> None:
        now = time.monotonic()
        due = [client for client in self._waiting if client.due <= now][: MOST_OPENING - self._opening]
        if not due:
            return
        chosen = set(map(id, due))
        self._waiting = [client for client in self._waiting if id(client) not in chosen]
        for client in due:
            self._begin(client)

    def _begin(self, client: Client) -> None:
        client.link = socket.socket()
        client.link.setblocking(False)
        client.pending = b""
        self._opening += 1
        self._by_socket[client.link.fileno()] = client
        client.link.connect_ex(self._addresses[client.home])
        self._poll.register(client.link, select.EPOLLOUT)

    def _serve(self, client: Client, mask: int) -> None:
        try:
            if mask & select.EPOLLOUT and not client.is_open:
                self._ask(client)
            else:
                self._take(client)
        except OSError as error:
            self._lose(client, error.strerror or type(error).__name__)

    def _ask(self, client: Client) -> None:
        if error := client.link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))
        host, port = self._addresses[client.home]
        client.link.send(
            f"GET /v1/subscribe?service=message&after={client.last} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._poll.modify(client.link, select.EPOLLIN)

    def _take(self, client: Client) -> None:
        data = client.link.recv(BUFFER_BYTES)
        if not data:
            raise OSError(0, "closed by the server")
        data = client.pending + data if client.pending else data
        if not client.is_open:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                client.pending = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise OSError(0, head.split(b"\r\n", 1)[0].decode("latin-1"))
            client.is_open = True
            self._opening -= 1
            self._open += 1
        client.pending = self._frames(client, data)

    def _frames(self, client: Client, data: bytes) -> bytes:
        """Takes whole frames; what is left of an incomplete one."""
        at, size = 0, len(data)
        while size - at >= 2:
            kind, length, start = data[at] & 0x0F, data[at + 1], at + 2
            if length >= 126:
                start = at + (4 if length == 126 else 10)
                length = int.from_bytes(data[at + 2 : start])
            if size < start or size - start < length:
                break
            payload = data[start : start + length]
            at = start + length
            if kind == TEXT:
                self._event(client, payload)
            elif kind == PING:
                client.link.send(bytes([0x8A, 0x80 | length, 0, 0, 0, 0]) + payload)
            elif kind == CLOSE:
                raise OSError(0, f"closed with {int.from_bytes(payload[:2])}")
        return data[at:]

    def _event(self, client: Client, payload: bytes) -> None:
        begin = payload.rindex(b'"seq":"') + 7
        seq = int(payload[begin : payload.index(b'"', begin)])
        client.last, client.sum, client.count = seq, tally(client.sum, seq), client.count + 1
        self._events += 1
        if self._events % SAMPLE_EVERY == 0:
            begin = payload.index(b'"data":"') + 8
            made = int.from_bytes(base64.b64decode(payload[begin : begin + CLOCK_CHARACTERS])[:8])
            self._lags_ms.append((time.monotonic_ns() - made) / 1e6)

    def _lose(self, client: Client, cause: str) -> None:
        """Its next try is with the other server, within a while that differs from client to client."""
        self._poll.unregister(client.link)
        del self._by_socket[client.link.fileno()]
        client.link.close()
        if client.is_open:
            self._open -= 1
            self._returns += 1
        else:
            self._opening -= 1
        self._causes[cause] += 1
        client.is_open, client.pending = False, b""
        client.home = (client.home + 1) % len(self._addresses)
        client.due = time.monotonic() + random.random() * RETURN_SECONDS
        self._waiting.append(client)


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = Clients()
    clients.listen_to_questions()
    while True:
        if not clients.turn():
            continue
        line = sys.stdin.readline()
        if not line:
            return
        question = json.loads(line)
        if "connect" in question:
            start = time.monotonic()
            clients.connect(question["connect"], question["addresses"], question["after"])
            while not clients.complete:
                clients.turn()
            answer = {"connected": question["connect"], "seconds": time.monotonic() - start}
        else:
            answer = clients.report()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
