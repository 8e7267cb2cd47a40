"""The stream's three doors: websocket, chunked HTTP, gRPC. All of them hand out the hub's frames."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping

import grpc
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer

from messaging import metrics
from messaging.registry import OTHER_EVENT_TYPES
from messaging.required import required
from nodeapi import codec, flow, service_names
from nodeapi.auth import headers_of, visit_of
from nodeapi.doors import Doors
from nodeapi.errors import ApiError, invalid
from nodeapi.rest import Parameters, query_fields
from nodeapi.stream import Subscription
from protos import websocket_pb2

logger = logging.getLogger("nodeapi.subscribe")

SCOPE = "read"
# As the log names it.
SUBSCRIBE = "websocket.Websocket/Subscribe"
POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013
MAX_ACK_WINDOW = 1_000
PARAMETERS = Parameters(
    known=("ack", "after", "service"), told=("ack", "after", "service"), repeated=("service",)
)
LINES_HEADERS = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
FAILED = "the stream failed; the node's log tells more"


def subscribe(doors: Doors, request: websocket_pb2.SubscribeRequest, door: str) -> Subscription:
    """ApiError when a field is wrong."""
    service_names.require_known(request.services, {*service_names.stored(doors), *OTHER_EVENT_TYPES})
    after = request.after if request.HasField("after") else None
    return doors.hub.subscribe(after=after, services=frozenset(request.services), door=door)


def request_from_query(query_string: bytes) -> tuple[websocket_pb2.SubscribeRequest, int | None]:
    """`after`, `service` (repeatable) and `ack` of a subscription's address."""
    fields = query_fields(query_string.decode("latin-1"), PARAMETERS)
    request = codec.message_from_json(
        {"after": fields.get("after"), "services": fields.get("service", [])}, websocket_pb2.SubscribeRequest
    )
    return request, _ack_window(fields.get("ack"))


