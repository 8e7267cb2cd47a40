"""The buyer's worker with lnd in memory: which invoices it pays, and what it makes of each end of a payment.

Each look is that of a worker that has just started, with a payer that has just started: what counts is what is stored.
"""

import asyncio
import dataclasses
import hashlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import pytest

from invoices import paying
from invoices.models import InvoicePayment
from invoices.paying import Payer
from lightning.client import LndError
from lightning.dead_payments import DeadPayments
from lightning.rpcs import Rpc
from messaging.budget import Budget
from messaging.database import Database
from messaging.idempotency import Claims
from messaging.outgoing import new_message
from protos.invoicesrpc import invoices_pb2
from protos.lnrpc import lightning_pb2
from tests.support.fake_lnd import FakeLnd, connected
from tests.support.fake_wireguard import FakeWireGuard
from tests.support.vpn_deals import (
    GUARD_SECONDS,
    PRICE_SAT,
    SERVER_KEY,
    SetClock,
    body_of,
    make_side,
    received,
    told,
    types_of,
    vpn_settings,
)
from vpn import bodies, buyer, buying
from vpn.buyer import CLTV_LIMIT_BLOCKS, MAX_FINAL_CLTV_BLOCKS, Buyer
from vpn.keys import new_key_pair
from vpn.models import ClientKey, Purchase, PurchasedLease, ReceivedQuote
from vpn.settings import SERVICE
from vpn.states import PurchaseState

pytestmark = pytest.mark.sql

Invoice = lightning_pb2.Invoice
SECONDS = 600
# Longer than an invoice holds, and than any test takes: rows have the wall clock's time, workers that of the test's.
LONG_SECONDS = 600


class Buying:
    """A buyer, and the lnds by which a test plays its seller and others."""

    def __init__(self, database: Database):
        self.lnd, self.seller_lnd, self.other_lnd = connected("buyer", "seller", "other", topology="star")
        self.database, self.clock = database, SetClock()
        self.budget = Budget(database=database, limit_sat=None, sources=[])
        self.side = make_side(database, self.lnd, vpn_settings(own_pubkey=self.lnd.pubkey), self.clock)
        self._begin()

    def _begin(self) -> None:
        payer = Payer(
            database=self.database,
            client=self.lnd,
            own_pubkey=self.lnd.pubkey,
            budget=self.budget,
            fee_limit_msat=lambda amount_msat: 10_000,
            dead_payments=DeadPayments(self.lnd),
            claims=Claims(self.database),
        )
        self._paying = asyncio.create_task(payer.run())
        self.worker = Buyer(dataclasses.replace(self.side.context, payer=payer), FakeWireGuard())

    async def restart(self) -> None:
        """As after kill -9: what was under way in this process is forgotten."""
        await self.close()
        self._begin()

    async def close(self) -> None:
        self._paying.cancel()
        await asyncio.gather(self._paying, return_exceptions=True)

    async def contracted(self, *, price_sat: int = SECONDS) -> Purchase:
        """A contract that was sent."""

        def step() -> Purchase:
            message = new_message(
                service=SERVICE, pubkey=self.seller_lnd.pubkey, body=bodies.encode(bodies.CONTRACT)
            )
            ReceivedQuote.objects.create(
                request_id=uuid4(),
                seller=message.pubkey,
                nonce=message.message_id.hex,
                price_sat=PRICE_SAT,
                min_price_sat=10,
                max_price_sat=86_400,
                expires_at=message.expires_at,
            )
            buying.send_contract(message, message.message_id.hex, str(price_sat), new_key_pair())
            return Purchase.objects.get(pk=message.message_id)

        return await self.database.write(step)

    async def invoice(self, *, lnd: FakeLnd | None = None, **fields: Any) -> str:
        """A hold invoice of the seller, as it should be unless told otherwise."""
        values = {"hash": os.urandom(32), "value": SECONDS, "expiry": 120, "cltv_expiry": 80} | fields
        request = invoices_pb2.AddHoldInvoiceRequest(**values)
        return (await (lnd or self.seller_lnd).add_hold_invoice(request)).payment_request

    async def told_invoice(self, purchase: Purchase, payment_request: str) -> None:
        message = received(
            bodies.INVOICE,
            sender=self.seller_lnd.pubkey,
            reply_to=purchase.pk,
            payment_request=payment_request,
            seconds=purchase.seconds,
        )
        await self.database.write(
            lambda: buying.invoice_received(message, body_of(message), self.side.settings)
        )

    async def invoiced(self, *, preimage: bytes | None = None, **fields: Any) -> Purchase:
        """The seller's invoice has come."""
        purchase = await self.contracted()
        if preimage is not None:
            fields["hash"] = hashlib.sha256(preimage).digest()
        await self.told_invoice(purchase, await self.invoice(**fields))
        return purchase

    async def paying(self, preimage: bytes) -> Purchase:
        """The seller's lnd holds the payment."""
        purchase = await self.invoiced(preimage=preimage)
        await self.worker.look()
        await self.until_held(preimage)
        return purchase

    async def until_held(self, preimage: bytes) -> None:
        payment_hash = hashlib.sha256(preimage).digest()
        while self.seller_lnd.invoice(payment_hash).state != Invoice.ACCEPTED:
            await asyncio.sleep(0)

    async def until_ended(self) -> None:
        """The payment has ended, and that is stored."""
        ended = InvoicePayment.objects.exclude(state=InvoicePayment.State.IN_FLIGHT)
        while not await self.database.read(ended.exists):
            await asyncio.sleep(0)

    async def row(self, purchase: Purchase) -> Purchase:
        return await self.database.read(partial(Purchase.objects.get, pk=purchase.pk))

    async def refusal(self, purchase: Purchase) -> str:
        """It was refused, and the stream has told so with this text."""
        assert (await self.row(purchase)).state == PurchaseState.REFUSED
        assert not await self.database.read(ClientKey.objects.filter(pk=purchase.pk).exists)
        event = self.side.events[-1]
        assert (event.message_id, told(event)["type"]) == (purchase.pk, "refusal")
        return f"{told(event)['reason']}: {told(event)['text']}"

    @property
    def payments_asked(self) -> int:
        return len(self.lnd.requests(Rpc.SEND_PAYMENT))


