"""Stream clients that write down every event, lose their connection again and again, and return with their cursor."""

import asyncio
import base64
import json
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

RETURN_SECONDS = 0.2
READ_SECONDS = 240
ENDED = ("settled", "failed")
TROUBLE = (OSError, TimeoutError, WebSocketException, EOFError)


@dataclass(frozen=True)
class Told:
    """One event as the stream told it."""

    seq: int
    id: str
    service: str
    sender: str
    data: bytes

    @property
    def delivery(self) -> dict:
        return json.loads(self.data)


def read(text: str) -> Told:
    event = json.loads(text)["result"]
    data = base64.b64decode(event["data"], validate=True)
    return Told(int(event["seq"]), event["id"], event["serviceType"], event["fromPubkey"], data)


@dataclass
class Watcher:
    """One client of the stream at `address`. `told` is all that it ever saw, in its order, or all of one sender."""

    name: str
    address: str
    sender: str = ""
    told: list[Told] = field(default_factory=list)
    cursor: int = 0
    returns: int = 0
    _connection: ClientConnection | None = None

    async def run(self) -> None:
        while True:
            try:
                await self._read()
            except TROUBLE:
                pass
            self._connection = None
            self.returns += 1
            await asyncio.sleep(RETURN_SECONDS)

    def drop(self) -> None:
        """The connection is gone at once, without a word."""
        if self._connection:
            self._connection.transport.abort()

    async def _read(self) -> None:
        async with _open(self.address, self.cursor) as self._connection:
            async for text in self._connection:
                event = read(text)
                self.cursor = event.seq
                if self.sender in ("", event.sender):
                    self.told.append(event)


async def whole_log(address: str, last: set[tuple[str, str]], *, sender: str = "") -> list[Told]:
    """The event log from its beginning (or all of one sender in it), by one fresh client, until all of `last` (service,
    id) were told.
    """
    told: list[Told] = []
    missing = set(last)
    async with _open(address, 0) as connection:
        while missing:
            event = read(await asyncio.wait_for(connection.recv(), READ_SECONDS))
            if sender in ("", event.sender):
                told.append(event)
            if event.service != "delivery" or event.delivery["state"] in ENDED:
                missing.discard((event.service, event.id))
    return told


def _open(address: str, after: int) -> connect:
    uri = f"ws://{address}/v1/subscribe?after={after}"
    options = {"open_timeout": 240, "close_timeout": 1, "ping_interval": None, "max_size": None}
    return connect(uri, compression=None, proxy=None, **options)
