"""Quiet gRPC streams stay open for clients that ping, which they do to keep NATs and proxies from forgetting them."""

import time

import grpc
import pytest

from protos import websocket_pb2, websocket_pb2_grpc
from tests.support.http2 import Http2Client, message, run
from tests.support.nodes import GUARD_SECONDS
from tests.support.streams import send

SUBSCRIBE = "/websocket.Websocket/Subscribe"
# The shortest interval that the node allows is 5 s; so many pings that come too soon would end the connection twice.
INTERVAL_SECONDS, PINGS = 5.5, 6


def test_client_may_ping_a_quiet_stream(alice):
    # A service of which nothing is told.
    request = websocket_pb2.SubscribeRequest(services=["sign"]).SerializeToString()
    with Http2Client(alice.grpc_port) as client:
        stream = client.call(SUBSCRIBE, message(request), ends=True)
        run([client], lambda: stream.answer)
        for number in range(1, PINGS + 1):
            client.ping()
            run([client], lambda: client.pongs == number or client.ended)
            assert not client.goaway, client.goaway
            time.sleep(INTERVAL_SECONDS)
        run([client], lambda: not client.advance())
        assert (client.goaway, client.ended, stream.closed) == (b"", False, False)


@pytest.mark.long
@pytest.mark.parametrize("seconds", [10, 30])
def test_grpc_client_with_keepalive(alice, bob, seconds):
    options = (
        ("grpc.keepalive_time_ms", seconds * 1000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    )
    with grpc.insecure_channel(alice.grpc, options=options) as channel:
        request = websocket_pb2.SubscribeRequest(services=["message"])
        call = websocket_pb2_grpc.WebsocketStub(channel).Subscribe(request, timeout=GUARD_SECONDS)
        call.initial_metadata()
        time.sleep(6.5 * seconds)
        assert call.is_active()
        message_id = send(bob, alice)
        assert next(event for event in call if event.id == message_id)