@pytest.fixture
async def deal(database: Database, monkeypatch) -> AsyncIterator[Buying]:
    monkeypatch.setattr(paying, "AGAIN_SECONDS", 0.0)
    deal = Buying(database)
    # A test that waits for what does not come ends all the same.
    async with asyncio.timeout(GUARD_SECONDS):
        yield deal
    await deal.close()


@pytest.fixture
def preimage() -> bytes:
    return os.urandom(32)


# a purchase


async def test_purchase_with_a_restart_before_each_step(deal, preimage):
    purchase = await deal.contracted()
    await deal.worker.look()
    assert (await deal.row(purchase)).state == PurchaseState.ASKED

    await deal.told_invoice(purchase, await deal.invoice(hash=hashlib.sha256(preimage).digest()))
    await deal.restart()
    await deal.worker.look()
    assert (await deal.row(purchase)).state == PurchaseState.PAYING
    assert bytes((await deal.row(purchase)).payment_hash) == hashlib.sha256(preimage).digest()
    await deal.until_held(preimage)
    (request,) = deal.lnd.requests(Rpc.SEND_PAYMENT)
    assert (request.cltv_limit, request.fee_limit_msat) == (CLTV_LIMIT_BLOCKS, 10_000)

    await deal.restart()
    await deal.worker.look()
    assert (await deal.row(purchase)).state == PurchaseState.PAYING

    await deal.seller_lnd.settle_invoice(preimage)
    await deal.until_ended()
    await deal.restart()
    await deal.worker.look()
    paid = await deal.row(purchase)
    assert paid.state == PurchaseState.PAID
    assert paid.ask_again_at == deal.clock.now() + timedelta(seconds=buying.ASK_AGAIN_SECONDS)
    assert deal.payments_asked == 1
    assert deal.side.events == []

    await deal.restart()
    await deal.worker.look()
    assert deal.side.sent == []
    deal.clock.advance(buying.ASK_AGAIN_SECONDS)
    await deal.worker.look()
    assert types_of(deal.side.take_sent()) == ["lease_request"]
    await deal.worker.look()
    assert deal.side.sent == []


async def test_running_worker_pays_by_its_bell(deal, preimage, monkeypatch):
    """No look comes by itself."""
    monkeypatch.setattr(buyer, "LOOK_SECONDS", 10.0 * GUARD_SECONDS)
    running = asyncio.create_task(deal.worker.run())
    try:
        purchase = await deal.invoiced(preimage=preimage)
        await deal.until_held(preimage)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert (await deal.row(purchase)).state == PurchaseState.PAYING


async def test_payment_that_was_begun_by_a_killed_process_is_not_begun_again(deal, preimage):
    """Killed after it was stored, and before lnd had answered."""
    deal.lnd.refuse(Rpc.SEND_PAYMENT, grpc.StatusCode.UNAVAILABLE, "away")
    deal.lnd.refuse(Rpc.TRACK_PAYMENT, grpc.StatusCode.UNAVAILABLE, "away", times=1_000)
    purchase = await deal.invoiced(preimage=preimage)
    await deal.worker.look()
    await deal.restart()
    deal.lnd.recover()
    await deal.worker.look()
    await deal.until_held(preimage)
    assert (await deal.row(purchase)).state == PurchaseState.PAYING
    assert await deal.database.read(InvoicePayment.objects.count) == 1


