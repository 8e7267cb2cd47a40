"""Clients that take without end: their connections, time and memory are bounded, and others are served meanwhile. On
a Daphne with the node's limits made small, over real sockets.
"""

import socket
import time
from contextlib import suppress

import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.support.bounded_daphne import GUARD_SECONDS, Bounded
from tests.support.waiting import until

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
STREAM = b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
MEGABYTE = 2**20
# So long that who says nothing is not closed for that.
EVER_SECONDS = 3_600


@pytest.fixture(scope="module")
def server():
    with Bounded() as running:
        yield running


def dial(server: Bounded, source: str = "127.0.0.1") -> socket.socket:
    """A connection, or one that the server has closed already: its reset may come before connect has returned."""
    client = socket.socket()
    client.settimeout(GUARD_SECONDS)
    client.bind((source, 0))
    with suppress(ConnectionResetError):
        client.connect(("127.0.0.1", server.port))
    return client


def answered(server: Bounded, request: bytes, answer: bytes) -> socket.socket:
    """A connection on which the server has begun to answer so. Before the request a client that stands still for a second
    or two may have been closed, which then comes again.
    """
    for _ in range(GUARD_SECONDS):
        client = dial(server)
        with suppress(OSError):
            client.sendall(request)
            if client.recv(65536).startswith(answer):
                return client
        client.close()
    raise AssertionError("a request is not answered")


def offer(client: socket.socket, data: bytes) -> bool:
    """Sends without waiting; False when the server has closed."""
    client.setblocking(False)
    try:
        client.send(data)
        return client.recv(4096) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


BEGINNINGS = {
    "request line": b"P",
    "header": HEAD + b"X-Long: ",
    "body": HEAD + b"Content-Length: 100000\r\n\r\n",
    "chunked body": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
    "websocket handshake": UPGRADE,
}


def test_clients_that_trickle_are_closed():
    """A byte comes again and again, so that no wait for the next one ever ends."""
    with Bounded(header_seconds=2, body_seconds=2, body_bytes_per_second=1000) as server:
        before = server.descriptors()
        slow = [(what, dial(server)) for what in BEGINNINGS for _ in range(10)]
        for what, client in slow:
            # The first may have waited too long while the others were made.
            with suppress(OSError):
                client.sendall(BEGINNINGS[what])

        def all_closed() -> bool:
            slow[:] = [(what, client) for what, client in slow if offer(client, b"1")]
            assert server.post(b"honest") == (200, b"6")
            return not slow

        until(all_closed)
        until(lambda: server.descriptors() <= before + 5)


def test_body_that_comes_fast_enough_is_taken():
    """The time that a body may take grows with what has come of it."""
    with Bounded(header_seconds=2, body_seconds=1, body_bytes_per_second=1, idle_seconds=1) as server:
        # What comes with the headers has been read with them.
        expecting = HEAD + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
        client = answered(server, expecting + b"x" * 99, b"HTTP/1.1 100")
        time.sleep(6)
        client.sendall(b"x")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_connections_that_ask_for_nothing_are_closed_and_streams_are_not():
    with Bounded(header_seconds=20, idle_seconds=2) as server:
        silent = dial(server)
        served = answered(server, HEAD + b"Content-Length: 0\r\n\r\n", b"HTTP/1.1 200")
        streaming = answered(server, STREAM, b"HTTP/1.1 200")
        with websocket_of(server) as websocket:
            until(lambda: closed(silent) and closed(served))
            time.sleep(4)
            assert not closed(streaming)
            assert websocket.ping().wait(GUARD_SECONDS)


@pytest.mark.parametrize(
    "flood",
    [
        b"".join(b"X-%d: 1\r\n" % number for number in range(200)),
        b"X: " + b"x" * 20_000 + b"\r\n",
        b"X: " + b"x" * 50 * MEGABYTE,
    ],
    ids=["many", "large", "endless"],
)
def test_header_flood_ends_the_connection(server, flood):
    before_kb = server.resident_kb()
    for _ in range(3):
        client = dial(server)
        with pytest.raises(ConnectionError):
            client.sendall(HEAD + flood)
            while client.recv(65536).startswith(b"HTTP/1.1 400"):
                pass
            raise ConnectionError
        assert server.post(b"honest") == (200, b"6")
    assert server.resident_kb() - before_kb < 8 * 1024


def test_unfinished_bodies_share_a_bounded_room(server):
    """100 clients send all but the end of a body of 1 MB; there is room for 8 of them, and no file is opened for any."""
    before_kb, before = server.resident_kb(), server.descriptors()
    slow = []
    for _ in range(100):
        client = dial(server)
        slow.append(client)
        with suppress(OSError):
            client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % MEGABYTE + b"x" * (MEGABYTE - 1))
        if len(slow) % 10 == 0:
            assert server.post(b"x" * MEGABYTE) == (200, str(MEGABYTE).encode())
    until(lambda: sum(closed(client) for client in slow) >= 90)
    assert server.resident_kb() - before_kb < 40 * 1024
    assert server.descriptors() - before <= 12
    for client in slow:
        client.close()


