"""The table of operations as gRPC servicers (django-grpc-framework), on a grpc.aio server, with health and reflection."""

import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, cast

import grpc
from django_grpc_framework.services import Service
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from nodeapi.addresses import client_address
from nodeapi.auth import Visit, join
from nodeapi.doors import IDEMPOTENCY_KEY, Doors
from nodeapi.errors import ApiError
from nodeapi.forward import AS_BYTES, forwarded_address
from nodeapi.monitoring import rpc_scrape
from nodeapi.monitoring.calls import counted
from nodeapi.monitoring.gauges import Scrape
from nodeapi.operations import OPERATIONS
from nodeapi.rpc_open import health_handlers, reflection_handlers
from nodeapi.rpc_requests import Request, decoded, read_once, refuse
from nodeapi.rpc_rooms import MIN_MESSAGE_BYTES, Rooms
from nodeapi.subscribe import SCOPE, SUBSCRIBE, subscribe
from protos import websocket_pb2

logger = logging.getLogger("nodeapi.rpc")

STREAM_SERVICE = "websocket.Websocket"
# As the log and the metrics name it.
DOOR = "grpc"
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    # Clients may ping every 5 seconds, also without a call, and the node itself pings quiet ones without end.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A connection that does not come to speak HTTP/2, and one that asks for nothing, gives its place up.
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 600_000),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.max_metadata_size", 16_384),
    ("grpc.absolute_max_metadata_size", 32_768),
    # So much of a request is here before it is read: of a fast connection gRPC would take megabytes.
    ("grpc.http2.lookahead_bytes", 4_096),
    ("grpc.http2.bdp_probe", 0),
)


class OperationService(Service):
    """A gRPC service whose methods are rows of the table. `call` is set for each method by `servicer_for`."""

    doors: Doors
    rooms: Rooms

    @classmethod
    def as_servicer(cls, **initkwargs):
        """The framework's own servicer handles each call in a thread and sends signals that close database
        connections; this one awaits the method in the event loop.
        """
        return cls(**initkwargs)


def servicer_for(service_name: str, doors: Doors, rooms: Rooms) -> Service:
    """A servicer with a method for each of the service's operations."""
    methods: dict[str, Any] = {
        operation.method: _unary(operation) for operation in OPERATIONS if operation.service == service_name
    }
    if service_name == STREAM_SERVICE:
        methods["Subscribe"] = _subscribe
    name = f"{service_name.rpartition('.')[2]}Service"
    service_class = cast("type[OperationService]", type(name, (OperationService,), methods))
    return service_class.as_servicer(doors=doors, rooms=rooms)


def _unary(operation) -> Callable:
    async def method(self, _, context):
        visit = visit_of(context)
        request = self.rooms.of_caller(context, visit)

        async def read() -> Message:
            return decoded(await request.read(context.read), operation.request_class)

        try:
            with counted(operation):
                return await self.doors.call(operation, read, visit)
        except ApiError as error:
            await refuse(context, error)
        finally:
            request.done()

    return method


async def _subscribe(self, _, context) -> AsyncIterator[websocket_pb2.SubscribeResponse]:
    try:
        visit = visit_of(context)
        caller = self.doors.admit(visit, SCOPE, SUBSCRIBE)
        asked = await read_once(self.rooms.of_caller(context, visit), context, websocket_pb2.SubscribeRequest)
        _check_number(self.doors, self.rooms.streams)
        subscription = subscribe(self.doors, asked, DOOR)
    except ApiError as error:
        await refuse(context, error)
    forget = self.doors.keys.watch(caller, subscription.end)
    try:
        # The subscription is live before the client is told that it is.
        await context.send_initial_metadata(())
        async for frame in subscription.frames():
            yield frame.message
    except ApiError as error:
        await refuse(context, error)
    finally:
        forget()
        self.doors.hub.unsubscribe(subscription)


def _check_number(doors: Doors, most: int) -> None:
    if sum(subscription.door == DOOR for subscription in doors.hub.subscriptions) >= most:
        raise ApiError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"the node has {most} gRPC streams open (server.max_grpc_connections), and takes no more",
        )


def visit_of(context) -> Visit:
    metadata = metadata_of(context)
    return Visit(metadata=metadata, address=forwarded_address(metadata) or client_address(context))


def metadata_of(context) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for name, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            join(metadata, name, value)
        elif name == IDEMPOTENCY_KEY + AS_BYTES:
            join(metadata, IDEMPOTENCY_KEY, value.decode("latin-1"))
    return metadata


def handlers_for(service_name: str, doors: Doors, rooms: Rooms) -> grpc.GenericRpcHandler:
    servicer = servicer_for(service_name, doors, rooms)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        operation.method: grpc.stream_unary_rpc_method_handler(
            getattr(servicer, operation.method),
            response_serializer=operation.reply_class.SerializeToString,
        )
        for operation in OPERATIONS
        if operation.service == service_name
    }
    if service_name == STREAM_SERVICE:
        handlers["Subscribe"] = grpc.stream_stream_rpc_method_handler(
            servicer.Subscribe, response_serializer=websocket_pb2.SubscribeResponse.SerializeToString
        )
    return grpc.method_handlers_generic_handler(service_name, handlers)


def _admit_scrape(doors: Doors, rooms: Rooms, context) -> Request:
    """ApiError for who may not read."""
    visit = visit_of(context)
    doors.admit(visit, SCOPE, f"{rpc_scrape.SERVICE}/{rpc_scrape.METHOD}")
    return rooms.of_caller(context, visit)


def service_names() -> list[str]:
    return sorted({operation.service for operation in OPERATIONS} | {STREAM_SERVICE})


def make_rooms(*, max_message_bytes: int, max_connections: int) -> Rooms:
    """`max_message_bytes` is what the longest request needs."""
    return Rooms(received_bytes=max(MIN_MESSAGE_BYTES, max_message_bytes), streams=max_connections)


def make_server(entry: grpc.GenericRpcHandler, rooms: Rooms) -> grpc.aio.Server:
    """A server that is not yet bound to an address."""
    limit = ("grpc.max_receive_message_length", rooms.received_bytes)
    connections = ("grpc.max_allowed_incoming_connections", rooms.streams)
    server = grpc.aio.server(options=(*_OPTIONS, limit, connections))
    server.add_generic_rpc_handlers((entry,))
    return server


def open_handlers(
    rooms: Rooms, health_service: health_pb2_grpc.HealthServicer
) -> tuple[grpc.GenericRpcHandler, ...]:
    """What needs neither a key nor the database."""
    names = (*service_names(), health.SERVICE_NAME, reflection.SERVICE_NAME)
    return health_handlers(health_service, rooms), reflection_handlers(names, rooms)


def api_handlers(doors: Doors, rooms: Rooms, *, scrape: Scrape) -> tuple[grpc.GenericRpcHandler, ...]:
    return (
        *(handlers_for(name, doors, rooms) for name in service_names()),
        rpc_scrape.handler_for(scrape, partial(_admit_scrape, doors, rooms)),
    )
