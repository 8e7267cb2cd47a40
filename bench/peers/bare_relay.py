"""A bare asyncio relay: two DatagramProtocols, each sends what it gets to the address that the other heard last.
Prints its ports.
"""

import asyncio


class Side(asyncio.DatagramProtocol):
    peer = None
    other: "Side"

    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address) -> None:
        self.peer = address
        if self.other.peer:
            self.other.transport.sendto(data, self.other.peer)


async def main() -> None:
    loop = asyncio.get_running_loop()
    first, second = Side(), Side()
    first.other, second.other = second, first
    for side in (first, second):
        await loop.create_datagram_endpoint(lambda side=side: side, local_addr=("127.0.0.1", 0))
    ports = [side.transport.get_extra_info("sockname")[1] for side in (first, second)]
    print(*ports, flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
