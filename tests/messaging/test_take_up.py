"""What the outbox takes up at its start, on a real database."""

import asyncio
import hashlib
import os
from datetime import timedelta
from functools import partial
from uuid import uuid4

import pytest
from coincurve import PrivateKey
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from lightning.carrier import Outcome, Shipment, Verdict
from lightning.simulator.signing import sign_message
from messaging import ledger
from messaging.budget import Budget
from messaging.database import Database
from messaging.hints import HintBook
from messaging.models import Attempt, Direction, Message, State
from messaging.outbox import Outbox
from messaging.packing import pack
from messaging.traffic import Limits

GUARD_SECONDS = 60
LATE_SECONDS = 0.5
KEY = PrivateKey()
PUBKEY = "02" + "11" * 32


@pytest.fixture(autouse=True)
def migrated():
    call_command("migrate", verbosity=0)
    Message.objects.all().delete()
    Attempt.objects.all().delete()
    yield
    Message.objects.all().delete()
    Attempt.objects.all().delete()
    connection.close()


class LateReader(Database):
    """Its list of what waits comes late, as that of a very long queue does."""

    async def read(self, job):
        if job is ledger.waiting_keys:
            await asyncio.sleep(LATE_SECONDS)
        return await super().read(job)


class Courier:
    """A carrier that has lost what was under way, and delivers all else at once."""

    safe_room_bytes = 720

    def __init__(self):
        self.shipped: list[Shipment] = []

    def new_secret(self) -> bytes:
        return os.urandom(32)

    def name_of(self, secret: bytes) -> bytes:
        return hashlib.sha256(secret).digest()

    async def sign(self, message: bytes) -> str:
        return sign_message(KEY, message)

    async def send(self, shipment: Shipment) -> Outcome:
        self.shipped.append(shipment)
        return Outcome(verdict=Verdict.SETTLED)

    async def outcome(self, secret: bytes) -> Outcome:
        return Outcome(verdict=Verdict.PASSING, cause="lost on its way")


def store_under_way(carrier: Courier) -> None:
    """A message and its attempt, as a process that was killed leaves them."""
    now = timezone.now()
    message = Message(
        message_id=uuid4(), direction=Direction.OUT, pubkey=PUBKEY, service="message", body=b"hello",
        amount_msat=1_000, state=State.QUEUED, expires_at=now + timedelta(days=1),
    )  # fmt: skip
    load = pack([message], safe_room_bytes=carrier.safe_room_bytes)[0]
    payer = ledger.Payer(pubkey=KEY.public_key.format().hex(), carrier=carrier, hints=lambda: ())
    attempt = ledger.attempt_for(load, payer, ())
    ledger.take_off(message, attempt, now)
    ledger.store_accepted([message], [attempt], [])


async def take_up(carrier: Courier) -> Message:
    """The message, after a new process has brought it to its end."""
    database = LateReader()
    outbox = Outbox(
        database=database, carrier=carrier, own_pubkey=KEY.public_key.format(), record_numbers={"message": 400_000},
        limits=Limits(in_flight=8, in_flight_per_peer=4), expires_seconds=86_400, published=lambda events: None,
        hints=HintBook(database), own_hints=lambda: (), budget=Budget(database=database, limit_sat=None, sources=[]),
    )  # fmt: skip
    await database.write(partial(store_under_way, carrier))
    running = asyncio.create_task(outbox.run())
    try:
        while (message := await database.read(Message.objects.get)).state != State.SETTLED:
            await asyncio.sleep(0.05)
        return message
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await database.close()


def test_message_whose_attempt_failed_at_the_start_is_tried_again_once():
    carrier = Courier()
    message = asyncio.run(asyncio.wait_for(take_up(carrier), GUARD_SECONDS))
    assert message.attempts == 2
    assert [shipment.amount_msat for shipment in carrier.shipped] == [1_000]
