"""Payments of invoices beside an lnd in memory: stored before lnd hears of them, paid once, and their end asked for."""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
import pytest
from django.db import OperationalError
from django.utils import timezone

from invoices import paying, services
from invoices.models import InvoicePayment
from invoices.paying import MAX_PARTS, OtherInvoiceError, OtherPayer, Payer
from invoices.services import spent_on_invoices
from lightning.dead_payments import DeadPayments
from lightning.rpcs import Rpc
from messaging import suspected
from messaging.budget import Budget, OverBudget
from messaging.database import Database
from messaging.epoch import OvertakenError
from messaging.idempotency import Claim, Claims, KeyReused
from protos.invoicesrpc import invoices_pb2
from protos.lnrpc import lightning_pb2
from tests.support.fake_lnd import FakeLnd, connected
from tests.support.lnd_cases import hold_request, send_request
from tests.support.waiting import GUARD_SECONDS, until_in_loop

pytestmark = pytest.mark.sql

State, Failure = InvoicePayment.State, InvoicePayment.Failure
UNKNOWN, UNAVAILABLE = grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE
QUIET_SECONDS = 0.01
OTHER_LND = "02" + "55" * 32


class Till:
    """A payer, as it is after a start, and the lnd of a payee."""

    def __init__(self, database: Database):
        self.lnd, self.payee = connected("payer", "payee")
        self.database = database
        self.budget = Budget(database=database, limit_sat=None, sources=[spent_on_invoices])
        self._begin()

    def _begin(self) -> None:
        self.dead_payments = DeadPayments(self.lnd, quiet_seconds=QUIET_SECONDS)
        self.payer = Payer(
            database=self.database,
            client=self.lnd,
            own_pubkey=self.lnd.pubkey,
            budget=self.budget,
            fee_limit_msat=lambda amount_msat: amount_msat // 10,
            dead_payments=self.dead_payments,
            claims=Claims(self.database),
        )
        self._running = asyncio.create_task(self.payer.run())

    async def restart(self) -> None:
        """As after kill -9: what was under way in this process is forgotten."""
        await self.close()
        self._begin()

    async def close(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def invoice(self, **fields: Any) -> str:
        asked = lightning_pb2.Invoice(**({"value": 21, "memo": "tea"} | fields))
        return (await self.payee.add_invoice(asked)).payment_request

    async def pay(self, text: str, *, claim: Claim | None = None, amount_msat: int = 0) -> InvoicePayment:
        request = await self.lnd.decode_payment_request(text)
        amount_msat = amount_msat or request.num_msat
        return await self.payer.pay(request, text=text, amount_msat=amount_msat, claim=claim)

    async def end_of(self, payment: InvoicePayment) -> InvoicePayment:
        return await self.payer.end_of(payment, seconds=GUARD_SECONDS)

    async def paid(self, text: str, **fields: Any) -> InvoicePayment:
        """The payment when it has ended."""
        return await self.end_of(await self.pay(text, **fields))

    async def rows(self) -> list[InvoicePayment]:
        return await self.database.read(lambda: list(InvoicePayment.objects.order_by("created_at")))

    @property
    def sent(self) -> list[Any]:
        """What lnd was asked to pay."""
        return self.lnd.requests(Rpc.SEND_PAYMENT)


@pytest.fixture
async def till(database: Database, monkeypatch) -> AsyncIterator[Till]:
    monkeypatch.setattr(paying, "AGAIN_SECONDS", 0.0)
    till = Till(database)
    # A test that waits for what does not come ends all the same.
    async with asyncio.timeout(GUARD_SECONDS):
        yield till
    await till.close()


def claim(key: str = "key", request_hash: bytes = bytes(32)) -> Claim:
    return Claim(caller="tester", key=key, request_hash=request_hash)


# how a payment goes


async def test_payment_is_stored_sent_and_settled(till):
    text = await till.invoice()
    payment = await till.pay(text)
    assert (payment.payer, payment.payee) == (till.lnd.pubkey, till.payee.pubkey)
    assert (payment.amount_msat, payment.fee_limit_msat, payment.memo) == (21_000, 2_100, "tea")
    ended = await till.end_of(payment)
    invoice = till.payee.invoice(bytes(ended.payment_hash))
    assert (ended.pk, ended.state, ended.cost_msat, ended.fee_msat) == (payment.pk, State.SETTLED, 21_000, 0)
    assert bytes(ended.preimage) == invoice.r_preimage
    assert invoice.amt_paid_msat == 21_000
    (request,) = till.sent
    assert (request.payment_request, request.fee_limit_msat, request.max_parts) == (text, 2_100, MAX_PARTS)
    assert (request.amt_msat, request.cltv_limit) == (0, 0)


async def test_payment_is_stored_before_lnd_hears_of_it(till, monkeypatch):
    stored: list[str] = []
    send = till.lnd.send_payment

    async def send_seen(request) -> lightning_pb2.Payment:
        stored.extend(row.state for row in await till.rows())
        return await send(request)

    monkeypatch.setattr(till.lnd, "send_payment", send_seen)
    await till.paid(await till.invoice())
    assert stored == [State.IN_FLIGHT]


async def test_amount_of_an_open_invoice_is_the_callers(till):
    ended = await till.paid(await till.invoice(value=0), amount_msat=7_500)
    assert (ended.state, ended.amount_given, ended.amount_msat) == (State.SETTLED, True, 7_500)
    assert till.sent[0].amt_msat == 7_500


async def test_bound_of_how_long_it_may_be_held_is_kept_over_a_restart(till):
    text = await till.invoice()
    request = await till.lnd.decode_payment_request(text)
    till.lnd.refuse(Rpc.SEND_PAYMENT, UNAVAILABLE, "away")
    till.lnd.refuse(Rpc.TRACK_PAYMENT, UNAVAILABLE, "away", times=1_000_000)
    payment = await till.payer.pay(
        request, text=text, amount_msat=21_000, claim=None, cltv_limit_blocks=1_008
    )
    await till.restart()
    till.lnd.recover()
    assert (await till.end_of(payment)).state == State.SETTLED
    assert till.sent[-1].cltv_limit == 1_008


async def test_memo_of_strangers_can_be_stored(till):
    request = await till.lnd.decode_payment_request(text := await till.invoice())
    request.description = "a\0b"
    payment = await till.payer.pay(request, text=text, amount_msat=21_000, claim=None)
    assert payment.memo == "a\ufffdb"


# why a payment fails


@pytest.mark.parametrize(
    ("reason", "failure", "cause"),
    [
        ("TIMEOUT", Failure.TIMEOUT, "found no way in time"),
        ("NO_ROUTE", Failure.ROUTE, "no route now"),
        ("ERROR", Failure.ROUTE, "failed on its way"),
        ("INCORRECT_PAYMENT_DETAILS", Failure.REFUSED, "the payee refused"),
        ("INSUFFICIENT_BALANCE", Failure.BALANCE, "balance is too low"),
        ("CANCELED", Failure.REFUSED, "canceled in lnd"),
        pytest.param("NONE", Failure.ROUTE, "lnd: NONE", id="one that has no words here"),
    ],
)
async def test_why_a_payment_failed(till, reason, failure, cause):
    till.payee.fail_payments_to(reason)
    ended = await till.paid(await till.invoice())
    assert (ended.state, ended.failure, ended.cost_msat) == (State.FAILED, failure, 0)
    assert cause in ended.cause


async def test_payment_that_failed_may_be_tried_again(till):
    till.payee.fail_payments_to("NO_ROUTE")
    text = await till.invoice()
    first = await till.paid(text)
    assert first.state == State.FAILED
    second = await till.paid(text)
    assert (second.pk, second.state, second.attempts) == (first.pk, State.SETTLED, 2)
    assert (second.cause, second.failure) == ("", "")


async def test_payment_that_lnd_refuses_and_never_begun_fails_with_its_words(till):
    till.lnd.refuse(Rpc.SEND_PAYMENT, UNKNOWN, "self-payments not allowed")
    ended = await till.paid(await till.invoice())
    assert (ended.state, ended.failure) == (State.FAILED, Failure.REFUSED)
    assert ended.cause == "lnd refuses it: self-payments not allowed"
    assert len(till.sent) == 1


async def test_payment_that_has_failed_is_not_sent_again_by_who_still_waits_for_it(till):
    """The end was stored after its caller had read the payment."""
    till.lnd.refuse(Rpc.SEND_PAYMENT, UNKNOWN, "self-payments not allowed")
    payment = await till.pay(await till.invoice())
    payment.state = State.IN_FLIGHT
    while (await till.rows())[0].state == State.IN_FLIGHT:
        await asyncio.sleep(0)
    assert (await till.end_of(payment)).state == State.FAILED
    assert len(till.sent) == 1


async def test_payment_that_lnd_refuses_because_it_has_it_ends_as_lnd_has_it(till):
    """It was paid by hand before."""
    text = await till.invoice()
    await till.lnd.send_payment(send_request(text))
    ended = await till.paid(text)
    assert (ended.state, ended.cost_msat) == (State.SETTLED, 21_000)
    assert till.payee.invoice(bytes(ended.payment_hash)).amt_paid_msat == 21_000


async def test_refusal_is_not_believed_while_lnd_does_not_say_that_it_never_began(till):
    till.lnd.refuse(Rpc.SEND_PAYMENT, UNKNOWN, "something went wrong")
    till.lnd.refuse(Rpc.TRACK_PAYMENT, UNAVAILABLE, "away")
    ended = await till.paid(await till.invoice())
    # Then lnd had never heard of it, and it was sent again.
    assert ended.state == State.SETTLED
    assert len(till.sent) == 2


# lnd goes away


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (UNKNOWN, "wallet locked, unlock it to enable full RPC access"),
        (UNKNOWN, "the RPC server is in the process of starting up"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        (UNAVAILABLE, "connection refused"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM"),
    ],
)
async def test_payment_is_tried_again_after_what_passes(till, code, details):
    till.lnd.refuse(Rpc.SEND_PAYMENT, code, details)
    ended = await till.paid(await till.invoice())
    assert (ended.state, ended.attempts) == (State.SETTLED, 1)
    assert len(till.sent) == 2


async def test_payment_is_not_sent_again_before_lnd_has_said_that_it_never_heard_of_it(till):
    """A process was killed after lnd had paid, and lnd is away when the next one asks."""
    text = await till.invoice()
    row = await stored(till, text)
    await till.lnd.send_payment(send_request(text))
    till.lnd.refuse(Rpc.TRACK_PAYMENT, UNAVAILABLE, "away", times=3)
    await till.restart()
    assert (await till.end_of(row)).state == State.SETTLED
    assert len(till.lnd.requests(Rpc.TRACK_PAYMENT)) > 3
    assert len(till.sent) == 1


async def stored(till: Till, text: str, *, age: timedelta = timedelta(0)) -> InvoicePayment:
    """By an earlier process, which lnd may have heard of or not."""
    request = await till.lnd.decode_payment_request(text)
    row = InvoicePayment(
        payer=till.lnd.pubkey,
        payee=till.payee.pubkey,
        payment_hash=bytes.fromhex(request.payment_hash),
        payment_request=text,
        amount_msat=21_000,
        fee_limit_msat=2_100,
        cost_msat=23_100,
        created_at=timezone.now() - age,
    )
    await till.database.write(partial(services.payment_begin, row, None))
    return row


async def test_payment_whose_answer_was_lost_is_not_sent_again(till):
    till.lnd.lose_answer(Rpc.SEND_PAYMENT)
    ended = await till.paid(await till.invoice())
    assert ended.state == State.SETTLED
    assert len(till.sent) == 1


async def test_payment_goes_on_when_its_stream_breaks(till):
    preimage = os.urandom(32)
    hold = hold_request(hashlib.sha256(preimage).digest())
    text = (await till.payee.add_hold_invoice(hold)).payment_request
    payment = await till.pay(text)
    await until_in_loop(lambda: till.payee.invoice(hold.hash).state == lightning_pb2.Invoice.ACCEPTED)
    till.lnd.break_streams()
    await until_in_loop(lambda: till.lnd.requests(Rpc.TRACK_PAYMENT))
    await till.payee.settle_invoice(preimage)
    assert (await till.end_of(payment)).state == State.SETTLED
    assert len(till.sent) == 1


async def test_payment_waits_for_an_lnd_that_is_away(till):
    text = await till.invoice()
    request = await till.lnd.decode_payment_request(text)
    till.lnd.stop()
    payment = await till.payer.pay(request, text=text, amount_msat=21_000, claim=None)
    assert payment.state == State.IN_FLIGHT
    till.lnd.start()
    assert (await till.end_of(payment)).state == State.SETTLED


@pytest.mark.parametrize(
    ("age", "state"), [(timedelta(minutes=9), State.SETTLED), (timedelta(minutes=11), State.FAILED)]
)
async def test_payment_that_lnd_never_heard_of_is_sent_while_it_may_be_wanted(till, age, state):
    row = await stored(till, await till.invoice(), age=age)
    await till.restart()
    ended = await till.end_of(row)
    assert ended.state == state
    assert len(till.sent) == (state == State.SETTLED)
    if state == State.FAILED:
        assert ended.cause == "lnd was away when it was asked for, and has never heard of it"


async def test_payment_under_way_is_taken_up_after_a_restart(till):
    till.payee.hold_payments_to()
    payment = await till.pay(await till.invoice())
    await until_in_loop(lambda: till.sent)
    await till.restart()
    till.payee.release_payments_to()
    while (await till.rows())[0].state == State.IN_FLIGHT:
        await asyncio.sleep(0)
    assert [row.state for row in await till.rows()] == [State.SETTLED]
    assert (await till.end_of(payment)).state == State.SETTLED
    assert len(till.sent) == 1


async def test_start_waits_for_a_database_that_is_away(till, monkeypatch, caplog):
    till.payee.hold_payments_to()
    await till.pay(await till.invoice())
    await till.close()
    read, failures = till.database.read, iter([OperationalError("away"), OperationalError("away")])

    async def read_later(job):
        if (error := next(failures, None)) is not None:
            raise error
        return await read(job)

    monkeypatch.setattr(till.database, "read", read_later)
    with caplog.at_level(logging.ERROR):
        await till.restart()
        await until_in_loop(lambda: caplog.text.count("payments under way could not be read") == 2)
    till.payee.release_payments_to()
    while (await till.rows())[0].state == State.IN_FLIGHT:
        await asyncio.sleep(0)


async def test_end_that_cannot_be_stored_now_is_stored_later(till, monkeypatch):
    payment_held = await till.invoice()
    till.payee.hold_payments_to()
    payment = await till.pay(payment_held)
    write, failures = till.database.write, iter([OperationalError("the disk is full")])

    async def write_later(job):
        if (error := next(failures, None)) is not None:
            raise error
        return await write(job)

    monkeypatch.setattr(till.database, "write", write_later)
    till.payee.release_payments_to()
    assert (await till.end_of(payment)).state == State.SETTLED
    assert next(failures, None) is None
    assert len(till.sent) == 1


# once


async def test_same_invoice_is_paid_once_however_often_it_is_asked_for(till):
    text = await till.invoice()
    payments = await asyncio.gather(*(till.pay(text) for _ in range(5)))
    assert len({payment.pk for payment in payments}) == 1
    await till.end_of(payments[0])
    again = await till.paid(text)
    assert (again.pk, again.state) == (payments[0].pk, State.SETTLED)
    assert len(till.sent) == 1


async def test_same_key_is_answered_with_the_same_payment(till):
    text, other = await till.invoice(), await till.invoice()
    first = await till.pay(text, claim=claim())
    assert (await till.pay(text, claim=claim())).pk == first.pk
    with pytest.raises(KeyReused):
        await till.pay(other, claim=claim(request_hash=b"\1" * 32))
    await till.end_of(first)
    assert len(await till.rows()) == 1


async def test_known_payment_is_told_by_hash_or_by_key(till):
    text = await till.invoice()
    payment_hash = bytes.fromhex((await till.lnd.decode_payment_request(text)).payment_hash)
    assert await till.payer.known(payment_hash, claim()) is None
    payment = await till.paid(text)
    assert (await till.payer.known(payment_hash, None)).pk == payment.pk
    # From now on the key stands for it too.
    assert (await till.payer.known(payment_hash, claim())).pk == payment.pk
    with pytest.raises(KeyReused):
        await till.payer.known(payment_hash, claim(request_hash=b"\1" * 32))


async def test_failed_payment_is_known_to_its_key_alone(till):
    till.payee.fail_payments_to("NO_ROUTE")
    text = await till.invoice()
    payment = await till.paid(text, claim=claim())
    payment_hash = bytes(payment.payment_hash)
    assert (await till.payer.known(payment_hash, claim())).state == State.FAILED
    assert await till.payer.known(payment_hash, None) is None
    assert await till.payer.known(payment_hash, claim("another key")) is None


async def test_payment_goes_on_without_its_caller(till, monkeypatch):
    text = await till.invoice()
    request = await till.lnd.decode_payment_request(text)
    asking = asyncio.create_task(till.payer.pay(request, text=text, amount_msat=21_000, claim=None))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.cancelled()
    while not [row for row in await till.rows() if row.state == State.SETTLED]:
        await asyncio.sleep(0)


# another invoice of the same payment hash


async def forged(till: Till, text: str, *, lnd: FakeLnd | None = None, value: int = 21) -> str:
    """As whoever knows the payment hash of an invoice may make one: payable to themselves, or over another amount."""
    payment_hash = bytes.fromhex((await till.lnd.decode_payment_request(text)).payment_hash)
    request = invoices_pb2.AddHoldInvoiceRequest(hash=payment_hash, value=value, expiry=3_600)
    return (await (lnd or till.lnd).add_hold_invoice(request)).payment_request


async def test_payment_of_another_invoice_of_the_hash_is_not_told_as_this_ones(till):
    text = await till.invoice()
    paid = await till.paid(text)
    other = await forged(till, text)
    with pytest.raises(OtherInvoiceError):
        await till.pay(other)
    request = await till.lnd.decode_payment_request(other)
    with pytest.raises(OtherInvoiceError):
        await till.payer.known(
            bytes(paid.payment_hash),
            claim(),
            partial(till.payer.require_same, request=request, text=other, amount_msat=0),
        )
    assert (await till.payer.known(bytes(paid.payment_hash), None)).pk == paid.pk
    # A call that was refused has not used up its key.
    assert (await till.pay(text, claim=claim(request_hash=b"\1" * 32))).pk == paid.pk


async def test_payment_over_another_amount_is_not_told_as_this_ones(till):
    text = await till.invoice(value=0)
    await till.paid(text, amount_msat=7_500)
    with pytest.raises(OtherInvoiceError):
        await till.pay(text, amount_msat=7_501)
    assert (await till.pay(text, amount_msat=7_500)).amount_msat == 7_500


async def test_what_lnd_has_paid_for_another_invoice_is_no_payment_of_this(till):
    """It was paid by hand before."""
    text = await till.invoice()
    await till.lnd.send_payment(send_request(text))
    ended = await till.paid(await forged(till, text))
    assert (ended.state, ended.failure, ended.cost_msat) == (State.FAILED, Failure.REFUSED, 0)
    assert "another invoice of the same payment hash" in ended.cause


# begun again


async def test_payment_that_is_begun_again_is_not_judged_by_the_earlier_failure(till):
    """The process was killed before lnd heard of the second attempt."""
    till.payee.fail_payments_to("NO_ROUTE")
    text = await till.invoice()
    first = await till.paid(text)
    assert (first.state, first.failed_index) == (State.FAILED, 1)
    again = await stored(till, text)
    await till.restart()
    assert (await till.end_of(again)).state == State.SETTLED
    assert [request.payment_request for request in till.sent] == [text, text]


async def test_failure_that_another_program_has_met_before_is_not_this_payments(till, monkeypatch):
    till.payee.fail_payments_to("NO_ROUTE")
    text = await till.invoice()
    assert (await till.lnd.send_payment(send_request(text))).status == lightning_pb2.Payment.FAILED
    track = till.lnd.track_payment

    async def track_old(payment_hash: bytes) -> lightning_pb2.Payment:
        result = await track(payment_hash)
        if result.status == lightning_pb2.Payment.FAILED:
            result.creation_time_ns -= 3_600 * 10**9
        return result

    monkeypatch.setattr(till.lnd, "track_payment", track_old)
    row = await stored(till, text)
    await till.restart()
    assert (await till.end_of(row)).state == State.SETTLED


async def test_payment_is_begun_again_once(till):
    till.payee.fail_payments_to("NO_ROUTE")
    text = await till.invoice()
    failed = await till.paid(text)
    await stored(till, text)
    with pytest.raises(services.ChangedMeanwhileError):
        await till.database.write(partial(services._begin_again, failed, failed))


# nobody follows


async def test_payment_that_nobody_follows_is_taken_up_without_a_restart(till, monkeypatch):
    monkeypatch.setattr(paying, "LOOK_SECONDS", 0.0)
    await till.restart()
    await stored(till, await till.invoice())
    while (await till.rows())[0].state == State.IN_FLIGHT:
        await asyncio.sleep(0)
    assert (await till.rows())[0].state == State.SETTLED
    assert len(till.sent) == 1


async def test_who_was_replaced_pays_nothing_more(till, monkeypatch):
    async def overtaken() -> None:
        raise OvertakenError

    monkeypatch.setattr(till.database, "confirm", overtaken)
    await till.pay(await till.invoice())
    await until_in_loop(lambda: till.lnd.requests(Rpc.TRACK_PAYMENT))
    assert till.sent == []


async def test_what_lnd_has_paid_is_paid_though_it_was_given_up(till):
    # Nobody follows it but this test.
    await till.close()
    row = await stored(till, await till.invoice())
    await till.database.write(partial(services.payment_fail, row.pk, failure=Failure.ROUTE, cause="given up"))
    for fee_msat in (1_000, 2_000):
        settle = partial(
            services.payment_settle, row.pk, amount_msat=21_000, fee_msat=fee_msat, preimage=b"p"
        )
        await till.database.write(settle)
    ended = (await till.rows())[0]
    # Told twice, it has cost what was told first.
    assert (ended.state, ended.cost_msat) == (State.SETTLED, 22_000)


# what is not begun


async def test_payment_over_the_budget_is_not_stored(till):
    till.budget.limit_sat = 23
    text = await till.invoice()
    with pytest.raises(OverBudget):
        await till.pay(text)
    assert await till.rows() == []
    assert till.sent == []
    till.budget.limit_sat = 24
    assert (await till.paid(text)).state == State.SETTLED


async def test_what_a_payment_did_not_cost_may_be_spent_again(till):
    till.budget.limit_sat = 24
    till.payee.fail_payments_to("NO_ROUTE")
    first, second = await till.invoice(), await till.invoice()
    assert (await till.paid(first)).state == State.FAILED
    assert (await till.paid(second)).state == State.SETTLED
    with pytest.raises(OverBudget):
        await till.pay(first)


# waiting


async def test_payment_that_takes_longer_is_answered_as_it_is(till):
    till.payee.hold_payments_to()
    payment = await till.pay(await till.invoice())
    assert (await till.payer.end_of(payment, seconds=0)).state == State.IN_FLIGHT
    waiting = asyncio.create_task(till.end_of(payment))
    till.payee.release_payments_to()
    assert (await waiting).state == State.SETTLED


async def test_payment_of_another_lnd_cannot_be_followed(till):
    payment = InvoicePayment(payer=OTHER_LND, state=State.IN_FLIGHT)
    with pytest.raises(OtherPayer, match=OTHER_LND):
        await till.end_of(payment)


async def test_payments_of_another_lnd_are_not_taken_up(till):
    await till.close()
    row = InvoicePayment(
        payer=OTHER_LND,
        payment_hash=os.urandom(32),
        payment_request=await till.invoice(),
        amount_msat=21_000,
        fee_limit_msat=0,
        cost_msat=21_000,
    )
    await till.database.write(partial(services.payment_begin, row, None))
    own = await till.pay(await till.invoice())
    await till.restart()
    assert (await till.end_of(own)).state == State.SETTLED
    states = {row.payer: row.state for row in await till.rows()}
    assert states == {OTHER_LND: State.IN_FLIGHT, till.lnd.pubkey: State.SETTLED}
    assert len(till.sent) == 1


# what is dead in lnd


async def strand(till: Till, text: str) -> InvoicePayment:
    """Its lnd was killed on the way, and has been started again."""
    till.payee.strand_payments_to()
    payment = await till.pay(text)
    await until_in_loop(lambda: till.sent)
    till.lnd.stop()
    till.lnd.start()
    return payment


async def test_dead_payment_is_in_flight_until_its_route_has_expired(till, monkeypatch):
    monkeypatch.setattr(suspected, "TELL_SECONDS", 0.0)
    looking = asyncio.create_task(till.dead_payments.run())
    payment = await strand(till, text := await till.invoice())
    # lnd has not run for so long.
    age = InvoicePayment.objects.filter(pk=payment.pk)
    await till.database.write(lambda: age.update(created_at=timezone.now() - timedelta(hours=1)))
    till.lnd.node.started_at -= 60
    await till.restart()
    looking.cancel()
    looking = asyncio.create_task(till.dead_payments.run())

    async def cause() -> str:
        (row,) = await till.rows()
        return row.cause if row.state == State.IN_FLIGHT else "ended"

    async def tells() -> bool:
        return "given up after block" in await cause()

    await until_in_loop(tells)
    till.lnd.services.network.block_height += 1_000
    ended = await till.end_of(payment)
    assert (ended.state, ended.failure, ended.cost_msat) == (State.FAILED, Failure.DEAD, 0)
    assert "ask the payee for a new one" in ended.cause
    looking.cancel()
    # lnd would refuse it for ever, so it is not begun again.
    known = await till.payer.known(bytes(payment.payment_hash), claim())
    assert known is not None
    assert known.failure == Failure.DEAD
    request = await till.lnd.decode_payment_request(text)
    assert (await till.payer.known(bytes.fromhex(request.payment_hash), claim())).pk == payment.pk
    assert len(till.sent) == 1


async def test_hold_invoice_that_is_held_is_not_dead(till):
    secret = os.urandom(32)
    payment_hash = hashlib.sha256(secret).digest()
    held = await till.payee.add_hold_invoice(hold_request(payment_hash))
    payment = await till.pay(held.payment_request)
    await until_in_loop(lambda: till.payee.invoice(payment_hash).state == lightning_pb2.Invoice.ACCEPTED)
    till.lnd.stop()
    till.lnd.start()
    till.lnd.services.network.block_height += 10_000
    looking = asyncio.create_task(till.dead_payments.run())
    looks = len(till.lnd.requests(Rpc.PENDING_CHANNELS))
    await until_in_loop(lambda: len(till.lnd.requests(Rpc.PENDING_CHANNELS)) > looks + 5)
    assert not till.dead_payments.suspected
    await till.payee.settle_invoice(secret)
    assert (await till.end_of(payment)).state == State.SETTLED
    looking.cancel()
