"""The outbox with what goes wrong beside it: callers that leave, a database or an lnd that is away for a moment."""

import asyncio
from functools import partial
from uuid import UUID

import pytest
from django.db import OperationalError, connection

from lightning.carrier import Outcome, Shipment, Verdict
from messaging import clock, epoch, hints, ledger, outbox
from messaging import database as databases
from messaging.budget import Budget, OverBudget, spent_on_messages
from messaging.clock import Clock
from messaging.database import Database
from messaging.idempotency import Claim, Claims, KeyReused
from messaging.models import Attempt, Message, State
from messaging.outgoing import new_message
from tests.support.outboxes import PUBKEY, Courier, empty_database, make_outbox, run, running, until

EXPIRES_SECONDS = 1

migrated = pytest.fixture(autouse=True)(empty_database)


def accept(box, **fields):
    return box.accept(service="message", pubkey=PUBKEY, body=b"hello", amount_sat=10, reply_to=None, **fields)


def all_are(state: State) -> bool:
    return Message.objects.exists() and not Message.objects.exclude(state=state).exists()


def test_message_whose_caller_has_left_counts_for_the_budget():
    async def test() -> None:
        database, carrier = Database(), Courier()
        budget = Budget(database=database, limit_sat=25, sources=[spent_on_messages])
        box = make_outbox(database, carrier, budget=budget)
        async with running(box):
            await accept(box)
            leaving = asyncio.create_task(accept(box))
            while not budget._pending_msat:
                await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            with pytest.raises(OverBudget):
                await accept(box)
            # The second is perhaps not stored yet.
            await until(database, lambda: Message.objects.filter(state=State.SETTLED).count() == 2)
        assert sum(shipment.amount_msat for shipment in carrier.shipped) == 20_000
        await database.close()

    run(test())


def test_broadcast_whose_caller_has_left_is_sent_all_the_same():
    async def test() -> None:
        database, carrier = Database(), Courier()
        box = make_outbox(database, carrier)
        async with running(box):
            message = new_message(service="message", pubkey=PUBKEY, body=b"hello")
            leaving = asyncio.create_task(box.accept_all([message]))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            await until(database, partial(all_are, State.SETTLED))
        await database.close()

    run(test())


class OnceAway(Database):
    """It is away when it is first asked for a peer's hints, after the attempt was stored."""

    was_away = False

    async def read(self, job):
        if not self.was_away and getattr(job, "func", None) is hints.read:
            self.was_away = True
            raise OperationalError("the server went away")
        return await super().read(job)


class Remembering(Courier):
    """It has heard of what it was sent, and of nothing else."""

    async def outcome(self, secret: bytes) -> Outcome:
        known = any(shipment.secret == secret for shipment in self.shipped)
        return Outcome(verdict=Verdict.SETTLED if known else Verdict.NEVER_SENT)


def test_message_goes_on_after_the_database_was_away(monkeypatch):
    monkeypatch.setattr(outbox, "UNKNOWN_RETRY_SECONDS", 0.05)

    async def test() -> None:
        database, carrier = OnceAway(), Remembering()
        box = make_outbox(database, carrier)
        async with running(box):
            await accept(box)
            await until(database, partial(all_are, State.SETTLED))
        assert database.was_away
        assert len(carrier.shipped) == 1
        await database.close()

    run(test())


class Crashing(Courier):
    """It goes away with what it was sent, whose time is over then. Its first answers afterwards are that it has heard of
    nothing; later it pays, if it does so at all.
    """

    def __init__(self, *, pays: bool):
        super().__init__()
        self._pays = pays
        self._asked = 0

    async def send(self, shipment: Shipment) -> Outcome:
        self.shipped.append(shipment)
        # The outbox has the message in its memory.
        await asyncio.sleep(EXPIRES_SECONDS)
        return Outcome(verdict=Verdict.UNKNOWN, cause="lnd does not answer")

    async def outcome(self, secret: bytes) -> Outcome:
        self._asked += 1
        heard = self._pays and self._asked >= outbox.UNHEARD_ANSWERS
        return Outcome(verdict=Verdict.SETTLED if heard else Verdict.NEVER_SENT)


@pytest.mark.parametrize(("pays", "end"), [(False, State.FAILED), (True, State.SETTLED)])
def test_what_lnd_has_not_heard_of_in_time_is_not_sent_again(monkeypatch, pays, end):
    monkeypatch.setattr(outbox, "UNKNOWN_RETRY_SECONDS", 0.05)

    async def test() -> None:
        database, carrier = Database(), Crashing(pays=pays)
        async with running(box := make_outbox(database, carrier)):
            await accept(box, expires_seconds=EXPIRES_SECONDS)
            await until(database, partial(all_are, end))
        assert len(carrier.shipped) == 1
        await database.close()

    run(test())


