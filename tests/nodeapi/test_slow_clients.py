"""A client that stops reading is found and closed, costs no memory, and harms no other."""

import base64
import os
import socket
from pathlib import Path

from tests.nodeapi.streams import WebsocketStream, data_of, send

# Large for the stream, small for a payment: it compresses to a fortieth.
TEXT = os.urandom(400).hex().encode() * 30
MESSAGES = 300
GROWTH_KB = 64 * 1024


def resident_kb(node) -> int:
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def open_without_reading(node) -> socket.socket:
    """A websocket whose handshake was read and nothing after it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", node.http_port))
    key = base64.b64encode(os.urandom(16)).decode()
    client.sendall(
        f"GET /v1/subscribe HTTP/1.1\r\nHost: {node.http}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += client.recv(1)
    assert answer.startswith(b"HTTP/1.1 101")
    return client


def test_client_that_reads_nothing_is_closed_and_harms_nobody(alice, bob):
    before_kb = resident_kb(bob)
    with open_without_reading(bob) as stalled, WebsocketStream(bob, "?service=message") as good:
        for _ in range(MESSAGES):
            message_id = send(alice, bob, TEXT)
            assert data_of(good.until(lambda event: event["id"] == message_id)[-1]) == TEXT
        bob.wait_until(lambda: "reads nothing" in bob.log)
        assert resident_kb(bob) - before_kb < GROWTH_KB
        try:
            while stalled.recv(65536):
                pass
        except ConnectionResetError:
            pass
        message_id = send(alice, bob)
        good.until(lambda event: event["id"] == message_id)