# what is not paid


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"value": SECONDS + 1}, f"over {SECONDS + 1}000 msat, agreed were {SECONDS} sat"),
        ({"value": SECONDS - 1}, f"over {SECONDS - 1}000 msat"),
        ({"value": 0}, "over 0 msat"),
        (
            {"cltv_expiry": MAX_FINAL_CLTV_BLOCKS + 1},
            f"hold the money for {MAX_FINAL_CLTV_BLOCKS + 1} blocks",
        ),
    ],
)
async def test_invoice_over_something_else_is_not_paid(deal, fields, text):
    purchase = await deal.invoiced(**fields)
    await deal.worker.look()
    assert text in await deal.refusal(purchase)
    assert deal.payments_asked == 0


async def test_longest_hold_is_paid(deal, preimage):
    purchase = await deal.invoiced(preimage=preimage, cltv_expiry=MAX_FINAL_CLTV_BLOCKS)
    await deal.worker.look()
    await deal.until_held(preimage)
    assert (await deal.row(purchase)).state == PurchaseState.PAYING


async def test_invoice_to_another_node_is_not_paid(deal):
    purchase = await deal.invoiced(lnd=deal.other_lnd)
    await deal.worker.look()
    assert f"to be paid to {deal.other_lnd.pubkey}, which is not the seller" in await deal.refusal(purchase)
    assert deal.payments_asked == 0


async def test_invoice_that_has_expired_is_not_paid(deal):
    purchase = await deal.invoiced()
    deal.clock.advance(LONG_SECONDS)
    await deal.worker.look()
    assert await deal.refusal(purchase) == "invoice: the invoice has expired"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("lnbc1pvjluez", "its checksum is wrong"),
        ("no invoice at all", "is no BOLT11 invoice"),
        ("lnsb" + "x" * 7_089, "the longest invoice has 7089"),
    ],
)
async def test_what_is_no_invoice_is_not_given_to_lnd(deal, text, cause):
    purchase = await deal.contracted()
    await deal.database.write(
        lambda: Purchase.objects.update(payment_request=text, state=PurchaseState.INVOICED)
    )
    await deal.worker.look()
    assert (await deal.refusal(purchase)).startswith("invoice: the seller's invoice ")
    assert cause in (await deal.row(purchase)).cause
    assert deal.lnd.requests(Rpc.DECODE_PAY_REQ) == []


async def test_invoice_that_lnd_cannot_read_is_not_paid(deal):
    purchase = await deal.invoiced()
    deal.lnd.refuse(Rpc.DECODE_PAY_REQ, grpc.StatusCode.UNKNOWN, "unknown feature bit")
    await deal.worker.look()
    assert "lnd cannot read the seller's invoice: unknown feature bit" in await deal.refusal(purchase)


async def test_invoice_of_another_purchase_is_not_paid_twice(deal, preimage):
    first = await deal.paying(preimage)
    second = await deal.contracted()
    await deal.told_invoice(second, (await deal.row(first)).payment_request)
    await deal.worker.look()
    assert "payment hash of another one" in await deal.refusal(second)
    assert (await deal.row(first)).state == PurchaseState.PAYING
    assert deal.payments_asked == 1


async def test_purchase_over_the_budget_is_refused(deal):
    deal.budget.limit_sat = SECONDS - 1
    purchase = await deal.invoiced()
    await deal.worker.look()
    assert (await deal.refusal(purchase)).startswith("budget: lightning.daily_budget_sat")
    assert deal.payments_asked == 0


async def test_refusal_that_comes_while_the_invoice_is_checked_stands(deal, monkeypatch):
    purchase = await deal.invoiced()
    message = received(
        bodies.REFUSAL, sender=deal.seller_lnd.pubkey, reply_to=purchase.pk, reason="full", text="no address"
    )
    decode = deal.lnd.decode_payment_request

    async def decode_late(text: str) -> lightning_pb2.PayReq:
        await deal.database.write(
            lambda: buying.refusal_received(message, body_of(message), deal.side.settings)
        )
        return await decode(text)

    monkeypatch.setattr(deal.lnd, "decode_payment_request", decode_late)
    await deal.worker.look()
    assert (await deal.row(purchase)).cause == "full: no address"
    assert (await deal.row(purchase)).state == PurchaseState.REFUSED
    assert deal.payments_asked == 0


async def test_invoice_waits_for_an_lnd_that_is_away(deal, preimage):
    purchase = await deal.invoiced(preimage=preimage)
    deal.lnd.stop()
    with pytest.raises(LndError):
        await deal.worker.look()
    assert (await deal.row(purchase)).state == PurchaseState.INVOICED
    deal.lnd.start()
    await deal.worker.look()
    await deal.until_held(preimage)


