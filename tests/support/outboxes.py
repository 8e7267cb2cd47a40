"""An outbox on a real database, with a carrier that does what a test asks of it."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager

from coincurve import PrivateKey
from django.core.management import call_command
from django.db import connection

from lightning.carrier import Outcome, Sent, Shipment, Verdict
from lightning.simulator.signing import sign_message
from messaging.budget import Budget
from messaging.database import Database
from messaging.hints import HintBook
from messaging.idempotency import Claims
from messaging.models import Attempt, IdempotencyKey, Message, Peer
from messaging.outbox import Outbox
from messaging.preimages import Preimages
from messaging.traffic import Limits

GUARD_SECONDS = 600
KEY = PrivateKey(b"\x0f" * 32)
OWN_PUBKEY = KEY.public_key.format()
PREIMAGES = Preimages("the secret key of tests")
PUBKEY = "02" + "11" * 32
OTHER_PUBKEY = "02" + "22" * 32


class Courier:
    """Delivers all at once; of what an earlier process left it says that it was lost."""

    safe_room_bytes = 720
    most_room_bytes = 1_206

    def __init__(self):
        self.shipped: list[Shipment] = []
        self.suspected: dict[bytes, str] = {}

    def new_secret(self) -> bytes:
        return os.urandom(32)

    def name_of(self, secret: bytes) -> bytes:
        return hashlib.sha256(secret).digest()

    def fee_limit_msat(self, amount_msat: int) -> int:
        return 0

    async def sign(self, message: bytes) -> str:
        return sign_message(KEY, message)

    async def survey(self, parcel) -> Outcome:
        return Outcome(verdict=Verdict.PASSING, cause="no way now")

    async def exists(self, destination: bytes) -> bool:
        return True

    async def send(self, shipment: Shipment) -> Outcome:
        self.shipped.append(shipment)
        return Outcome(verdict=Verdict.SETTLED)

    async def outcome(self, sent: Sent) -> Outcome:
        return Outcome(verdict=Verdict.PASSING, cause="lost on its way")


def make_outbox(
    database: Database,
    carrier,
    *,
    in_flight: int = 8,
    budget: Budget | None = None,
    services: Mapping[str, int] | None = None,
) -> Outbox:
    """`services`: their record numbers by their type; unless told only that of messages."""
    return Outbox(
        database=database,
        carrier=carrier,
        own_pubkey=OWN_PUBKEY,
        record_numbers=services or {"message": 400_000},
        limits=Limits(in_flight=in_flight, in_flight_per_peer=4),
        expires_seconds=86_400,
        published=lambda events: None,
        hints=HintBook(database),
        own_hints=lambda: (),
        budget=budget or Budget(database=database, limit_sat=None, sources=[]),
        claims=Claims(database),
        preimages=PREIMAGES,
    )


@asynccontextmanager
async def running(outbox: Outbox):
    task = asyncio.create_task(outbox.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(database: Database, condition: Callable[[], bool]) -> None:
    while not await database.read(condition):
        await asyncio.sleep(0.02)


def run(test) -> None:
    """Awaits it; it must not hang."""
    asyncio.run(asyncio.wait_for(test, GUARD_SECONDS))


def empty_database():
    """What a fixture is made of."""
    call_command("migrate", verbosity=0)
    clear_database()
    yield
    clear_database()
    connection.close()


def clear_database() -> None:
    Message.objects.all().delete()
    Attempt.objects.all().delete()
    Peer.objects.all().delete()
    IdempotencyKey.objects.all().delete()
