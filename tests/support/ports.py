"""Ports for the servers of tests. Each is handed out once, so that it stays free until it is used, and while its server
is away: a block of them belongs to the process that holds the socket of its name, however many test runs there are.
"""

import random
import socket
import threading
from collections.abc import Iterator

HOST = "127.0.0.1"
# Below the range from which the kernel takes the ports of outgoing connections.
PORTS = range(12_000, 32_000)
BLOCK = 50

_dice = random.SystemRandom()
_lock = threading.Lock()
_held: list[socket.socket] = []


def free_port() -> int:
    with _lock:
        return next(_ports)


def free_range(count: int) -> range:
    """So many ports that follow each other, at most a block of them."""
    with _lock:
        found = [next(_ports)]
        while len(found) < count:
            port = next(_ports)
            found = [*found, port] if port == found[-1] + 1 else [port]
    return range(found[0], found[-1] + 1)


def _hand_out() -> Iterator[int]:
    blocks = list(PORTS[::BLOCK])
    _dice.shuffle(blocks)
    for first in filter(_take, blocks):
        yield from filter(_is_free, range(first, first + BLOCK))
    raise RuntimeError(f"no port is left of those from {PORTS[0]} to {PORTS[-1]}")


def _take(first: int) -> bool:
    """Whether the block that begins here was nobody's. An abstract socket is gone with its process, however it ends."""
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0impervious-tests-{first}")
    except OSError:
        holder.close()
        return False
    _held.append(holder)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


_ports = _hand_out()
