"""The steps of invoices and payments on their rows: each end is noted once, and a payment begins once."""

import os
from datetime import timedelta
from typing import Any

import orjson
import pytest
from django.utils import timezone

from invoices import services
from invoices.models import Invoice, InvoicePayment
from messaging.budget import MOST_EXPENSES
from messaging.idempotency import Claim
from messaging.models import Event, IdempotencyKey

pytestmark = [pytest.mark.usefixtures("tables"), pytest.mark.sql]

PAYEE, PAYER = "02" + "11" * 32, "02" + "22" * 32
State = InvoicePayment.State


def invoice(**fields: Any) -> Invoice:
    values = {
        "payee": PAYEE,
        "payment_hash": os.urandom(32),
        "payment_request": "lnsb1invoice",
        "memo": "tea",
        "amount_msat": 21_000,
        "expires_at": timezone.now() + timedelta(hours=1),
    }
    return Invoice.objects.create(**(values | fields))


def wanted(**fields: Any) -> InvoicePayment:
    """Not stored."""
    values = {
        "payer": PAYER,
        "payee": PAYEE,
        "payment_hash": os.urandom(32),
        "payment_request": "lnsb1invoice",
        "amount_msat": 21_000,
        "fee_limit_msat": 1_000,
        "cost_msat": 22_000,
    }
    return InvoicePayment(**(values | fields))


def begun(**fields: Any) -> InvoicePayment:
    payment, begins = services.payment_begin(wanted(**fields), None)
    assert begins
    return payment


def settle(invoice: Invoice, told: list[Event], *, paid_msat: int = 21_000) -> bool:
    return services.invoice_settle(
        payment_hash=bytes(invoice.payment_hash), paid_msat=paid_msat, published=told.extend
    )


# invoices


def test_payment_of_an_invoice_is_told_once():
    made, told = invoice(), []
    assert settle(made, told, paid_msat=21_999)
    assert not settle(made, told, paid_msat=21_999)
    made.refresh_from_db()
    assert (made.state, made.paid_msat) == (Invoice.State.SETTLED, 21_999)
    assert made.settled_at is not None
    (event,) = told
    assert (event.message_id, event.service_type, event.amount_sat) == (made.id, "lightning", 21)
    assert Event.objects.get().pk == event.pk
    assert orjson.loads(event.data) == {
        "paymentHash": bytes(made.payment_hash).hex(),
        "invoice": "lnsb1invoice",
        "memo": "tea",
        "amount": "21",
    }


def test_payment_of_what_was_not_made_here_is_not_told():
    told: list[Event] = []
    assert not services.invoice_settle(payment_hash=bytes(32), paid_msat=1, published=told.extend)
    assert told == []


def test_canceled_invoice_is_not_paid_and_a_paid_one_not_canceled():
    canceled, paid, told = invoice(), invoice(), []
    services.invoice_cancel(bytes(canceled.payment_hash))
    assert not settle(canceled, told)
    assert settle(paid, told)
    services.invoice_cancel(bytes(paid.payment_hash))
    canceled.refresh_from_db()
    paid.refresh_from_db()
    assert (canceled.state, paid.state) == (Invoice.State.CANCELED, Invoice.State.SETTLED)


def test_open_invoices_are_those_of_this_lnd_the_oldest_first():
    now = timezone.now()
    newer = invoice(created_at=now)
    older = invoice(created_at=now - timedelta(hours=1))
    invoice(payee=PAYER)
    invoice(state=Invoice.State.SETTLED)
    invoice(state=Invoice.State.CANCELED)
    assert services.invoice_open(PAYEE) == [older, newer]


# payments


def test_payment_of_a_hash_begins_once():
    first = wanted()
    assert services.payment_begin(first, None) == (first, True)
    again = wanted(payment_hash=first.payment_hash, amount_msat=1)
    payment, begins = services.payment_begin(again, None)
    assert (payment.pk, payment.amount_msat, begins) == (first.pk, 21_000, False)
    services.payment_settle(first.pk, amount_msat=21_000, fee_msat=5, preimage=bytes(32))
    payment, begins = services.payment_begin(again, None)
    assert (payment.pk, payment.state, begins) == (first.pk, State.SETTLED, False)


