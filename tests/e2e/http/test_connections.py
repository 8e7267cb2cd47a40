"""Whole nodes under many connections: memory and descriptors bounded, clients served.

With 10,000: ./impervious bench connections.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from bench.machine import rss_kb
from protos import node_pb2, node_pb2_grpc
from tests.support.certificates import self_signed
from tests.support.nodes import GUARD_SECONDS, ROOT, Node
from tests.support.streams import WebsocketStream, send

IDLE = 1_000
GRPC_LIMIT = 50
MANY = GRPC_LIMIT + 100
HALF_A_HEADER = "GET /v1/node HTTP/1.1\r\nHost: localhost\r\nX-Long: "
# Measured: 2 to 4 kB for plain connections, and about 30 more for TLS.
MOST_KB = {"plain": 20, "tls": 80}


@pytest.fixture(scope="module", params=["plain", pytest.param("tls", marks=pytest.mark.long)])
def flooded(request, network, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    server = {"max_connections": IDLE, "max_grpc_connections": GRPC_LIMIT}
    cert = None
    if request.param == "tls":
        server, cert = server | self_signed(directory), directory / "server.cert"
    with Node(network.nodes["carol"], directory, extra={"server": server}, tls_cert=cert) as node:
        yield node


@contextmanager
def idle_clients(node: Node, **question):
    """A process with as many connections to the node; ask(…) speaks to it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.idle_clients"],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def ask(**words) -> dict:
        print(json.dumps(words), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    try:
        ask(port=node.http_port, tls=node.tls_cert is not None, **question)
        yield ask
    finally:
        process.kill()
        process.wait()


def descriptors(node: Node) -> int:
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


@pytest.mark.parametrize("data", ["", HALF_A_HEADER], ids=["idle", "half a header"])
def test_many_http_connections(flooded, bob, data):
    """More of them than there are seats, and a websocket client and callers that are served all the time."""
    before, before_kb = descriptors(flooded), rss_kb(flooded.process.pid)
    kind = "tls" if flooded.tls_cert else "plain"
    with WebsocketStream(flooded) as stream, idle_clients(flooded, connect=IDLE + 200, send=data):
        assert flooded.get("/v1/node").status == 200
        message_id = send(bob, flooded)
        stream.until(lambda event: event["id"] == message_id)
        flooded.wait_until(lambda: descriptors(flooded) - before <= IDLE + 20)
        assert rss_kb(flooded.process.pid) - before_kb < IDLE * MOST_KB[kind]
    flooded.wait_until(lambda: descriptors(flooded) - before <= 20)


def test_many_grpc_connections(flooded):
    """Connections that never come to speak gRPC are bounded, and give their places up: a client comes through, and one that
    was there before is served all the time.
    """
    before = descriptors(flooded)
    with flooded.channel() as first:
        get_info(first)
        address = "127.0.0.1", flooded.grpc_port
        silent = [socket.create_connection(address, timeout=GUARD_SECONDS) for _ in range(MANY)]
        # Those beyond the limit are closed as soon as they are accepted.
        flooded.wait_until(lambda: sum(map(is_closed, silent)) >= MANY - GRPC_LIMIT)
        get_info(first)
        assert descriptors(flooded) - before <= GRPC_LIMIT + 20
        with flooded.channel() as other:
            get_info(other)
        for connection in silent:
            connection.close()


def is_closed(client: socket.socket) -> bool:
    """By the server; what it has sent before is read."""
    client.setblocking(False)
    try:
        while client.recv(65_536):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def get_info(channel: grpc.Channel) -> None:
    node_pb2_grpc.NodeStub(channel).GetInfo(
        node_pb2.GetInfoRequest(), wait_for_ready=True, timeout=GUARD_SECONDS
    )


def test_the_limit_of_open_files_is_raised_to_what_is_allowed(flooded):
    limits = Path(f"/proc/{flooded.process.pid}/limits").read_text()
    soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
    assert soft == hard
