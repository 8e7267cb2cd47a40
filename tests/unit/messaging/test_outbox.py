"""The outbox with what goes wrong beside it: callers that leave, a database or an lnd that is away for a moment."""

import asyncio
from collections import Counter
from functools import partial
from uuid import UUID

import pytest
from django.db import OperationalError, connection

from lightning.carrier import Outcome, Sent, Shipment, Verdict
from lightning.client import LndError, Trouble
from lightning.hints import HopHint
from messaging import clock, epoch, hints, ledger, outbox, peers, reachability, suspected
from messaging import database as databases
from messaging.answer_queue import MAX_IN_FLIGHT
from messaging.answers import ATTEMPTS, ATTEMPTS_OF_KNOWN
from messaging.budget import Budget, OverBudget, spent_on_messages
from messaging.clock import Clock
from messaging.database import Database
from messaging.idempotency import Claim, Claims, KeyReused
from messaging.metrics import UNKNOWN_NODE
from messaging.models import Attempt, Message, Origin, Part, State
from messaging.outgoing import new_message
from tests.support.outboxes import (
    OTHER_PUBKEY,
    OWN_PUBKEY,
    PUBKEY,
    Courier,
    empty_database,
    make_outbox,
    run,
    running,
    until,
)

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

    async def outcome(self, sent: Sent) -> Outcome:
        known = any(shipment.secret == sent.secret for shipment in self.shipped)
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

    async def outcome(self, sent: Sent) -> Outcome:
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


# unasked messages


class Holding(Courier):
    """It holds what it is sent until it is let go, and counts how often it tries."""

    def __init__(self, *, end: Verdict = Verdict.SETTLED, unknown: tuple[str, ...] = ()):
        super().__init__()
        self.go_on = asyncio.Event()
        self._end = end
        self._unknown = unknown

    async def exists(self, destination: bytes) -> bool:
        return destination.hex() not in self._unknown

    async def send(self, shipment: Shipment) -> Outcome:
        self.shipped.append(shipment)
        await self.go_on.wait()
        return Outcome(verdict=self._end, cause="no way now")


def unasked(count: int, *, pubkey: str = PUBKEY, known: bool = False) -> list[Message]:
    """Answers that are stored and wait, with a fee limit of their own."""
    made = [new_message(service="message", pubkey=pubkey, body=b"!") for _ in range(count)]
    for message in made:
        message.fee_limit_msat = 1_500
        message.max_attempts = ATTEMPTS_OF_KNOWN if known else ATTEMPTS
    return insert(made)


def insert(messages: list[Message]) -> list[Message]:
    Message.objects.bulk_create(messages)
    return list(Message.objects.filter(message_id__in=[message.message_id for message in messages]))


async def until_shipped(carrier: Courier, count: int) -> None:
    while len(carrier.shipped) < count:
        await asyncio.sleep(0.01)


