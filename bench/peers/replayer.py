"""A bare server of the library `websockets`: sends BENCH_EVENTS ("N SIZE") frames, made beforehand, to whoever connects.
Prints its port.
"""

import asyncio
import os

from websockets.asyncio.server import serve

from bench.peers.frames import frame_text


async def main() -> None:
    count, size = map(int, os.environ["BENCH_EVENTS"].split())
    frames = [frame_text(index, size) for index in range(count)]

    async def client(connection) -> None:
        for frame in frames:
            await connection.send(frame)
        await connection.wait_closed()

    async with serve(client, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
