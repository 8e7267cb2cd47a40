"""The table of operations as gRPC servicers (django-grpc-framework), on a grpc.aio server, with health and reflection."""

import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, cast

import grpc
from django_grpc_framework.services import Service
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from nodeapi.addresses import client_address
from nodeapi.auth import Visit, join
from nodeapi.codec import Read
from nodeapi.doors import IDEMPOTENCY_KEY, Doors
from nodeapi.errors import ApiError
from nodeapi.forward import AS_BYTES, forwarded_address
from nodeapi.monitoring import rpc_scrape
from nodeapi.monitoring.calls import counted
from nodeapi.monitoring.gauges import Scrape
from nodeapi.operations import OPERATIONS
from nodeapi.subscribe import SCOPE, SUBSCRIBE, subscribe
from protos import websocket_pb2

logger = logging.getLogger(__name__)

STREAM_SERVICE = "websocket.Websocket"
MIN_MESSAGE_BYTES = 4 * 2**20
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A connection that does not come to speak HTTP/2, and one that asks for nothing, gives its place up.
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 600_000),
    ("grpc.max_concurrent_streams", 1_000),
    ("grpc.max_metadata_size", 16_384),
    ("grpc.absolute_max_metadata_size", 32_768),
)


class Undecodable:
    """Stands for request bytes that are no message of the type."""


class OperationService(Service):
    """A gRPC service whose methods are rows of the table. `call` is set for each method by `servicer_for`."""

    doors: Doors

    @classmethod
    def as_servicer(cls, **initkwargs):
        """The framework's own servicer handles each call in a thread and sends signals that close database
        connections; this one awaits the method in the event loop.
        """
        return cls(**initkwargs)


def servicer_for(service_name: str, doors: Doors) -> Service:
    """A servicer with a method for each of the service's operations."""
    methods: dict[str, Any] = {
        operation.method: _unary(operation) for operation in OPERATIONS if operation.service == service_name
    }
    if service_name == STREAM_SERVICE:
        methods["Subscribe"] = _subscribe
    name = f"{service_name.rpartition('.')[2]}Service"
    service_class = cast("type[OperationService]", type(name, (OperationService,), methods))
    return service_class.as_servicer(doors=doors)


def _unary(operation) -> Callable:
    async def method(self, request, context):
        try:
            with counted(operation):
                read = partial(decoded, request, operation.request_class)
                return await self.doors.call(operation, read, visit_of(context))
        except ApiError as error:
            await refuse(context, error)

    return method


async def _subscribe(self, request, context) -> AsyncIterator[websocket_pb2.SubscribeResponse]:
    try:
        caller = self.doors.admit(visit_of(context), SCOPE, SUBSCRIBE)
        subscription = subscribe(self.doors, decoded(request, websocket_pb2.SubscribeRequest), "grpc")
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


async def refuse(context, error: ApiError) -> None:
    await context.abort(error.code, error.message, error.trailing_metadata)


def decoded(request: Any, message_class: type[Read]) -> Read:
    """ApiError when the bytes were none."""
    if isinstance(request, Undecodable):
        raise ApiError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"request: these bytes are no {message_class.DESCRIPTOR.full_name}",
        )
    return request


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


def _lenient(message_class: type[Message]) -> Callable[[bytes], Message | Undecodable]:
    def decode(raw: bytes) -> Message | Undecodable:
        try:
            return message_class.FromString(raw)
        except DecodeError:
            return Undecodable()

    return decode


def handlers_for(service_name: str, doors: Doors) -> grpc.GenericRpcHandler:
    servicer = servicer_for(service_name, doors)
    handlers = {
        operation.method: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, operation.method),
            request_deserializer=_lenient(operation.request_class),
            response_serializer=operation.reply_class.SerializeToString,
        )
        for operation in OPERATIONS
        if operation.service == service_name
    }
    if service_name == STREAM_SERVICE:
        handlers["Subscribe"] = grpc.unary_stream_rpc_method_handler(
            servicer.Subscribe,
            request_deserializer=_lenient(websocket_pb2.SubscribeRequest),
            response_serializer=websocket_pb2.SubscribeResponse.SerializeToString,
        )
    return grpc.method_handlers_generic_handler(service_name, handlers)


def _admit_scrape(doors: Doors, context) -> None:
    """ApiError for who may not read."""
    doors.admit(visit_of(context), SCOPE, f"{rpc_scrape.SERVICE}/{rpc_scrape.METHOD}")


def service_names() -> list[str]:
    return sorted({operation.service for operation in OPERATIONS} | {STREAM_SERVICE})


async def make_server(
    doors: Doors,
    *,
    health_service: health_pb2_grpc.HealthServicer,
    scrape: Scrape,
    max_message_bytes: int,
    max_connections: int,
) -> grpc.aio.Server:
    """A server with all services, not yet bound to an address. gRPC's usual limit holds where more is not needed."""
    limit = ("grpc.max_receive_message_length", max(MIN_MESSAGE_BYTES, max_message_bytes))
    connections = ("grpc.max_allowed_incoming_connections", max_connections)
    server = grpc.aio.server(options=(*_OPTIONS, limit, connections))
    names = service_names()
    server.add_generic_rpc_handlers(tuple(handlers_for(name, doors) for name in names))
    server.add_generic_rpc_handlers((rpc_scrape.handler_for(scrape, partial(_admit_scrape, doors)),))
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server