def _ack_window(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= MAX_ACK_WINDOW:
        raise invalid("ack", f"must be 1 to {MAX_ACK_WINDOW}")
    return int(text)


class StreamConsumer(AsyncWebsocketConsumer):
    """One websocket client. What it transmits is ignored, unless it asked for flow control by `?ack=N`."""

    # The hub wakes by a group of its own; a channel for each client would cost a queue, or a Redis connection, for each.
    channel_layer_alias = "none"

    def __init__(self, doors: Doors):
        super().__init__()
        self._doors = doors
        self._subscription: Subscription | None = None
        self._sender: asyncio.Task | None = None
        self._ending: asyncio.Task | None = None
        self._window: Window | None = None
        self._forget: Callable[[], None] = lambda: None

    async def connect(self) -> None:
        headers = headers_of(self.scope)
        headers, subprotocol = bearer_from_subprotocol(headers, self.scope["subprotocols"])
        try:
            self._doors.guard.check(headers)
        except ApiError as error:
            await self._deny(error)
            return
        try:
            caller = self._doors.admit(visit_of(self.scope, headers), SCOPE, SUBSCRIBE)
            request, window = request_from_query(self.scope["query_string"])
            self._subscription = subscribe(self._doors, request, "websocket")
        except ApiError as error:
            if "origin" not in headers:
                await self._deny(error)
                return
            # A page reads nothing of a handshake that fails, but it does read why a websocket was closed.
            await self.accept(subprotocol)
            await self._close(POLICY_VIOLATION, error.message)
            return
        self._window = Window(window) if window else None
        await self.accept(subprotocol)
        loop = asyncio.get_running_loop()
        self._sender = loop.create_task(self._send_forever())

        def end(error: ApiError) -> None:
            self._ending = loop.create_task(self._end(error))

        self._forget = self._doors.keys.watch(caller, end)

    async def _deny(self, error: ApiError) -> None:
        """Refuses the handshake."""
        if flow.Connection(self.base_send).deny(error.http_status, error.message):
            raise StopConsumer from None
        await self.close()

    async def _end(self, error: ApiError) -> None:
        """Its key is valid no more, or the process ends."""
        required(self._sender).cancel()
        self._doors.hub.unsubscribe(required(self._subscription))
        ends = error.code is grpc.StatusCode.UNAVAILABLE
        await self._close(SERVICE_RESTART if ends else POLICY_VIOLATION, error.message)

    async def _close(self, code: int, reason: str) -> None:
        if not flow.Connection(self.base_send).close(code, reason):
            await self.close(code=code, reason=reason)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self._window and text_data and len(text_data) < 200:
            self._window.acknowledge(text_data)

    async def disconnect(self, code: int) -> None:
        self._forget()
        if self._sender:
            self._sender.cancel()
        if self._subscription:
            self._doors.hub.unsubscribe(self._subscription)

    async def _send_forever(self) -> None:
        connection = flow.Connection(self.base_send)
        send = self.base_send
        try:
            async for frame in required(self._subscription).frames():
                if connection.stalled and not await connection.drained():
                    await self._close_stalled(connection)
                    return
                if self._window:
                    await self._window.room_for(frame.seq)
                connection.allow(len(frame.text))
                await send({"type": "websocket.send", "text": frame.text})
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("stream to a websocket client failed")
            await self._close(INTERNAL_ERROR, FAILED)

    async def _close_stalled(self, connection: flow.Connection) -> None:
        logger.warning("a websocket client reads nothing; closed")
        metrics.STREAM_CLOSED_SLOW.labels("websocket").inc()
        self._doors.hub.unsubscribe(required(self._subscription))
        await self._close(TRY_AGAIN_LATER, "nothing was read for too long")
        connection.abort()


class Window:
    """Flow control by acknowledgement: at most `size` events are on their way unacknowledged."""

    def __init__(self, size: int):
        self._size = size
        self._unacknowledged: list[int] = []
        self._acknowledged = asyncio.Event()

    async def room_for(self, seq: int) -> None:
        while len(self._unacknowledged) >= self._size:
            self._acknowledged.clear()
            await self._acknowledged.wait()
        self._unacknowledged.append(seq)

    def acknowledge(self, text: str) -> None:
        """Takes `{"ack":SEQ}`: all up to SEQ. Anything else is ignored."""
        try:
            seq = int(json.loads(text)["ack"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return
        self._unacknowledged = [waiting for waiting in self._unacknowledged if waiting > seq]
        self._acknowledged.set()


def bearer_from_subprotocol(
    headers: dict[str, str], subprotocols: list[str]
) -> tuple[dict[str, str], str | None]:
    """A browser gives its key as the subprotocol pair `Bearer, KEY`; the server answers with `Bearer`."""
    if len(subprotocols) == 2 and subprotocols[0].lower() == "bearer":
        return headers | {"authorization": f"Bearer {subprotocols[1]}"}, subprotocols[0]
    return headers, None


async def refuse_websocket(doors: Doors, scope, receive, send) -> None:
    """One to a path where there is none."""
    try:
        doors.guard.check(headers_of(scope))
        error = ApiError(grpc.StatusCode.NOT_FOUND, "Not Found")
    except ApiError as not_allowed:
        error = not_allowed
    await receive()
    if not flow.Connection(send).deny(error.http_status, error.message):
        await send({"type": "websocket.close"})


async def refuse_early(scope, receive, send, reason: str) -> None:
    """A websocket that comes before there is a stream: 503 and not 403, which says that the key is not good for it."""
    await receive()
    connection = flow.Connection(send)
    if "origin" in headers_of(scope):
        # A page reads nothing of a handshake that fails.
        await send({"type": "websocket.accept"})
        if connection.close(TRY_AGAIN_LATER, reason):
            return
    elif connection.deny(503, reason):
        return
    await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": reason})


async def stream_lines(doors: Doors, scope, headers: Mapping[str, str], receive, send) -> None:
    """The stream as chunked HTTP, one JSON object a line."""
    caller = doors.admit(visit_of(scope, headers), SCOPE, SUBSCRIBE)
    request, _ = request_from_query(scope["query_string"])
    subscription = subscribe(doors, request, "http")
    connection = flow.Connection(send)
    sender = asyncio.get_running_loop().create_task(_send_lines(subscription, connection, send))
    leaving = asyncio.get_running_loop().create_task(_left(receive))
    ended = asyncio.get_running_loop().create_future()
    forget = doors.keys.watch(caller, ended.set_result)
    try:
        await asyncio.wait({sender, leaving, ended}, return_when=asyncio.FIRST_COMPLETED)
        if error := ended.result() if ended.done() else _failure(sender):
            sender.cancel()
            # As grpc-gateway ends a stream that fails.
            last = codec.dump({"error": error.as_json()}) + b"\n"
            await send({"type": "http.response.body", "body": last, "more_body": False})
    finally:
        forget()
        doors.hub.unsubscribe(subscription)
        sender.cancel()
        leaving.cancel()


async def stream_head(doors: Doors, scope, headers: Mapping[str, str], receive, send) -> None:
    """What a HEAD request is told of the stream: whether it would begin."""
    doors.admit(visit_of(scope, headers), SCOPE, SUBSCRIBE)
    request, _ = request_from_query(scope["query_string"])
    doors.hub.unsubscribe(subscribe(doors, request, "http"))
    await send({"type": "http.response.start", "status": 200, "headers": LINES_HEADERS})
    await send({"type": "http.response.body", "body": b""})


def _failure(sender: asyncio.Task) -> ApiError | None:
    if not sender.done() or not (failure := sender.exception()):
        return None
    logger.error("stream to an HTTP client failed", exc_info=failure)
    return ApiError(grpc.StatusCode.INTERNAL, FAILED)


async def _send_lines(subscription: Subscription, connection: flow.Connection, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": LINES_HEADERS})
    # Headers leave with the first body: an empty one tells the client that it is subscribed.
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    async for frame in subscription.frames():
        if connection.stalled and not await connection.drained():
            metrics.STREAM_CLOSED_SLOW.labels("http").inc()
            connection.abort()
            return
        await send({"type": "http.response.body", "body": frame.text.encode() + b"\n", "more_body": True})


async def _left(receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
