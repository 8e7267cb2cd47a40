"""Clients of the event stream's three doors, and what tests send and wait for. GUARD_SECONDS only ends what hangs."""

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

from websockets.asyncio.client import connect as connect_in_loop
from websockets.sync.client import ClientConnection, connect

from protos import messaging_pb2_grpc, websocket_pb2, websocket_pb2_grpc
from tests.support.nodes import Node

GUARD_SECONDS = 600
SEND = "/v1/message/send"


class Stream:
    """The stream by HTTP. `text` and `event` give what comes next."""

    def text(self) -> str:
        raise NotImplementedError

    def event(self) -> dict:
        return json.loads(self.text())["result"]

    def until(self, wanted: Callable[[dict], bool]) -> list[dict]:
        """All events up to the first that is wanted, that one included."""
        events = [self.event()]
        while not wanted(events[-1]):
            events.append(self.event())
        return events

    def of(self, message_id: str) -> dict:
        """The next event of this message, whatever else the stream tells."""
        return self.until(lambda event: event["id"] == message_id)[-1]


class WebsocketStream(Stream):
    """As a websocket."""

    def __init__(self, node: Node, query: str = "", **options):
        # A client that pings hangs up on a machine that stands still for 20 seconds.
        options |= {"max_size": None, "proxy": None, "open_timeout": GUARD_SECONDS, "ping_interval": None}
        address = f"{node.http}/v1/subscribe{query}"
        self.connection: ClientConnection | LoopConnection
        if node.tls_cert:
            self.connection = LoopConnection(f"wss://{address}", ssl=node.tls, **options)
        else:
            self.connection = connect(f"ws://{address}", legacy=True, **options)

    def text(self) -> str:
        return self.connection.recv(timeout=GUARD_SECONDS)

    def __enter__(self) -> "WebsocketStream":
        return self

    def __exit__(self, *_) -> None:
        self.connection.close()


class LoopConnection:
    """A websocket of a loop in a thread of its own. The synchronous client reads and writes from two threads, which Python's
    TLS does not bear before 3.13: one handshake in some hundreds hangs.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, url: str, **options):
        if LoopConnection._loop is None:
            LoopConnection._loop = asyncio.new_event_loop()
            threading.Thread(target=LoopConnection._loop.run_forever, daemon=True).start()
        self._connection = self._run(self._open(url, options))

    def recv(self, timeout: float):
        return self._run(asyncio.wait_for(self._connection.recv(), timeout))

    def close(self) -> None:
        self._run(self._connection.close())

    async def _open(self, url: str, options: dict):
        return await connect_in_loop(url, **options)

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, LoopConnection._loop).result()


class LineStream(Stream):
    """As chunked HTTP."""

    def __init__(self, node: Node, query: str = "", headers: dict | None = None):
        self._http = node.http_connection()
        self._http.request("GET", f"/v1/subscribe{query}", headers=headers or {})
        self.response = self._http.getresponse()

    def text(self) -> str:
        return self.response.readline().decode()

    def __enter__(self) -> "LineStream":
        return self

    def __exit__(self, *_) -> None:
        self._http.close()


@contextmanager
def grpc_stream(node: Node, metadata=(), **request) -> Iterator:
    """The stream as gRPC; entered when its headers are there. The call iterates over the events."""
    with node.channel() as channel:
        call = websocket_pb2_grpc.WebsocketStub(channel).Subscribe(
            websocket_pb2.SubscribeRequest(**request), metadata=metadata, timeout=GUARD_SECONDS
        )
        call.initial_metadata()
        try:
            yield call
        finally:
            call.cancel()


@contextmanager
def messaging(node: Node) -> Iterator[messaging_pb2_grpc.MessagingStub]:
    with node.channel() as channel:
        yield messaging_pb2_grpc.MessagingStub(channel)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def data_of(event: dict) -> bytes:
    return base64.b64decode(event["data"], validate=True)


def delivery_of(event: dict) -> dict:
    return json.loads(data_of(event))


def send(sender: Node, recipient: Node, body: bytes = b"hello", **fields) -> str:
    """A message by REST; its id."""
    reply = sender.post(SEND, {"msg": b64(body), "pubkey": recipient.pubkey, **fields})
    assert reply.status == 200, reply.body
    return reply.json["id"]


def is_end(message_id: str) -> Callable[[dict], bool]:
    """Whether an event tells the end of a message that was sent."""

    def wanted(event: dict) -> bool:
        ours = event["id"] == message_id and event["serviceType"] == "delivery"
        return ours and delivery_of(event)["state"] in ("settled", "failed")

    return wanted


def settle_down(*nodes: Node) -> None:
    """Until nothing that other tests have sent from these nodes is under way. Who asks for a key is not asked."""
    for node in nodes:
        for state in ("queued", "in_flight", "retrying"):
            node.wait_until(lambda: not node.get(f"/v1/messages?state={state}&limit=1").json["messages"])


@contextmanager
def nothing_told(sender: Node, recipient: Node) -> Iterator[None]:
    """What happens inside reaches neither node's stream, and both work afterwards: a message still passes. What other
    tests have left to be told is told before: all that was sent, up to a message each way.
    """
    settle_down(sender, recipient)
    with WebsocketStream(sender) as outgoing, WebsocketStream(recipient) as incoming:
        for one, other, own, far in (
            (sender, recipient, outgoing, incoming),
            (recipient, sender, incoming, outgoing),
        ):
            last = send(one, other)
            own.until(is_end(last))
            far.of(last)
        yield
        body = uuid4().bytes
        message_id = send(sender, recipient, body)
        sent = outgoing.until(is_end(message_id))
        received = incoming.until(lambda event: event["id"] == message_id)
        assert [event["id"] for event in sent] == [message_id]
        assert [(event["id"], data_of(event)) for event in received] == [(message_id, body)]
