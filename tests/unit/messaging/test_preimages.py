"""Ids and preimages that follow from an Idempotency-Key, and what lnd makes of them after the database went back in time."""

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest

from lightning.carrier import KeysendCarrier
from lightning.dead_payments import Answer, DeadPaymentError, DeadPayments, Watched
from lightning.rpcs import Rpc
from lightning.simulator.store import STRANDED
from messaging import outbox as outboxes
from messaging.database import Database
from messaging.idempotency import LIFETIME, Claim
from messaging.models import Attempt, IdempotencyKey, Message, Part, State
from messaging.outgoing import new_message
from messaging.packing import divide
from messaging.preimages import Preimages
from tests.support.fake_lnd import FakeLnd, connected
from tests.support.outboxes import (
    OTHER_PUBKEY,
    PREIMAGES,
    PUBKEY,
    clear_database,
    empty_database,
    make_outbox,
    run,
    running,
    until,
)
from tests.support.waiting import until_in_loop

CLAIM = Claim(caller="shop", key="order 7", request_hash=bytes(32))

migrated = pytest.fixture(autouse=True)(empty_database)


# what they follow from


def guarded(message_id: UUID, *, size_bytes: int = 5, number: int = 0) -> Message:
    message = new_message(
        service="message",
        pubkey=PUBKEY,
        body=bytes(range(256)) * (size_bytes // 256 + 1),
        message_id=message_id,
    )
    message.secret_number = number
    return message


def part_of(message: Message, index: int, room_bytes: int = 600) -> Part:
    division, parts = divide(message, room_bytes=room_bytes)
    message.parts = len(parts)
    message.division = division
    return parts[index]


def test_id_is_the_same_for_the_same_request_alone():
    ids = [
        PREIMAGES.message_id(CLAIM, PUBKEY),
        PREIMAGES.message_id(CLAIM, OTHER_PUBKEY),
        PREIMAGES.message_id(CLAIM, PUBKEY, 1),
        PREIMAGES.message_id(replace(CLAIM, caller="other"), PUBKEY),
        PREIMAGES.message_id(replace(CLAIM, key="order 8"), PUBKEY),
        PREIMAGES.message_id(replace(CLAIM, request_hash=bytes(31) + b"\1"), PUBKEY),
        # The same bytes, cut at another place.
        PREIMAGES.message_id(replace(CLAIM, caller="sho", key="porder 7"), PUBKEY),
        Preimages("another node's").message_id(CLAIM, PUBKEY),
    ]
    assert len(set(ids)) == len(ids)
    assert PREIMAGES.message_id(CLAIM, PUBKEY) == ids[0]
    assert {one.version for one in ids} == {4}


def test_preimage_is_the_same_for_the_same_content_alone():
    one, other = PREIMAGES.message_id(CLAIM, PUBKEY), PREIMAGES.message_id(CLAIM, PUBKEY, 1)
    long = guarded(one, size_bytes=20_000)
    preimages = [
        PREIMAGES.of(guarded(one)),
        PREIMAGES.of(guarded(other)),
        PREIMAGES.of(guarded(one, number=1)),
        PREIMAGES.of(part_of(long, 0, 200)),
        PREIMAGES.of(part_of(long, 1, 200)),
        PREIMAGES.of(part_of(long, 0, 190)),
        Preimages("another node's").of(guarded(one)),
    ]
    assert len(set(preimages)) == len(preimages)
    assert {len(preimage) for preimage in preimages} == {32}
    assert PREIMAGES.of(guarded(one)) == preimages[0]
    assert PREIMAGES.of(part_of(long, 1, 200)) == preimages[4]


# beside an lnd in memory


class Strandings(DeadPayments):
    """Knows at once which payments the simulated lnd has stranded."""

    def __init__(self, lnd: FakeLnd):
        super().__init__(lnd)
        self._store = lnd.services.network.store

    async def end_of(self, watched: Watched, call: Awaitable[Answer]) -> Answer:
        ending = asyncio.ensure_future(call)
        while not ending.done():
            if watched.payment_hash in self._stranded():
                ending.cancel()
                raise DeadPaymentError("stranded")
            await asyncio.wait({ending}, timeout=0.01)
        return ending.result()

    def _stranded(self) -> set[bytes]:
        return {
            bytes.fromhex(payment.payment_hash)
            for _, payment, _, _, stage in self._store.open_payments()
            if stage == STRANDED
        }


class Pair:
    """alice pays bob. Her lnd remembers what it has paid, whatever becomes of the database."""

    def __init__(self) -> None:
        self.alice, self.bob = connected("alice", "bob")
        self.carrier = KeysendCarrier(
            self.alice, max_fee_sat=10, max_fee_percent=5, dead_payments=Strandings(self.alice)
        )
        self.database = Database()

    def outbox(self):
        return make_outbox(self.database, self.carrier)

    async def send(
        self, box, claim: Claim | None = CLAIM, *, amount_sat: int = 1_000, body: bytes = b"x"
    ) -> UUID:
        message_id = await box.accept(
            service="message",
            pubkey=self.bob.pubkey,
            body=body,
            amount_sat=amount_sat,
            reply_to=None,
            claim=claim,
        )
        await until(self.database, partial(has_ended, message_id))
        return message_id

    async def message(self) -> Message:
        return await self.database.read(lambda: Message.objects.order_by("-pk")[0])

    async def go_back(self) -> None:
        """As after a restore of an empty database."""
        await self.database.write(clear_database)

    def received_msat(self) -> list[int]:
        settled = self.bob.services.network.store.settled_after(self.bob.node.id, 0)
        return [invoice.amt_paid_msat for invoice in settled]


def has_ended(message_id: UUID) -> bool:
    return Message.objects.filter(message_id=message_id, state__in=(State.SETTLED, State.FAILED)).exists()


def beside_lnd(test) -> None:
    async def with_pair() -> None:
        pair = Pair()
        try:
            await test(pair)
        finally:
            await pair.database.close()

    run(with_pair())


def test_request_that_is_repeated_after_a_restore_is_paid_once():
    async def test(pair: Pair) -> None:
        async with running(box := pair.outbox()):
            first = await pair.send(box)
            cost_msat = (await pair.message()).cost_msat
        await pair.go_back()
        async with running(box := pair.outbox()):
            assert await pair.send(box) == first
        message = await pair.message()
        assert (message.state, message.cost_msat) == (State.SETTLED, cost_msat)
        assert pair.received_msat() == [1_000_000]

    beside_lnd(test)


def test_other_requests_are_paid_for_themselves():
    async def test(pair: Pair) -> None:
        claims = [None, None, CLAIM, replace(CLAIM, key="order 8"), replace(CLAIM, caller="another")]
        async with running(box := pair.outbox()):
            ids = [await pair.send(box, claim) for claim in claims]
        assert len(set(ids)) == len(claims)
        assert pair.received_msat() == [1_000_000] * len(claims)

    beside_lnd(test)


def test_broadcast_that_is_repeated_after_a_restore_is_paid_once():
    async def test(pair: Pair) -> None:
        sent = []
        for _ in range(2):
            message = new_message(service="message", pubkey=pair.bob.pubkey, body=b"x", amount_sat=50)
            async with running(box := pair.outbox()):
                sent.append(await box.accept_all([message], claim=CLAIM))
                await until(pair.database, partial(has_ended, sent[-1][0]))
            await pair.go_back()
        assert sent[0] == sent[1]
        assert pair.received_msat() == [50_000]

    beside_lnd(test)


def test_long_message_that_is_repeated_after_a_restore_is_paid_once(monkeypatch):
    """In parts, whose number does not depend on the route."""
    body = random.Random(7).randbytes(3_000)

    async def test(pair: Pair) -> None:
        survey = pair.carrier.survey

        async def other_route(parcel):
            return replace(await survey(parcel), careful_room_bytes=500, fits=False)

        async with running(box := pair.outbox()):
            first = await pair.send(box, body=body)
            assert (await pair.message()).parts > 1
        paid = pair.received_msat()
        await pair.go_back()
        monkeypatch.setattr(pair.carrier, "survey", other_route)
        async with running(box := pair.outbox()):
            assert await pair.send(box, body=body) == first
        assert (await pair.message()).state == State.SETTLED
        assert pair.received_msat() == paid
        assert sum(paid) == 1_000_000

    beside_lnd(test)


@pytest.mark.sql
def test_payment_that_failed_is_tried_again_with_its_hash(monkeypatch):
    """lnd pays it again, and would not if it had been paid: that holds after a restore, too."""
    monkeypatch.setattr(outboxes, "FIRST_RETRY_SECONDS", 0.01)

    async def test(pair: Pair) -> None:
        pair.bob.fail_payments_to("ERROR", times=2)
        async with running(box := pair.outbox()):
            await pair.send(box)
        assert (await pair.message()).attempts == 3
        attempt = await pair.database.read(Attempt.objects.get)
        assert (attempt.state, attempt.cause) == (Attempt.State.SETTLED, "")
        await pair.go_back()
        async with running(box := pair.outbox()):
            await pair.send(box)
        assert pair.received_msat() == [1_000_000]

    beside_lnd(test)


def test_payment_that_was_under_way_before_a_restore_is_waited_for():
    async def test(pair: Pair) -> None:
        sent = partial(pair.alice.requests, Rpc.SEND_PAYMENT)
        pair.bob.hold_payments_to()
        async with running(box := pair.outbox()):
            leaving = asyncio.create_task(pair.send(box))
            await until_in_loop(sent)
        leaving.cancel()
        await pair.go_back()
        async with running(box := pair.outbox()):
            sending = asyncio.create_task(pair.send(box))
            await until_in_loop(lambda: pair.alice.requests(Rpc.TRACK_PAYMENT))
            pair.bob.release_payments_to()
            await sending
        assert (await pair.message()).state == State.SETTLED
        assert len(sent()) == 2
        assert pair.received_msat() == [1_000_000]

    beside_lnd(test)


def expire_keys() -> None:
    IdempotencyKey.objects.update(created_at=Message.objects.get().created_at - LIFETIME - timedelta(hours=1))


def test_expired_key_that_is_given_again_stands_for_a_new_request():
    async def test(pair: Pair) -> None:
        async with running(box := pair.outbox()):
            first = await pair.send(box)
            await pair.database.write(expire_keys)
            assert await pair.send(box) != first
        assert pair.received_msat() == [1_000_000] * 2

    beside_lnd(test)


def test_payment_of_a_request_whose_key_has_expired_settles_no_other_one():
    """The message that it was for is not known any more: it was deleted, or the database is older."""

    async def test(pair: Pair) -> None:
        async with running(box := pair.outbox()):
            await pair.send(box)
            store = pair.alice.services.network.store
            (attempt,) = await pair.database.read(lambda: list(Attempt.objects.all()))
            payment = store.payment(pair.alice.node.id, bytes(attempt.name))
            payment.creation_time_ns -= int(timedelta(hours=25).total_seconds()) * 10**9
            store.put_payment(pair.alice.node.id, payment, None, None)
            await pair.go_back()
            await pair.send(box)
        message = await pair.message()
        assert message.state == State.FAILED
        assert "use a new key for a new request" in message.error
        assert message.cost_msat == 0
        assert pair.received_msat() == [1_000_000]

    beside_lnd(test)


def test_message_of_the_least_amount_has_a_new_preimage_each_time():
    """It may share a payment with others, whose number is another one each time."""

    async def test(pair: Pair) -> None:
        async with running(box := pair.outbox()):
            first = await pair.send(box, amount_sat=1)
        assert not (await pair.message()).alone
        await pair.go_back()
        async with running(box := pair.outbox()):
            assert await pair.send(box, amount_sat=1) != first
        assert pair.received_msat() == [1_000] * 2

    beside_lnd(test)


def test_dead_payment_is_made_anew_under_the_next_hash(monkeypatch):
    """After a restore both are asked for again, in the same order."""
    monkeypatch.setattr(outboxes, "FIRST_RETRY_SECONDS", 0.01)

    async def test(pair: Pair) -> None:
        pair.bob.strand_payments_to()
        async with running(box := pair.outbox()):
            await pair.send(box)
        assert await pair.database.read(Attempt.objects.count) == 2
        await pair.go_back()
        async with running(box := pair.outbox()):
            await pair.send(box)
        message = await pair.message()
        assert (message.state, message.secret_number) == (State.SETTLED, 1)
        assert pair.received_msat() == [1_000_000]

    beside_lnd(test)