class Replaced(Courier):
    """Another process takes over while lnd signs."""

    async def sign(self, message: bytes) -> str:
        await asyncio.to_thread(_begin_elsewhere)
        return await super().sign(message)


def _begin_elsewhere() -> int:
    try:
        return epoch.begin()
    finally:
        connection.close()


def test_who_was_replaced_sends_nothing_more(monkeypatch):
    monkeypatch.setattr(databases, "CONFIRMED_SECONDS", 0)

    async def test() -> None:
        database, carrier = Database(epoch=await asyncio.to_thread(_begin_elsewhere)), Replaced()
        async with running(box := make_outbox(database, carrier)):
            accepting = asyncio.create_task(accept(box))
            with pytest.raises(epoch.OvertakenError):
                await database.watch_epoch()
            await asyncio.gather(accepting, return_exceptions=True)
        assert carrier.shipped == []
        await database.close()

    run(test())


def test_attempt_that_nobody_follows_is_taken_up_without_a_restart(monkeypatch):
    """The database said that it was not stored, and it was."""
    monkeypatch.setattr(outbox, "LOOK_SECONDS", 0.05)

    async def test() -> None:
        database, carrier = Database(), Courier()
        async with running(box := make_outbox(database, carrier)):
            message = new_message(service="message", pubkey=PUBKEY, body=b"hello")
            ((load, hints),) = ledger.loads_of([message], box._payer)
            attempt = ledger.attempt_for(load, box._payer, hints)
            ledger.take_off(message, attempt, message.created_at)
            await database.write(partial(ledger.store_accepted, [message], [attempt], []))
            # The first attempt was lost on its way, as the carrier says, and the second is sent.
            await until(database, partial(all_are, State.SETTLED))
        assert len(carrier.shipped) == 1
        assert carrier.shipped[0].secret != bytes(attempt.secret)
        await database.close()

    run(test())


class Slow(Courier):
    """What it is sent stays under way until `released`."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()
        self.asked = 0

    async def send(self, shipment: Shipment) -> Outcome:
        await self.released.wait()
        return await super().send(shipment)

    async def outcome(self, secret: bytes) -> Outcome:
        self.asked += 1
        return await super().outcome(secret)


def test_attempt_that_is_followed_is_not_taken_up(monkeypatch):
    monkeypatch.setattr(outbox, "LOOK_SECONDS", 0.0)

    class Counting(Database):
        looks = 0

        async def read(self, job):
            self.looks += job is ledger.attempts_in_flight
            return await super().read(job)

    async def test() -> None:
        database, carrier = Counting(), Slow()
        async with running(box := make_outbox(database, carrier)):
            await accept(box)
            while database.looks < 20:
                await asyncio.sleep(0)
            carrier.released.set()
            await until(database, partial(all_are, State.SETTLED))
        assert (carrier.asked, len(carrier.shipped)) == (0, 1)
        await database.close()

    run(test())


def test_key_that_was_given_meanwhile_fails_its_own_call_alone(monkeypatch):
    """They are stored together: one of them cannot be."""

    async def test() -> None:
        database, carrier = Database(), Courier()
        async with running(box := make_outbox(database, carrier)):
            await accept(box, claim=Claim(caller="a", key="taken", request_hash=bytes(32)))

            async def unknown(self, claim) -> None:
                """The other call's row was stored after this one was looked for."""

            monkeypatch.setattr(Claims, "_stored_answer", unknown)
            claims = [Claim(caller="a", key=key, request_hash=bytes(32)) for key in ("new", "taken", "newer")]
            calls = [accept(box, claim=claim) for claim in claims]
            found = await asyncio.gather(accept(box), *calls, return_exceptions=True)
            assert [type(one) for one in found] == [UUID, UUID, KeyReused, UUID]
            await until(database, lambda: Message.objects.filter(state=State.SETTLED).count() == 4)
            assert not await database.read(Attempt.objects.exclude(state=Attempt.State.SETTLED).exists)
            assert await database.read(Message.objects.count) == 4
        await database.close()

    run(test())


def test_key_outlives_a_clock_that_jumps(monkeypatch):
    wall = [1_800_000_000.0]
    monkeypatch.setattr(clock, "PROCESS", Clock(wall=lambda: wall[0], steady=lambda: 1_000.0))

    async def test() -> None:
        database, carrier = Database(), Courier()
        async with running(box := make_outbox(database, carrier)):
            claim = Claim(caller="a", key="k", request_hash=bytes(32))
            first = await accept(box, claim=claim)
            wall[0] += 2 * 86_400
            assert await accept(box, claim=claim) == first
            # Keys that are stored later do not take it for old either.
            await accept(box, claim=Claim(caller="a", key="other", request_hash=bytes(32)))
            assert await accept(box, claim=claim) == first
        await database.close()

    run(test())
