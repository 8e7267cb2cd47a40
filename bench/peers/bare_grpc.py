"""A bare grpc.aio handler of SendMessage that does one insert a call. Prints its port; BENCH_DATABASE is its file."""

import asyncio
import os

import grpc

from bench.peers.bare_insert import Inserts
from protos import messaging_pb2, messaging_pb2_grpc


class Handler(messaging_pb2_grpc.MessagingServicer):
    def __init__(self):
        self._inserts = Inserts(os.environ["BENCH_DATABASE"])

    async def SendMessage(self, request, context):
        return messaging_pb2.SendMessageResponse(id=await self._inserts.insert(request.msg))


async def main() -> None:
    server = grpc.aio.server()
    messaging_pb2_grpc.add_MessagingServicer_to_server(Handler(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


asyncio.run(main())
