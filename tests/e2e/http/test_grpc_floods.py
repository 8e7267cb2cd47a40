"""gRPC clients that take without end: what they send before it is known who they are, calls that they leave incomplete, and
streams that they keep open cost little memory, and others are answered meanwhile.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.machine import rss_kb
from nodeapi.rpc_rooms import WATCHES
from protos import node_pb2, node_pb2_grpc
from tests.support.http2 import Http2Client, Stream, message, part_of_message, run
from tests.support.keys import store_key
from tests.support.nodes import GUARD_SECONDS, Node

STREAMS = 1_000
# Of one connection.
STREAMS_OF_ONE = 64
MOST_MB = 40
# Of callers with a key, whose requests may be longer.
MOST_MB_WITH_KEY = 64
SEND = "/messaging.Messaging/SendMessage"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
# More than gRPC would take of a message, and less; the end of either never comes.
TOO_LONG = part_of_message(bytes(4_000_000), 4_100_000)
LONG = part_of_message(bytes(2_000_000), 2_100_000)


@pytest.fixture(scope="module")
def node(network, tmp_path_factory) -> Iterator[Node]:
    with Node(network.nodes["carol"], tmp_path_factory.mktemp("flooded")) as node:
        yield node


@pytest.fixture(scope="module")
def keys(node) -> dict[str, str]:
    return {name: store_key(node, name, ["read", "send"]) for name in ("honest", "greedy")}


class Honest:
    """Calls again and again, over a connection of its own, with its key."""

    def __init__(self, node: Node, key: str):
        self._node, self._key = node, key
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call_on)
        self.answered = 0
        self.errors: list[grpc.RpcError] = []

    def __enter__(self) -> "Honest":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def _call_on(self) -> None:
        with self._node.channel() as channel:
            node, health = node_pb2_grpc.NodeStub(channel), health_pb2_grpc.HealthStub(channel)
            metadata = (("x-api-key", self._key),)
            while not self._stop.wait(0.05):
                try:
                    node.GetInfo(node_pb2.GetInfoRequest(), metadata=metadata, timeout=GUARD_SECONDS)
                    health.Check(health_pb2.HealthCheckRequest(), timeout=GUARD_SECONDS)
                    self.answered += 1
                except grpc.RpcError as error:
                    self.errors.append(error)


@contextmanager
def flood(node: Node, connections: int) -> Iterator[list[Http2Client]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Http2Client(node.grpc_port)) for _ in range(connections)]


def begin(clients: list[Http2Client], path: str, body: bytes, **options) -> list[Stream]:
    """So many calls, over all of these connections."""
    return [clients[number % len(clients)].call(path, body, **options) for number in range(STREAMS)]


def growth_mb(node: Node, clients: list[Http2Client], honest: Honest, most_open: int) -> int:
    """By how much the node's memory grows until only so many calls are open and an honest caller was answered meanwhile."""
    before_kb = most_kb = rss_kb(node.process.pid)
    answered = honest.answered

    def is_over() -> bool:
        nonlocal most_kb
        most_kb = max(most_kb, rss_kb(node.process.pid))
        unanswered = sum(len(client.unanswered) for client in clients if not client.ended)
        return unanswered <= most_open and honest.answered >= answered + 2

    run(clients, is_over)
    return (most_kb - before_kb) // 1024


@pytest.mark.parametrize("connections", [1, 16])
@pytest.mark.parametrize("key", [None, "unknown-key-with-enough-characters"], ids=["no key", "wrong key"])
def test_nothing_is_read_of_callers_without_a_key(node, keys, connections, key):
    with Honest(node, keys["honest"]) as honest, flood(node, connections) as clients:
        calls = begin(clients, SEND, TOO_LONG, key=key)
        assert growth_mb(node, clients, honest, 0) < MOST_MB
        refusal = b"an API key is needed" if key is None else b"the API key is not known"
        assert sum(refusal in call.answer for call in calls) >= min(STREAMS, STREAMS_OF_ONE * connections)
        assert min(len(call.unsent) for call in calls) > 3_900_000
    assert not honest.errors


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECTION])
@pytest.mark.parametrize("body", [b"", part_of_message(b"x", 100), LONG], ids=["none", "short", "long"])
def test_incomplete_calls_that_need_no_key(node, keys, path, body):
    """A few are waited for, and give way to honest ones."""
    with Honest(node, keys["honest"]) as honest, flood(node, 16) as clients:
        begin(clients, path, body)
        assert growth_mb(node, clients, honest, 100) < MOST_MB
    assert not honest.errors


@pytest.mark.parametrize("body", [part_of_message(b"x", 100), LONG], ids=["short", "long"])
def test_incomplete_calls_with_a_key(node, keys, body):
    with Honest(node, keys["honest"]) as honest, flood(node, 16) as clients:
        begin(clients, SEND, body, key=keys["greedy"])
        assert growth_mb(node, clients, honest, 600) < MOST_MB_WITH_KEY
    assert not honest.errors


def test_watch_streams_are_bounded(node, keys):
    with Honest(node, keys["honest"]) as honest, flood(node, 16) as clients, node.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=GUARD_SECONDS
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        calls = begin(clients, WATCH, message(b""), ends=True)
        assert growth_mb(node, clients, honest, WATCHES) < MOST_MB
        assert sum(b"has given way to another" in call.answer for call in calls) >= STREAMS // 4
        # Of each connection there were more, so that this one stays.
        assert watch.is_active()
        watch.cancel()
    assert not honest.errors


def test_long_and_short_requests_are_still_taken(node, keys):
    """What is more than the first window is asked for when it is read."""
    with node.channel() as channel:
        call = channel.unary_unary(SEND)
        for size in (1_000, 100_000, 1_000_000):
            with pytest.raises(grpc.RpcError) as error:
                call(
                    b"\x0a" + bytes([0x80 | size & 127, 0x80 | size >> 7 & 127, size >> 14]) + bytes(size),
                    metadata=(("x-api-key", keys["honest"]),),
                    timeout=GUARD_SECONDS,
                )
            assert error.value.details() == "pubkey: is missing"
        with pytest.raises(grpc.RpcError) as error:
            call(bytes(3_000_000), metadata=(("x-api-key", keys["honest"]),), timeout=GUARD_SECONDS)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_reflection_tells_the_services(node):
    with node.channel() as channel:
        # list_services, twice in one call.
        answers = list(channel.stream_stream(REFLECTION)(iter([b"\x3a\x00"] * 2), timeout=GUARD_SECONDS))
        assert len(answers) == 2
        assert all(b"messaging.Messaging" in answer for answer in answers)
        with pytest.raises(grpc.RpcError) as error:
            list(channel.stream_stream(REFLECTION)(iter([bytes(5_000)]), timeout=GUARD_SECONDS))
        assert error.value.details() == "request: is larger than 4096 bytes"
