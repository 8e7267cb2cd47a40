"""Many connections in one process that send the same few bytes, and then nothing. Spoken to in lines of JSON.

{"connect": N, "port": P, "send": "…", "tls": false}  → {"connected": N, "seconds": S}    in addition to those
that are there
{"alive": true}  → {"alive": N}    how many the server has not closed
"""

import json
import resource
import socket
import ssl
import sys
import time

# Each address of loopback has 28,000 ports of its own.
ADDRESSES = [f"127.0.0.{number}" for number in range(1, 5)]
CONNECT_SECONDS = 60


class Clients:
    def __init__(self):
        self._connections: list[socket.socket] = []
        self._context = ssl.create_default_context()
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE

    def connect(self, count: int, port: int, data: bytes, *, tls: bool) -> dict:
        start = time.monotonic()
        for _ in range(count):
            source = (ADDRESSES[len(self._connections) % len(ADDRESSES)], 0)
            connection = socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS, source)
            if tls:
                connection = self._context.wrap_socket(connection)
            if data:
                connection.sendall(data)
            connection.setblocking(False)
            self._connections.append(connection)
        return {"connected": count, "seconds": time.monotonic() - start}

    def alive(self) -> dict:
        return {"alive": sum(_is_alive(connection) for connection in self._connections)}


def _is_alive(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(4096))
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = Clients()
    for line in sys.stdin:
        question = json.loads(line)
        if "connect" in question:
            data, tls = question.get("send", "").encode(), question.get("tls", False)
            answer = clients.connect(question["connect"], question["port"], data, tls=tls)
        else:
            answer = clients.alive()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
