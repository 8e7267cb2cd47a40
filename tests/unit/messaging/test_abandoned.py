"""Messages that are given up by hand, on a real database: nothing more is sent, and what lnd pays all the same is told."""

import asyncio
import json
from uuid import UUID, uuid4

import pytest

from lightning.carrier import Outcome, Sent, Shipment, Verdict
from messaging import operator_actions
from messaging.abandoned import NotPossibleError, UnknownMessageError
from messaging.answers import AnswerTerms, admit
from messaging.budget import Budget, OverBudget, spent_on_messages
from messaging.database import Database
from messaging.models import Attempt, Division, Event, Message, MessageAction, Origin, Part, State
from messaging.outgoing import new_message
from tests.support.outboxes import (
    OTHER_PUBKEY,
    PUBKEY,
    Courier,
    empty_database,
    make_outbox,
    run,
    running,
    until,
)

migrated = pytest.fixture(autouse=True)(empty_database)


class Holding(Courier):
    """Tells the end of a payment once the test lets it go."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[asyncio.Future[Outcome]] = []
        self.heard_of = True

    async def send(self, shipment: Shipment) -> Outcome:
        self.shipped.append(shipment)
        self.ends.append(asyncio.get_running_loop().create_future())
        return await self.ends[-1]

    async def outcome(self, sent: Sent) -> Outcome:
        if not self.heard_of:
            return Outcome(verdict=Verdict.NEVER_SENT)
        self.ends.append(asyncio.get_running_loop().create_future())
        return await self.ends[-1]


async def accept(box, body: bytes = b"hello", pubkey: str = PUBKEY, amount_sat: int = 10) -> UUID:
    return await box.accept(service="message", pubkey=pubkey, body=body, amount_sat=amount_sat, reply_to=None)


async def shipped(carrier: Holding, count: int = 1) -> None:
    while len(carrier.ends) < count:
        await asyncio.sleep(0.01)


def deliveries(message_id: UUID) -> list[str]:
    events = Event.objects.filter(message_id=message_id, service_type="delivery").order_by("seq")
    return [json.loads(bytes(event.data))["state"] for event in events]


def the_message() -> Message:
    return Message.objects.get()


def in_state(state: State, *, abandoned: bool = False) -> bool:
    return Message.objects.filter(state=state, abandoned_at__isnull=not abandoned).count() == 1


def test_what_waits_fails_and_is_not_sent():
    async def test() -> None:
        database, carrier = Database(), Holding()
        box = make_outbox(database, carrier, in_flight=1)
        async with running(box):
            await accept(box)
            await shipped(carrier)
            waiting = await accept(box, pubkey=OTHER_PUBKEY)
            given_up = await box.give_up(waiting)
            assert given_up.may_be_paid_msat == 0
            carrier.ends[0].set_result(Outcome(verdict=Verdict.SETTLED))
            await accept(box)
            await shipped(carrier, 2)
            carrier.ends[1].set_result(Outcome(verdict=Verdict.SETTLED))
            await until(database, lambda: Message.objects.filter(state=State.SETTLED).count() == 2)
        assert len(carrier.shipped) == 2
        message = await database.read(lambda: Message.objects.get(message_id=waiting))
        assert (message.state, message.cost_msat) == (State.FAILED, 0)
        assert message.error == "given up by the operator"
        assert await database.read(lambda: deliveries(waiting)) == ["failed"]
        await database.close()

    run(test())


def test_message_that_lnd_pays_all_the_same_is_settled():
    async def test() -> None:
        database, carrier = Database(), Holding()
        box = make_outbox(database, carrier)
        async with running(box):
            sent = await accept(box)
            await shipped(carrier)
            given_up = await box.give_up(sent)
            assert given_up.may_be_paid_msat == 10_000
            held = await database.read(the_message)
            assert (held.state, held.cost_msat) == (State.FAILED, 10_000)
            assert held.abandoned_at
            assert "which may still cost 10 sat" in held.error
            with pytest.raises(NotPossibleError, match="it is failed"):
                await box.give_up(sent)
            carrier.ends[0].set_result(Outcome(verdict=Verdict.SETTLED, fee_msat=7))
            await until(database, lambda: in_state(State.SETTLED))
        message = await database.read(the_message)
        assert (message.cost_msat, message.fee_msat, message.error) == (10_007, 7, "")
        assert await database.read(lambda: deliveries(sent)) == ["failed", "settled"]
        assert len(carrier.shipped) == 1
        await database.close()

    run(test())


@pytest.mark.parametrize("verdict", [Verdict.PASSING, Verdict.FINAL, Verdict.DEAD, Verdict.TOO_LARGE])
def test_message_that_lnd_does_not_pay_costs_nothing_and_is_not_tried_again(verdict):
    async def test() -> None:
        database, carrier = Database(), Holding()
        budget = Budget(database=database, limit_sat=15, sources=[spent_on_messages])
        box = make_outbox(database, carrier, budget=budget)
        async with running(box):
            sent = await accept(box)
            await shipped(carrier)
            await box.give_up(sent)
            # What lnd may still pay counts.
            with pytest.raises(OverBudget):
                await accept(box)
            carrier.ends[0].set_result(Outcome(verdict=verdict, cause="no way"))
            await until(database, lambda: in_state(State.FAILED))
            message = await database.read(the_message)
            assert message.cost_msat == 0
            assert message.error.endswith("it was not delivered: no way")
            assert await database.read(lambda: Attempt.objects.get().state) == Attempt.State.FAILED
            assert await database.read(lambda: deliveries(sent)) == ["failed"]
            assert len(carrier.shipped) == 1
            await accept(box)
            await shipped(carrier, 2)
        await database.close()

    run(test())


def test_those_that_share_its_payment_are_tried_again_without_it():
    async def test() -> None:
        database, carrier = Database(), Holding()
        box = make_outbox(database, carrier, in_flight=1)
        async with running(box):
            await accept(box, amount_sat=1)
            await shipped(carrier)
            pair = [await accept(box, amount_sat=1), await accept(box, amount_sat=1)]
            carrier.ends[0].set_result(Outcome(verdict=Verdict.SETTLED))
            await shipped(carrier, 2)
            assert carrier.shipped[1].amount_msat == 2_000
            await box.give_up(pair[0])
            carrier.ends[1].set_result(Outcome(verdict=Verdict.DEAD, cause="dead"))
            await shipped(carrier, 3)
            assert carrier.shipped[2].amount_msat == 1_000
            carrier.ends[2].set_result(Outcome(verdict=Verdict.SETTLED))
            await until(database, lambda: Message.objects.filter(state=State.SETTLED).count() == 2)
        assert await database.read(lambda: deliveries(pair[0])) == ["failed"]
        assert await database.read(lambda: deliveries(pair[1])) == ["retrying", "settled"]
        await database.close()

    run(test())


def test_nothing_is_sent_of_what_is_given_up_while_it_is_signed():
    class Signing(Holding):
        def __init__(self) -> None:
            super().__init__()
            self.may_sign = asyncio.Event()

        async def sign(self, message: bytes) -> str:
            await self.may_sign.wait()
            return await super().sign(message)

    async def test() -> None:
        database, carrier = Database(), Signing()
        box = make_outbox(database, carrier)
        async with running(box):
            sent = await accept(box)
            await box.give_up(sent)
            carrier.may_sign.set()
            await until(database, lambda: in_state(State.FAILED))
        assert carrier.shipped == []
        assert (await database.read(the_message)).cost_msat == 0
        await database.close()

    run(test())


@pytest.mark.parametrize("heard_of", [True, False])
def test_after_a_restart_it_is_followed_and_not_sent_again(heard_of, monkeypatch):
    monkeypatch.setattr("messaging.outbox.UNKNOWN_RETRY_SECONDS", 0.01)

    async def test() -> None:
        database, carrier = Database(), Holding()
        box = make_outbox(database, carrier)
        async with running(box):
            sent = await accept(box)
            await shipped(carrier)
            await box.give_up(sent)
        later = Holding()
        later.heard_of = heard_of
        async with running(make_outbox(database, later)):
            if heard_of:
                await shipped(later)
                later.ends[0].set_result(Outcome(verdict=Verdict.SETTLED))
            await until(database, lambda: in_state(State.SETTLED if heard_of else State.FAILED))
        assert later.shipped == []
        assert (await database.read(the_message)).cost_msat == (10_000 if heard_of else 0)
        await database.close()

    run(test())


@pytest.mark.parametrize(("verdict", "left_msat"), [(Verdict.SETTLED, 3_000), (Verdict.FINAL, 5_000)])
def test_answer_gives_back_what_it_did_not_cost_once_lnd_tells_the_end(verdict, left_msat):
    def store_answer() -> Message:
        question = Message.objects.create(
            message_id=uuid4(),
            direction="in",
            pubkey=PUBKEY,
            service="message",
            body=b"question",
            amount_msat=5_000,
            state=State.RECEIVED,
        )
        answer = new_message(service="message", pubkey=PUBKEY, body=b"answer")
        return admit(
            [answer], AnswerTerms(fee_limit_msat=lambda _: 4_000, allowance_msat=10**6), item=question
        ).messages[0]

    def left() -> int:
        question = Message.objects.get(direction="in")
        return question.amount_msat - question.answers_msat

    async def test() -> None:
        database, carrier = Database(), Holding()
        box = make_outbox(database, carrier)
        async with running(box):
            answer = await database.write(store_answer)
            box.send_stored([answer])
            await shipped(carrier)
            await box.give_up(answer.message_id)
            assert await database.read(left) == 0
            carrier.ends[0].set_result(Outcome(verdict=verdict, fee_msat=1_000, cause="no"))
            await until(database, lambda: not Attempt.objects.filter(state="in_flight").exists())
        assert await database.read(left) == left_msat
        await database.close()

    run(test())


def test_unknown_message():
    async def test() -> None:
        database = Database()
        with pytest.raises(UnknownMessageError):
            await make_outbox(database, Courier()).give_up(uuid4())
        await database.close()

    run(test())


def stored_parts(states: dict[int, State], state: State) -> tuple[Message, list[Attempt]]:
    """A divided message with parts in these states, by their index."""
    message = new_message(service="message", pubkey=PUBKEY, body=b"long", amount_sat=len(states))
    message.origin, message.parts, message.state = Origin.CALLER, len(states), state
    message.cost_msat = 1_500 * len(states)
    message.save()
    Division.objects.create(message=message, body=b"long", compression=0, sha256=b"", part_bytes=1)
    attempts = []
    for index, part_state in states.items():
        attempt = Attempt.objects.create(
            secret=bytes([index]) * 32,
            name=bytes([index]) * 32,
            destination=PUBKEY,
            service="message",
            packet=b"",
            amount_msat=1_000,
            state={State.SETTLED: "settled", State.IN_FLIGHT: "in_flight"}.get(part_state, "failed"),
        )
        attempts.append(attempt)
        Part.objects.create(
            message=message,
            index=index,
            state=part_state,
            attempt=attempt,
            amount_msat=1_000,
            fee_msat=100 if part_state == State.SETTLED else 0,
        )
    return message, attempts


@pytest.mark.parametrize(
    ("states", "verdict", "told", "cost_msat"),
    [
        # All of its payments were under way, and lnd pays the last one too: it has arrived.
        ((State.SETTLED, State.IN_FLIGHT), Verdict.SETTLED, ["failed", "settled"], 2_100),
        ((State.SETTLED, State.IN_FLIGHT), Verdict.PASSING, ["failed"], 1_100),
        # A part that waited is not sent, so that the message cannot arrive any more.
        ((State.RETRYING, State.IN_FLIGHT), Verdict.SETTLED, ["failed"], 1_000),
        ((State.RETRYING, State.IN_FLIGHT), Verdict.PASSING, ["failed"], 0),
    ],
)
def test_long_message(states, verdict, told, cost_msat):
    async def test() -> None:
        database, carrier = Database(), Holding()
        message, _ = await database.write(lambda: stored_parts(dict(enumerate(states)), State.IN_FLIGHT))
        # Before an outbox runs, which would start the part that waits.
        given_up = await make_outbox(database, carrier).give_up(message.message_id)
        assert given_up.may_be_paid_msat == 3_000
        async with running(make_outbox(database, carrier)):
            await shipped(carrier)
            carrier.ends[0].set_result(Outcome(verdict=verdict, cause="no way"))
            await until(database, lambda: Message.objects.filter(abandoned_at=None).exists())
        found = await database.read(the_message)
        assert found.cost_msat == cost_msat
        assert await database.read(lambda: deliveries(message.message_id)) == told
        assert not await database.read(Part.objects.exists)
        assert carrier.shipped == []
        await database.close()

    run(test())


def test_long_message_without_a_payment_under_way_ends_at_once():
    async def test() -> None:
        database = Database()
        states = {0: State.SETTLED, 1: State.RETRYING}
        message, _ = await database.write(lambda: stored_parts(states, State.RETRYING))
        given_up = await make_outbox(database, Courier()).give_up(message.message_id)
        assert given_up.may_be_paid_msat == 0
        found = await database.read(the_message)
        assert (found.state, found.cost_msat, found.abandoned_at) == (State.FAILED, 1_100, None)
        assert "given up by the operator; 1.1 sat are spent on 1 of 2 parts" in found.error
        await database.close()

    run(test())


def test_what_is_asked_for_in_the_admin_is_done_and_its_outcome_noted(monkeypatch):
    monkeypatch.setattr(operator_actions, "LOOK_SECONDS", 0.01)

    def ask(message_id: UUID) -> int:
        message = Message.objects.get(message_id=message_id)
        return MessageAction.objects.create(message=message, action="give_up", asked_by="alice").pk

    def outcomes() -> list[str]:
        done = MessageAction.objects.filter(done_at__isnull=False)
        return list(done.order_by("pk").values_list("outcome", flat=True))

    async def test() -> None:
        database, carrier = Database(), Holding()
        async with running(box := make_outbox(database, carrier)):
            sent = await accept(box)
            await shipped(carrier)
            await database.write(lambda: ask(sent))
            await until(database, lambda: len(outcomes()) == 1)
            await database.write(lambda: ask(sent))
            await until(database, lambda: len(outcomes()) == 2)
        assert await database.read(outcomes) == [
            "done; lnd may still pay 10 sat",
            "not done: the message has ended: it is failed",
        ]
        await database.close()

    run(test())


def test_what_was_asked_for_before_a_restore_is_not_done():
    message = new_message(service="message", pubkey=PUBKEY, body=b"hello")
    message.save()
    MessageAction.objects.create(message=message, action="give_up", asked_by="alice")
    assert operator_actions.drop("restored") == 1
    assert operator_actions.drop("restored") == 0
    assert MessageAction.objects.get().outcome == "not done: restored"