async def test_invoice_that_expires_while_lnd_is_away_is_not_paid(deal):
    """It was checked before, and lnd went away before the payment was stored."""
    purchase = await deal.invoiced()
    request = await deal.lnd.decode_payment_request((await deal.row(purchase)).payment_request)
    await deal.database.write(lambda: buying.pay(Purchase.objects.get(), bytes.fromhex(request.payment_hash)))
    deal.clock.advance(LONG_SECONDS)
    await deal.worker.look()
    assert await deal.refusal(purchase) == "invoice: the invoice has expired"
    assert deal.payments_asked == 0


async def test_trouble_with_one_purchase_holds_up_no_other(deal, preimage):
    broken = await deal.contracted()
    await deal.told_invoice(broken, await deal.invoice())
    whole = await deal.contracted()
    await deal.told_invoice(whole, await deal.invoice(hash=hashlib.sha256(preimage).digest()))
    deal.lnd.refuse(Rpc.DECODE_PAY_REQ, grpc.StatusCode.UNAVAILABLE, "away")
    with pytest.raises(LndError):
        await deal.worker.look()
    states = [(await deal.row(purchase)).state for purchase in (broken, whole)]
    assert sorted(states) == [PurchaseState.INVOICED, PurchaseState.PAYING]


# how a payment ends


async def test_payment_that_the_seller_gives_back(deal, preimage):
    purchase = await deal.paying(preimage)
    await deal.seller_lnd.cancel_invoice(hashlib.sha256(preimage).digest())
    await deal.until_ended()
    await deal.worker.look()
    assert (await deal.refusal(purchase)).startswith("not_paid: the payee refused the payment")


async def test_payment_without_a_route(deal):
    deal.seller_lnd.fail_payments_to("NO_ROUTE")
    purchase = await deal.invoiced()
    await deal.worker.look()
    await deal.until_ended()
    await deal.worker.look()
    assert (await deal.refusal(purchase)).startswith("not_paid: no route now")
    # It is not tried again by itself.
    await deal.worker.look()
    assert deal.payments_asked == 1


async def test_refusal_that_came_while_it_was_paid_is_told_once(deal, preimage):
    purchase = await deal.paying(preimage)
    message = received(
        bodies.REFUSAL,
        sender=deal.seller_lnd.pubkey,
        reply_to=purchase.pk,
        reason="canceled",
        text="no tunnel",
    )
    await deal.database.write(lambda: buying.refusal_received(message, body_of(message), deal.side.settings))
    await deal.seller_lnd.cancel_invoice(hashlib.sha256(preimage).digest())
    await deal.until_ended()
    await deal.worker.look()
    row = await deal.row(purchase)
    assert (row.state, row.cause) == (PurchaseState.REFUSED, "canceled: no tunnel")
    assert deal.side.events == []


async def test_lease_that_comes_before_the_payments_end_is_kept(deal, preimage):
    purchase = await deal.paying(preimage)
    message = received(
        bodies.LEASE,
        sender=deal.seller_lnd.pubkey,
        reply_to=purchase.pk,
        id=purchase.pk,
        address="10.77.0.2/32",
        endpoint="192.0.2.1:51820",
        server_pub_key=SERVER_KEY,
        allowed_ips="0.0.0.0/0",
        keepalive=25,
        expires_at=deal.clock.now() + timedelta(seconds=SECONDS),
        seconds=SECONDS,
        payment_hash=hashlib.sha256(preimage).hexdigest(),
    )
    await deal.database.write(lambda: buying.lease_received(message, body_of(message), deal.side.settings))
    await deal.seller_lnd.settle_invoice(preimage)
    await deal.until_ended()
    await deal.worker.look()
    assert (await deal.row(purchase)).state == PurchaseState.DONE
    assert await deal.database.read(PurchasedLease.objects.filter(pk=purchase.pk).exists)


# time


async def test_contract_that_nobody_answers_is_given_up_while_lnd_is_away(deal):
    purchase = await deal.contracted()
    deal.lnd.stop()
    deal.clock.advance(buying.NO_ANSWER.total_seconds() + LONG_SECONDS)
    await deal.worker.look()
    assert await deal.refusal(purchase) == "no_answer: the seller did not answer with an invoice"


async def test_quotes_are_forgotten_once_an_hour(deal):
    await deal.contracted()
    await deal.worker.look()

    def make_old() -> None:
        moment = deal.clock.now() - buying.KEPT_QUOTES - timedelta(days=1)
        ReceivedQuote.objects.update(created_at=moment, expires_at=moment)

    await deal.database.write(make_old)
    await deal.worker.look()
    assert await deal.database.read(ReceivedQuote.objects.exists)
    deal.clock.advance(3_600)
    await deal.worker.look()
    assert not await deal.database.read(ReceivedQuote.objects.exists)
