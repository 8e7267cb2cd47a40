"""What the outbox takes up at its start, on a real database."""

import asyncio
import os
from datetime import timedelta
from functools import partial
from uuid import uuid4

import pytest
from django.utils import timezone

from lightning.carrier import Outcome, Sent, Verdict
from messaging import divided, ledger, outbox
from messaging.database import Database
from messaging.models import Direction, Message, Part, State
from messaging.packing import divide, pack
from tests.support.outboxes import (
    OTHER_PUBKEY,
    OWN_PUBKEY,
    PREIMAGES,
    PUBKEY,
    Courier,
    empty_database,
    make_outbox,
    run,
    running,
    until,
)

LATE_SECONDS = 0.5
OTHER_PAYER = "03" + "33" * 32

migrated = pytest.fixture(autouse=True)(empty_database)


class LateReader(Database):
    """Its list of what waits comes late, as that of a very long queue does."""

    async def read(self, job):
        if job is ledger.waiting_keys:
            await asyncio.sleep(LATE_SECONDS)
        return await super().read(job)


def new_message(
    *, pubkey: str = PUBKEY, expires: timedelta = timedelta(days=1), service: str = "message"
) -> Message:
    return Message(
        message_id=uuid4(),
        direction=Direction.OUT,
        pubkey=pubkey,
        service=service,
        body=b"hello",
        amount_msat=1_000,
        state=State.QUEUED,
        expires_at=timezone.now() + expires,
    )


def store_under_way(carrier: Courier, messages: list[Message], payer: str = OWN_PUBKEY.hex()) -> None:
    """Messages and the attempt that carries them, as a process that was killed leaves them."""
    (load,) = pack(messages, safe_room_bytes=carrier.safe_room_bytes)
    attempt = ledger.attempt_for(
        load, ledger.Payer(pubkey=payer, carrier=carrier, preimages=PREIMAGES, hints=lambda: ()), ()
    )
    for message in messages:
        ledger.take_off(message, attempt, timezone.now())
    ledger.store_accepted(messages, [attempt], [])


def all_are(state: State) -> bool:
    return not Message.objects.exclude(state=state).exists()


def test_message_whose_attempt_failed_at_the_start_is_tried_again_once():
    async def test() -> None:
        database, carrier = LateReader(), Courier()
        await database.write(partial(store_under_way, carrier, [new_message()]))
        async with running(make_outbox(database, carrier)):
            await until(database, partial(all_are, State.SETTLED))
        message = await database.read(Message.objects.get)
        assert message.attempts == 2
        assert [shipment.amount_msat for shipment in carrier.shipped] == [1_000]
        await database.close()

    run(test())


def test_message_that_a_worker_stores_during_the_start_is_paid_once():
    """It is found in the database, and told besides: the same message waits twice."""

    async def test() -> None:
        database, carrier = LateReader(), Courier()
        outbox_ = make_outbox(database, carrier)
        message = new_message()
        async with running(outbox_):
            await database.write(partial(ledger.store_queued, [message], None, None))
            outbox_.send_stored([message])
            await until(database, partial(all_are, State.SETTLED))
        assert [shipment.amount_msat for shipment in carrier.shipped] == [1_000]
        await database.close()

    run(test())


@pytest.mark.parametrize("count", [1, 3])
def test_nothing_that_another_lnd_may_have_paid_for_is_sent_again(count):
    async def test() -> None:
        database, carrier = Database(), Courier()
        messages = [new_message() for _ in range(count)]
        await database.write(partial(store_under_way, carrier, messages, OTHER_PAYER))
        async with running(make_outbox(database, carrier)):
            await until(database, partial(all_are, State.FAILED))
        assert not carrier.shipped
        errors = await database.read(lambda: set(Message.objects.values_list("error", flat=True)))
        assert errors == {outbox.EXCHANGED}
        await database.close()

    run(test())


def store_half_paid(carrier: Courier, payer: str) -> None:
    """A message in three parts: one that `payer` has paid for, and two that wait."""
    message = new_message()
    message.body = os.urandom(1_500)
    message.save()
    division, parts = divide(message, room_bytes=720)
    ledger.start_divided(division, parts, cost_msat=10_000)
    first, *_ = Part.objects.order_by("index")
    (load,) = pack([first], safe_room_bytes=carrier.safe_room_bytes)
    attempt = ledger.attempt_for(
        load, ledger.Payer(pubkey=payer, carrier=carrier, preimages=PREIMAGES, hints=lambda: ()), ()
    )
    attempt.save()
    divided.take_off([(attempt, first)], timezone.now())
    ledger.settle([(attempt, [first], 0)], published=lambda events: None)


@pytest.mark.parametrize(
    ("payer", "shipped", "state"),
    [(OTHER_PAYER, 0, State.FAILED), (OWN_PUBKEY.hex(), 2, State.SETTLED)],
    ids=["another lnd", "this lnd"],
)
def test_parts_of_a_message_come_from_one_node(payer, shipped, state):
    """Of a message that another lnd has paid for in part nothing more is sent: its recipient could not join it."""

    async def test() -> None:
        database, carrier = Database(), Courier()
        await database.write(partial(store_half_paid, carrier, payer))
        async with running(make_outbox(database, carrier)):
            await until(database, partial(all_are, state))
        assert len(carrier.shipped) == shipped
        message = await database.read(Message.objects.get)
        spent = f"{outbox.BEGUN}; 1 sat are spent on 1 of 3 parts"
        assert (message.parts, message.error) == (3, spent if state == State.FAILED else "")
        assert message.cost_msat == 1_000 * (1 + shipped)
        await database.close()

    run(test())


class Holder(Courier):
    """Its one destination holds what it was sent before the restart."""

    async def outcome(self, sent: Sent) -> Outcome:
        await asyncio.Event().wait()


def test_payments_that_were_held_before_a_restart_stop_no_other_node(monkeypatch):
    monkeypatch.setattr(outbox, "HELD_SECONDS", 0.2)

    async def test() -> None:
        database, carrier = Database(), Holder()
        await database.write(partial(store_under_way, carrier, [new_message()]))
        outbox_ = make_outbox(database, carrier, in_flight=1)
        async with running(outbox_):
            await outbox_.accept(
                service="message", pubkey=OTHER_PUBKEY, body=b"hello", amount_sat=1, reply_to=None
            )
            await until(database, lambda: Message.objects.get(pubkey=OTHER_PUBKEY).state == State.SETTLED)
        await database.close()

    run(test())


class Stranger(Courier):
    """It has never heard of what was under way."""

    async def outcome(self, sent: Sent) -> Outcome:
        return Outcome(verdict=Verdict.NEVER_SENT)


@pytest.mark.parametrize("under_way", [True, False])
def test_message_of_a_service_that_was_taken_out_of_the_configuration_fails(under_way):
    async def test() -> None:
        database, carrier = Database(), Stranger()
        messages = [new_message(service="gone") for _ in range(2)]
        step = (
            partial(store_under_way, carrier, messages)
            if under_way
            else partial(ledger.store_queued, messages, None, None)
        )
        await database.write(step)
        async with running(make_outbox(database, carrier)):
            await until(database, partial(all_are, State.FAILED))
        assert not carrier.shipped
        errors = await database.read(lambda: set(Message.objects.values_list("error", flat=True)))
        assert all("'gone'" in error for error in errors)
        await database.close()

    run(test())
