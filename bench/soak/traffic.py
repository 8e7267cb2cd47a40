"""Clients that send by REST, and write down what they were answered."""

import asyncio
import base64
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from bench.soak.world import Member, request

NO_ANSWER = (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError)
REPEAT_SECONDS = 0.3
# More than this under way from one client: it waits. A node that is stopped must not collect calls without end.
MOST_CALLS = 40


@dataclass(kw_only=True)
class Sent:
    """One request to send: what it asked for, and how it was answered."""

    sender: str
    recipient: str
    body: bytes
    kind: str
    key: str = ""
    id: str = ""
    status: int = 0
    calls: int = 0


@dataclass(kw_only=True)
class Habits:
    """What a client sends. `pause` is the mean time between bursts; the shares are of all messages."""

    pause: float = 0.25
    burst: int = 12
    long: bool = False
    long_share: float = 0.06
    key_share: float = 0.3
    stranger_share: float = 0.02


@dataclass
class Client:
    """Sends from one node to another until `stopped`, then ends the calls that are under way."""

    sender: Member
    recipient: Member
    habits: Habits
    random: random.Random
    numbers: Iterator[int]
    sent: list[Sent] = field(default_factory=list)
    _calls: set[asyncio.Task] = field(default_factory=set)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.random.expovariate(1 / self.habits.pause))
            size = 1 if self.random.random() < 0.8 else self.random.randint(2, self.habits.burst)
            for _ in range(size):
                if len(self._calls) < MOST_CALLS:
                    self.start(self._message())

    def start(self, message: Sent) -> asyncio.Task:
        self.sent.append(message)
        call = asyncio.create_task(self._deliver(message))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    async def finish(self) -> None:
        if self._calls:
            await asyncio.wait(set(self._calls))

    def _message(self) -> Sent:
        draw = self.random.random
        name = f"{self.sender.name} {next(self.numbers)} ".encode()
        message = Sent(sender=self.sender.name, recipient=self.recipient.node.pubkey, body=name, kind="small")
        if draw() < self.habits.stranger_share:
            message.kind, message.recipient = "stranger", "02" + self.random.randbytes(32).hex()
        elif self.habits.long and draw() < self.habits.long_share:
            message.kind = "long"
            message.body += self.random.randbytes(self.random.randint(2_500, 20_000))
        else:
            message.body += self.random.randbytes(self.random.choice([0, 8, 40, 120, 500]))
        if draw() < self.habits.key_share:
            message.key = self.random.randbytes(12).hex()
        return message

    async def _deliver(self, message: Sent) -> None:
        """One call; under a key it is repeated until there is an answer that will stay."""
        while True:
            with contextlib.suppress(*NO_ANSWER):
                await self._call(message)
            # 5xx: not now. Without a key the client cannot know whether to repeat.
            if message.id or not message.key or 0 < message.status < 500:
                return
            message.status = 0
            await asyncio.sleep(REPEAT_SECONDS)

    async def _call(self, message: Sent) -> None:
        message.calls += 1
        body = {"msg": base64.b64encode(message.body).decode(), "pubkey": message.recipient}
        headers = {"Idempotency-Key": message.key} if message.key else {}
        door = self.random.choice(self.sender.doors)
        message.status, answer = await request(door, "POST", "/v1/message/send", body, headers=headers)
        if message.status == 200:
            message.id = answer["id"]


@asynccontextmanager
async def flowing(clients: list[Client]) -> AsyncIterator[None]:
    """Traffic while the block runs; at its end no more is begun, and calls under a key may still be waiting."""
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def clients_between(a: Member, b: Member, habits: Habits, dice: random.Random) -> list[Client]:
    numbers = count(1)
    return [Client(x, y, habits, random.Random(dice.random()), numbers) for x, y in ((a, b), (b, a))]
