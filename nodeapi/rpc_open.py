"""What of gRPC needs no key: health and reflection. Their requests are short, and few of them are received at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from nodeapi.addresses import sources_of
from nodeapi.errors import ApiError
from nodeapi.rpc_requests import decoded, messages, read_once, refuse
from nodeapi.rpc_rooms import WATCHES, Rooms

_TOO_MANY_WATCH = f"{WATCHES} streams watch the health, and this one has given way to another"


def health_handlers(service: health_pb2_grpc.HealthServicer, rooms: Rooms) -> grpc.GenericRpcHandler:
    def asked(context) -> Awaitable[health_pb2.HealthCheckRequest]:
        return read_once(rooms.of_stranger(context), context, health_pb2.HealthCheckRequest)

    async def check(_, context) -> health_pb2.HealthCheckResponse:
        try:
            request = await asked(context)
        except ApiError as error:
            await refuse(context, error)
        return await service.Check(request, context)

    async def watch(_, context) -> None:
        try:
            request = await asked(context)
            async with asyncio.timeout(None) as timeout:
                with rooms.watches.take(sources_of(context), timeout):
                    await service.Watch(request, context)
        except TimeoutError:
            await refuse(context, ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, _TOO_MANY_WATCH))
        except ApiError as error:
            await refuse(context, error)

    serialize = health_pb2.HealthCheckResponse.SerializeToString
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Check": grpc.stream_unary_rpc_method_handler(check, response_serializer=serialize),
        "Watch": grpc.stream_stream_rpc_method_handler(watch, response_serializer=serialize),
    }
    return grpc.method_handlers_generic_handler(health.SERVICE_NAME, handlers)


def reflection_handlers(names: Iterable[str], rooms: Rooms) -> grpc.GenericRpcHandler:
    servicer = reflection.aio.ReflectionServicer(names)

    async def answer(_, context) -> AsyncIterator[Message]:
        request = rooms.of_stranger(context)

        async def asked() -> AsyncIterator[Message]:
            async for raw in messages(request, context.read):
                yield decoded(raw, reflection_pb2.ServerReflectionRequest)

        try:
            async for reply in servicer.ServerReflectionInfo(asked(), context):
                yield reply
        except ApiError as error:
            await refuse(context, error)
        finally:
            request.done()

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
        answer, response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": handler})
