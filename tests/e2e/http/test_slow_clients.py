"""A client that stops reading is found and closed, costs no memory, and harms no other: over plain TCP and over TLS."""

import base64
import os
import socket
import time
from pathlib import Path

import pytest

from tests.support.certificates import self_signed
from tests.support.nodes import Node
from tests.support.streams import WebsocketStream, data_of, send

# Large for the stream, small for a payment: it compresses to a fortieth.
TEXT = os.urandom(400).hex().encode() * 30
MESSAGES = 250
GROWTH_KB = 64 * 1024
# Of a websocket's frames, and of its reasons to close.
CLOSE = 8
TRY_AGAIN_LATER = 1013
# The node's: so long a client that is closed may read what was sent, up to the reason.
CLOSE_SECONDS = 5


@pytest.fixture(params=["plain", pytest.param("tls", marks=pytest.mark.long)])
def receiver(request, bob, network, tmp_path):
    if request.param == "plain":
        yield bob
        return
    server = self_signed(tmp_path)
    with Node(
        network.nodes["carol"], tmp_path, extra={"server": server}, tls_cert=tmp_path / "server.cert"
    ) as node:
        yield node


def resident_kb(node) -> int:
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def open_without_reading(node, query: str) -> socket.socket:
    """A websocket whose handshake was read and nothing after it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", node.http_port))
    if node.tls:
        client = node.tls.wrap_socket(client, server_hostname="127.0.0.1")
    key = base64.b64encode(os.urandom(16)).decode()
    client.sendall(
        f"GET /v1/subscribe{query} HTTP/1.1\r\nHost: {node.http}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += client.recv(1)
    assert answer.startswith(b"HTTP/1.1 101")
    return client


def close_code(client: socket.socket) -> int:
    """Reads all that was sent, up to the close frame."""
    with client.makefile("rb") as stream:
        while True:
            first, length = stream.read(2)
            if length >= 126:
                length = int.from_bytes(stream.read(2 if length == 126 else 8), "big")
            payload = stream.read(length)
            if first & 0x0F == CLOSE:
                return int.from_bytes(payload[:2], "big")


def code_for_one_who_reads_nothing(node, query: str) -> int | None:
    """With what it is closed; None when it came too late to read that."""
    closed, open_still = node.log.count("reads nothing"), time.monotonic()

    def is_closed() -> bool:
        nonlocal open_still
        looked = time.monotonic()
        if node.log.count("reads nothing") > closed:
            return True
        open_still = looked
        return False

    with open_without_reading(node, query) as stalled:
        node.wait_until(is_closed)
        try:
            return close_code(stalled)
        except (OSError, ValueError):
            if time.monotonic() - open_still < CLOSE_SECONDS:
                raise
            return None


def test_client_that_reads_nothing_is_closed_and_harms_nobody(alice, receiver):
    before_kb = resident_kb(receiver)
    with WebsocketStream(receiver, "?service=message") as good:
        seqs = []
        for _ in range(MESSAGES):
            message_id = send(alice, receiver, TEXT)
            event = good.until(lambda event: event["id"] == message_id)[-1]
            assert data_of(event) == TEXT
            seqs.append(int(event["seq"]))
        # From the log: a server that fills the buffers slowly would miss the client's answers to its pings before.
        query = f"?service=message&after={seqs[0] - 1}"
        while (code := code_for_one_who_reads_nothing(receiver, query)) is None:
            pass
        assert code == TRY_AGAIN_LATER
        assert resident_kb(receiver) - before_kb < GROWTH_KB
        message_id = send(alice, receiver)
        good.until(lambda event: event["id"] == message_id)