def test_endless_body_is_cut(server):
    before_kb = server.resident_kb()
    client = dial(server)
    chunk = b"%x\r\n" % MEGABYTE + b"x" * MEGABYTE + b"\r\n"
    client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    with pytest.raises(ConnectionError):
        for _ in range(1000):
            client.sendall(chunk)
    assert server.resident_kb() - before_kb < 16 * 1024
    assert server.post(b"honest") == (200, b"6")


def test_more_connections_than_seats_lock_nobody_out():
    """The one that has waited longest gives way; the descriptors stay bounded."""
    with Bounded(connections=100, header_seconds=EVER_SECONDS) as server:
        before = server.descriptors()
        idle = []
        for number in range(400):
            idle.append(dial(server))
            if number % 3 == 0:
                idle[-1].sendall(UPGRADE)
            if number % 50 == 0:
                assert server.post(b"honest") == (200, b"6")
        until(lambda: server.descriptors() - before <= 101)
        assert server.post(b"honest") == (200, b"6")
        until(lambda: sum(closed(client) for client in idle) >= 300)
        assert not closed(idle[-1])


def test_seats_that_are_in_use_are_not_taken_away_and_come_back():
    with Bounded(connections=20) as server:
        websockets = [open_websocket(server) for _ in range(10)]
        streams = [dial(server) for _ in range(10)]
        for stream in streams:
            stream.sendall(STREAM)
            assert b"200" in stream.recv(65536)
        for _ in range(5):
            assert status_of(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") == 503
        assert status_of(server, UPGRADE + b"\r\n") == 503
        # A supervisor that hears nothing would end a process that is well, and all that it does.
        assert status_of(server, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200
        # The few places that are kept for this are none to be held: who asks for nothing gives way.
        for client in [dial(server) for _ in range(30)][:20]:
            until(lambda client=client: closed(client))
        assert status_of(server, b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200
        for websocket in websockets:
            assert websocket.ping().wait(GUARD_SECONDS)
        websockets.pop().close()
        assert server.post(b"honest") == (200, b"6")
        streams.pop().close()
        # The server hears in its time that a place is free.
        with websocket_of(server) as websocket:
            assert websocket.ping().wait(GUARD_SECONDS)


def status_of(server: Bounded, request: bytes) -> int:
    """The answer to a new connection."""
    for _ in range(GUARD_SECONDS):
        with suppress(OSError), dial(server) as client:
            client.sendall(request)
            if answer := client.recv(65536):
                return int(answer.split()[1])
    raise AssertionError("a request is not answered")


def open_websocket(server: Bounded) -> ClientConnection:
    # One that pings hangs up on a machine that stands still.
    address = f"ws://127.0.0.1:{server.port}/"
    return connect(address, proxy=None, open_timeout=GUARD_SECONDS, ping_interval=None, legacy=True)


def websocket_of(server: Bounded) -> ClientConnection:
    """One that is open, which may take several tries."""
    for _ in range(GUARD_SECONDS):
        try:
            return open_websocket(server)
        except (OSError, WebSocketException):
            time.sleep(0.1)
    raise AssertionError("no websocket is opened")


def test_one_address_has_its_share_and_a_proxy_more():
    with Bounded(
        connections=200, per_address=30, trusted=("127.0.0.9",), idle_seconds=EVER_SECONDS
    ) as server:
        assert server.post(b"") == (200, b"0")
        until(lambda: server.post(b"", "127.0.0.3")[0] == 200)
        greedy = [dial(server, "127.0.0.2") for _ in range(60)]
        until(lambda: sum(closed(client) for client in greedy) == 30)
        assert server.post(b"honest", "127.0.0.3") == (200, b"6")
        behind_proxy = [dial(server, "127.0.0.9") for _ in range(60)]
        assert server.post(b"honest", "127.0.0.9") == (200, b"6")
        assert not any(closed(client) for client in behind_proxy)
        for client in greedy:
            client.close()
        assert server.post(b"honest", "127.0.0.2") == (200, b"6")


def test_a_process_without_descriptors_goes_on():
    """More connections than the process may open files: accept fails, the server stays, and serves when there are some."""
    with Bounded(connections=10_000, open_files=100) as server:
        clients = [dial(server) for _ in range(300)]
        until(lambda: sum(closed(client) for client in clients) >= 200)
        assert server.process.poll() is None
        for client in clients:
            client.close()
        assert server.post(b"honest") == (200, b"6")
