"""What a gRPC client hears of runimpd before the API is there, over a real server."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nodeapi import rpc
from nodeapi.errors import BY_NODE
from nodeapi.monitoring.health import Health
from nodeapi.monitoring.rpc_health import HealthService
from nodeapi.rpc_entry import RpcEntry
from protos import messaging_pb2, messaging_pb2_grpc, websocket_pb2, websocket_pb2_grpc
from tests.support.doors import caller, make_doors, secret_of

WAITING = "the node waits for its database"
KEY = (("x-api-key", secret_of("reader")),)


@pytest.fixture
async def entry() -> RpcEntry:
    rooms = rpc.make_rooms(max_message_bytes=1_000, max_connections=8)
    service = HealthService(Health(), rpc.service_names())
    await service.look()
    return RpcEntry(rpc.open_handlers(rooms, service), lambda: WAITING)


@pytest.fixture
async def channel(entry) -> AsyncIterator[grpc.aio.Channel]:
    server = rpc.make_server(entry, rpc.make_rooms(max_message_bytes=1_000, max_connections=8))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


async def refusal(call) -> tuple[grpc.StatusCode, str, bool]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    trailing = [tuple(pair) for pair in error.value.trailing_metadata()]
    return error.value.code(), error.value.details(), BY_NODE in trailing


async def test_calls_and_streams_are_told_what_the_node_waits_for(channel):
    listing = messaging_pb2_grpc.MessagingStub(channel).ListMessages(messaging_pb2.ListMessagesRequest())
    stream = websocket_pb2_grpc.WebsocketStub(channel).Subscribe(websocket_pb2.SubscribeRequest())
    for call in (listing, anext(aiter(stream))):
        assert await refusal(call) == (grpc.StatusCode.UNAVAILABLE, WAITING, True)


async def test_health_is_told_from_the_start(channel):
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_api_once_it_is_there(channel, entry, database):
    rooms = rpc.make_rooms(max_message_bytes=1_000, max_connections=8)
    entry.install(rpc.api_handlers(make_doors(database, caller("reader", "read")), rooms, scrape=None))
    stub = messaging_pb2_grpc.MessagingStub(channel)
    assert not (await stub.ListMessages(messaging_pb2.ListMessagesRequest(), metadata=KEY)).messages
    unknown = channel.unary_unary("/messaging.Messaging/NoSuchMethod")
    code, _, _ = await refusal(asyncio.ensure_future(unknown(b"")))
    assert code is grpc.StatusCode.UNIMPLEMENTED