def test_payment_that_failed_begins_again_as_the_same_one():
    first = begun(created_at=timezone.now() - timedelta(hours=1))
    services.payment_fail(first.pk, failure=InvoicePayment.Failure.ROUTE, cause="no route")
    again = wanted(payment_hash=first.payment_hash, cost_msat=30_000)
    payment, begins = services.payment_begin(again, None)
    assert begins
    stored = InvoicePayment.objects.get()
    assert (payment.pk, stored.pk, stored.attempts) == (first.pk, first.pk, 2)
    assert (stored.state, stored.cost_msat, stored.cause, stored.failure) == (State.IN_FLIGHT, 30_000, "", "")
    assert stored.created_at > first.created_at


def test_key_of_the_caller_leads_to_the_payment_that_was_there():
    first = begun()
    key = Claim(caller="one", key="key", request_hash=bytes(32)).row(wanted().pk)
    services.payment_begin(wanted(payment_hash=first.payment_hash), key)
    assert IdempotencyKey.objects.get().message_id == first.pk


class Noting:
    """A call that wants a row for each payment; this one wants to know which."""

    def __init__(self) -> None:
        self.noted: list[tuple] = []

    def note(self, *, item_id, peer, amount_msat) -> IdempotencyKey:
        self.noted.append((item_id, peer, amount_msat))
        return IdempotencyKey(key="noted", request_hash=bytes(32), message_id=item_id)


def test_only_a_payment_that_begins_is_noted():
    noting, first = Noting(), wanted()
    services.payment_begin(first, None, noting)
    services.payment_begin(wanted(payment_hash=first.payment_hash), None, noting)
    assert noting.noted == [(first.pk, PAYEE, 21_000)]
    assert IdempotencyKey.objects.get().message_id == first.pk


def test_settled_payment_costs_what_it_has_cost():
    payment = begun()
    services.payment_settle(payment.pk, amount_msat=21_000, fee_msat=5, preimage=b"\1" * 32)
    payment.refresh_from_db()
    assert (payment.state, payment.fee_msat, payment.cost_msat) == (State.SETTLED, 5, 21_005)
    assert bytes(payment.preimage) == b"\1" * 32
    assert payment.ended_at is not None
    services.payment_fail(payment.pk, failure=InvoicePayment.Failure.ROUTE, cause="no route")
    payment.refresh_from_db()
    assert (payment.state, payment.cost_msat) == (State.SETTLED, 21_005)


def test_failed_payment_costs_nothing():
    payment = begun()
    services.payment_fail(payment.pk, failure=InvoicePayment.Failure.BALANCE, cause="x" * 600)
    payment.refresh_from_db()
    assert (payment.state, payment.failure, payment.cost_msat) == (State.FAILED, "balance", 0)
    assert payment.cause == "x" * 500


def test_payments_in_flight_are_those_of_this_lnd():
    mine = begun()
    begun(payer=PAYEE)
    services.payment_fail(begun().pk, failure=InvoicePayment.Failure.ROUTE, cause="no route")
    assert services.payments_in_flight(PAYER) == [mine]


def test_spent_is_what_was_or_may_be_paid_since():
    now = timezone.now()
    begun(cost_msat=1, created_at=now - timedelta(hours=2))
    first = begun(cost_msat=20, created_at=now - timedelta(minutes=30))
    second = begun(cost_msat=300, created_at=now - timedelta(minutes=20))
    free = begun(cost_msat=4_000)
    services.payment_fail(free.pk, failure=InvoicePayment.Failure.ROUTE, cause="no route")
    since = now - timedelta(hours=1)
    assert services.spent_on_invoices(since) == 320
    assert services.spent_on_invoices(now + timedelta(hours=1)) == 0
    assert services.reserved_by_invoices(since) == 320
    assert services.expenses_of_invoices(since) == []
    for payment in (first, second):
        services.payment_settle(payment.pk, amount_msat=payment.cost_msat, fee_msat=0, preimage=b"p")
    assert services.reserved_by_invoices(since) == 0
    assert services.expenses_of_invoices(since) == [(first.created_at, 20), (second.created_at, 300)]


def test_expenses_are_told_up_to_a_bound():
    now = timezone.now()
    InvoicePayment.objects.bulk_create(
        wanted(created_at=now - timedelta(seconds=number), state=InvoicePayment.State.SETTLED)
        for number in range(MOST_EXPENSES + 1)
    )
    told = services.expenses_of_invoices(now - timedelta(days=1))
    assert len(told) == MOST_EXPENSES
    assert told[0][0] == now - timedelta(seconds=MOST_EXPENSES)
