"""A bare broadcaster of the library `websockets`: sends N events of a given text to every client, told by a line on
standard input ("N SIZE"). Prints its port.
"""

import asyncio
import sys

from websockets.asyncio.server import broadcast, serve

from bench.peers.frames import frame_text


async def main() -> None:
    clients = set()

    async def client(connection) -> None:
        clients.add(connection)
        try:
            await connection.wait_closed()
        finally:
            clients.discard(connection)

    async with serve(client, "127.0.0.1", 0, compression=None, ping_interval=None, open_timeout=60) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            count, size = map(int, line.split())
            for index in range(count):
                broadcast(clients, frame_text(index, size))
                await asyncio.sleep(0)


asyncio.run(main())