def test_receivers_that_hold_answers_hold_few_and_nothing_else():
    """Half of the places in flight are kept for known peers, and what is asked for here goes on."""

    async def test() -> None:
        database, carrier = Database(), Holding()
        box = make_outbox(database, carrier)
        async with running(box):
            box.send_stored(await database.write(lambda: unasked(20)))
            await until_shipped(carrier, MAX_IN_FLIGHT // 2)
            box.send_stored(await database.write(lambda: unasked(20, pubkey=OTHER_PUBKEY, known=True)))
            await until_shipped(carrier, MAX_IN_FLIGHT)
            calling = asyncio.create_task(accept(box))
            await until_shipped(carrier, MAX_IN_FLIGHT + 1)
            await calling
            assert box.depth.in_flight == MAX_IN_FLIGHT + 1
            destinations = Counter(shipment.destination.hex() for shipment in carrier.shipped)
            assert destinations == {PUBKEY: MAX_IN_FLIGHT // 2 + 1, OTHER_PUBKEY: MAX_IN_FLIGHT // 2}
            carrier.go_on.set()
            await until(database, partial(all_are, State.SETTLED))
        assert len(carrier.shipped) == 41
        await database.close()

    run(test())


@pytest.mark.parametrize(("known", "attempts"), [(False, 1), (True, 2)])
def test_answer_that_does_not_get_there_is_tried_so_often(known, attempts):
    async def test() -> None:
        database, carrier = Database(), Holding(end=Verdict.PASSING)
        carrier.go_on.set()
        box = make_outbox(database, carrier)
        async with running(box):
            box.send_stored(await database.write(lambda: unasked(1, known=known)))
            await until(database, partial(all_are, State.FAILED))
        message = await database.read(Message.objects.get)
        assert (len(carrier.shipped), message.attempts) == (attempts, attempts)
        assert (message.error, message.cost_msat) == ("no way now", 0)
        await database.close()

    run(test())


def test_fee_limit_of_an_answer_is_that_of_its_payment_and_stays_so_after_a_restart():
    class Lost(Remembering):
        """What it was sent first it has never heard of."""

        async def exists(self, destination: bytes) -> bool:
            return True

        async def send(self, shipment: Shipment) -> Outcome:
            self.shipped.append(shipment)
            if len(self.shipped) == 1:
                await asyncio.Event().wait()
            return Outcome(verdict=Verdict.SETTLED)

        async def outcome(self, sent: Sent) -> Outcome:
            return Outcome(verdict=Verdict.NEVER_SENT)

        def fee_limit_msat(self, amount_msat: int) -> int:
            return 10_000

    async def test() -> None:
        database, carrier = Database(), Lost()
        async with running(box := make_outbox(database, carrier)):
            box.send_stored(await database.write(lambda: unasked(1)))
            await until_shipped(carrier, 1)
        async with running(make_outbox(database, carrier)):
            await until(database, partial(all_are, State.SETTLED))
        first, again = carrier.shipped
        assert first == again
        assert first.fee_limit_msat == 1_500
        await database.close()

    run(test())


def test_answers_that_wait_are_sent_after_a_restart():
    async def test() -> None:
        database, carrier = Database(), Holding()
        carrier.go_on.set()
        await database.write(lambda: unasked(3))
        async with running(make_outbox(database, carrier)):
            await until(database, partial(all_are, State.SETTLED))
        assert len(carrier.shipped) == 3
        await database.close()

    run(test())


def test_nothing_is_sent_to_a_key_that_no_node_has():
    async def test() -> None:
        database, carrier = Database(), Holding(unknown=(PUBKEY,))
        async with running(box := make_outbox(database, carrier)):
            box.send_stored(await database.write(lambda: unasked(2)))
            await until(database, partial(all_are, State.FAILED))
        assert carrier.shipped == []
        message = await database.read(Message.objects.first)
        assert message.error == reachability.CAUSES[UNKNOWN_NODE]
        await database.close()

    run(test())


def test_answers_wait_while_lnd_says_nothing_of_their_nodes(monkeypatch):
    monkeypatch.setattr(outbox, "UNKNOWN_RETRY_SECONDS", 0.05)

    class Away(Holding):
        asked = 0

        async def exists(self, destination: bytes) -> bool:
            self.asked += 1
            if self.asked < 3:
                raise LndError(Trouble.AWAY, "away")
            return True

    async def test() -> None:
        database, carrier = Database(), Away()
        carrier.go_on.set()
        async with running(box := make_outbox(database, carrier)):
            box.send_stored(await database.write(lambda: unasked(1)))
            await until(database, partial(all_are, State.SETTLED))
        assert len(carrier.shipped) == 1
        await database.close()

    run(test())


def test_hint_that_a_payment_got_there_with_is_known_to_work():
    hint = HopHint(node_id=OWN_PUBKEY, chan_id=7, fee_base_msat=1, fee_ppm=1, cltv_delta=40)

    def learn() -> None:
        peers.touch([PUBKEY])
        hints.store(PUBKEY, (hint,))

    def proven() -> bool:
        return reachability.is_proven(PUBKEY, (hint,))

    async def test() -> None:
        database, carrier = Database(), Courier()
        await database.write(learn)
        assert not await database.read(proven)
        async with running(box := make_outbox(database, carrier)):
            await accept(box)
            await until(database, proven)
        await database.close()

    peers._touched_at.clear()
    run(test())


class Losing(Courier):
    """The first `lost` payments have no end, and are found to be dead when the test says so."""

    def __init__(self, *, lost: int = 1):
        super().__init__()
        self.lost = lost
        self.found_dead = asyncio.Event()

    async def send(self, shipment: Shipment) -> Outcome:
        self.shipped.append(shipment)
        if len(self.shipped) > self.lost:
            return Outcome(verdict=Verdict.SETTLED)
        return await self._until_found_dead()

    async def outcome(self, sent: Sent) -> Outcome:
        return await self._until_found_dead()

    async def _until_found_dead(self) -> Outcome:
        await self.found_dead.wait()
        return Outcome(verdict=Verdict.DEAD, cause="lnd held a dead payment")


def test_message_of_a_dead_payment_is_paid_for_anew(monkeypatch):
    monkeypatch.setattr(outbox, "FIRST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(suspected, "TELL_SECONDS", 0.01)

    async def test() -> None:
        database, carrier = Database(), Losing()
        async with running(box := make_outbox(database, carrier)):
            await accept(box)
            await until(database, partial(all_are, State.IN_FLIGHT))
            (attempt,) = await database.read(lambda: list(Attempt.objects.all()))
            carrier.suspected = {bytes(attempt.name): "lnd holds a dead payment"}
            await until(database, lambda: Message.objects.get().error == "lnd holds a dead payment")
            assert await database.read(partial(all_are, State.IN_FLIGHT))
            carrier.suspected = {}
            await until(database, lambda: Message.objects.get().error == "")
            carrier.found_dead.set()
            await until(database, partial(all_are, State.SETTLED))
        first, second = carrier.shipped
        assert first.secret != second.secret
        message = await database.read(Message.objects.get)
        assert (message.attempts, message.error) == (2, "")
        ends = await database.read(
            lambda: list(Attempt.objects.order_by("created_at").values_list("state", "cause"))
        )
        assert ends == [(Attempt.State.FAILED, "lnd held a dead payment"), (Attempt.State.SETTLED, "")]
        await database.close()

    run(test())


@pytest.mark.parametrize("after_decision", [False, True])
def test_kill_around_the_decision_loses_and_doubles_nothing(monkeypatch, after_decision):
    """kill -9 before the end of the dead attempt is stored, or after it and before the new one."""
    monkeypatch.setattr(outbox, "FIRST_RETRY_SECONDS", 600.0 if after_decision else 0.05)

    async def test() -> None:
        database, carrier = Database(), Losing()
        async with running(box := make_outbox(database, carrier)):
            await accept(box)
            await until(database, partial(all_are, State.IN_FLIGHT))
            if after_decision:
                carrier.found_dead.set()
                await until(database, partial(all_are, State.RETRYING))
        assert len(carrier.shipped) == 1
        carrier.found_dead.set()
        await database.write(lambda: Message.objects.update(next_try_at=None))
        async with running(make_outbox(database, carrier)):
            await until(database, partial(all_are, State.SETTLED))
        assert len(carrier.shipped) == 2
        states = await database.read(lambda: sorted(Attempt.objects.values_list("state", flat=True)))
        assert states == [Attempt.State.FAILED, Attempt.State.SETTLED]
        await database.close()

    run(test())


def test_messages_that_shared_a_dead_payment_may_share_the_next(monkeypatch):
    monkeypatch.setattr(outbox, "FIRST_RETRY_SECONDS", 0.05)

    async def test() -> None:
        database, carrier = Database(), Losing()
        messages = [new_message(service="message", pubkey=PUBKEY, body=b"hello") for _ in range(3)]
        async with running(box := make_outbox(database, carrier)):
            await box.accept_all(messages)
            await until(database, partial(all_are, State.IN_FLIGHT))
            carrier.found_dead.set()
            await until(database, partial(all_are, State.SETTLED))
        assert not await database.read(lambda: Message.objects.filter(alone=True).exists())
        await database.close()

    run(test())


def test_part_of_a_long_message_tells_why_it_hangs():
    async def test() -> None:
        database, courier = Database(), Courier()
        message = new_message(service="message", pubkey=PUBKEY, body=b"hello")
        message.parts, message.state = 2, State.IN_FLIGHT

        def store() -> None:
            message.save()
            for index in range(2):
                secret = courier.new_secret()
                attempt = Attempt.objects.create(
                    secret=secret,
                    name=courier.name_of(secret),
                    destination=PUBKEY,
                    service="message",
                    packet=b"",
                    amount_msat=1_000,
                )
                Part.objects.create(
                    message=message, index=index, attempt=attempt, state=State.IN_FLIGHT, amount_msat=1_000
                )

        await database.write(store)
        first, second = await database.read(lambda: [bytes(part.attempt.name) for part in _parts()])
        await database.write(partial(ledger.tell_suspected, {first: "dead", second: "dead"}, set()))
        assert await database.read(lambda: [part.error for part in _parts()]) == ["dead", "dead"]
        await database.write(partial(ledger.tell_suspected, {second: "dead"}, {first}))
        assert await database.read(lambda: [part.error for part in _parts()]) == ["", "dead"]
        assert (await database.read(Message.objects.get)).error == "dead"
        await database.write(partial(ledger.tell_suspected, {}, {second}))
        assert (await database.read(Message.objects.get)).error == ""
        await database.write(lambda: Part.objects.all().delete())
        await database.close()

    run(test())


def _parts() -> list[Part]:
    return list(Part.objects.select_related("attempt").order_by("index"))


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
            message = new_message(service="message", pubkey=PUBKEY, body=b"hello", origin=Origin.CALLER)
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

    async def outcome(self, sent: Sent) -> Outcome:
        self.asked += 1
        return await super().outcome(sent)


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

            async def unknown(self, claim, otherwise=None) -> None:
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
