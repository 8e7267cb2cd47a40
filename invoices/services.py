"""The steps of invoices and their payments in the database. Each is a transaction of its own or part of the caller's."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import partial
from uuid import UUID

from django.db import transaction
from django.db.models import Sum, Value
from django.db.models.functions import Greatest
from django.utils import timezone

from invoices.models import Invoice, InvoicePayment
from messaging import events, idempotency, metrics, notes
from messaging.budget import MOST_EXPENSES
from messaging.models import Event, IdempotencyKey

# The stream's name for what happens to invoices.
SERVICE_TYPE = "lightning"


class ChangedMeanwhileError(Exception):
    """The payment was begun again by somebody else since it was read."""


def invoice_store(invoice: Invoice, key: IdempotencyKey | None) -> None:
    """A new invoice, and the key that a caller gave for it."""
    idempotency.store([key] if key else [])
    Invoice.objects.bulk_create([invoice])


def invoice_open(payee: str) -> list[Invoice]:
    return list(Invoice.objects.filter(payee=payee, state=Invoice.State.OPEN).order_by("created_at"))


def invoice_settle(*, payment_hash: bytes, paid_msat: int, published: events.Published) -> bool:
    """Notes that an invoice made here was paid, and tells it. False when it is known, or was not made here."""
    invoice = Invoice.objects.filter(payment_hash=payment_hash, state=Invoice.State.OPEN).first()
    if invoice is None:
        return False
    invoice.state, invoice.paid_msat, invoice.settled_at = Invoice.State.SETTLED, paid_msat, timezone.now()
    still_open = Invoice.objects.filter(pk=invoice.pk, state=Invoice.State.OPEN)
    if not still_open.update(state=invoice.state, paid_msat=invoice.paid_msat, settled_at=invoice.settled_at):
        return False
    events.append([_paid_event(invoice)], published=published)
    transaction.on_commit(partial(metrics.RECEIVED_MSAT.labels(metrics.INVOICES).inc, paid_msat), robust=True)
    return True


def invoice_cancel(payment_hash: bytes) -> None:
    Invoice.objects.filter(payment_hash=payment_hash, state=Invoice.State.OPEN).update(
        state=Invoice.State.CANCELED
    )


def _paid_event(invoice: Invoice) -> Event:
    amount_sat = invoice.paid_msat // 1000
    told = {
        "paymentHash": bytes(invoice.payment_hash).hex(),
        "invoice": invoice.payment_request,
        "memo": invoice.memo,
        "amount": str(amount_sat),
    }
    return Event(
        message_id=invoice.id,
        data=json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode(),
        service_type=SERVICE_TYPE,
        amount_sat=amount_sat,
    )


def payment_of(payment_hash: bytes) -> InvoicePayment | None:
    return InvoicePayment.objects.filter(payment_hash=payment_hash).first()


def payment_get(payment_id: UUID) -> InvoicePayment | None:
    return InvoicePayment.objects.filter(pk=payment_id).first()


def payments_in_flight(payer: str) -> list[InvoicePayment]:
    return list(
        InvoicePayment.objects.filter(payer=payer, state=InvoicePayment.State.IN_FLIGHT).order_by(
            "created_at"
        )
    )


def payment_begin(
    wanted: InvoicePayment, key: IdempotencyKey | None, noter: notes.Noter | None = None
) -> tuple[InvoicePayment, bool]:
    """The payment of this hash, and whether it begins now: what is under way or paid stays as it is, what failed may be
    tried again.
    """
    known = payment_of(bytes(wanted.payment_hash))
    begins, payment = True, wanted
    if known is not None and known.state != InvoicePayment.State.FAILED:
        begins, payment = False, known
    if begins:
        if known:
            _begin_again(known, payment)
        else:
            payment.save(force_insert=True)
        if noter:
            notes.store([noter.note(item_id=payment.pk, peer=payment.payee, amount_msat=payment.amount_msat)])
    if key:
        key.pk, key.message_id = None, payment.pk
        idempotency.store([key])
    return payment, begins


def _begin_again(failed: InvoicePayment, payment: InvoicePayment) -> None:
    """In the row of the attempt that failed."""
    payment.pk, payment.attempts, payment.failed_index = failed.pk, failed.attempts + 1, failed.failed_index
    fields = {
        field.attname: getattr(payment, field.attname)
        for field in InvoicePayment._meta.concrete_fields
        if not field.primary_key
    }
    row = InvoicePayment.objects.filter(pk=failed.pk, state=failed.state, attempts=failed.attempts)
    if not row.update(**fields):
        raise ChangedMeanwhileError


def payment_settle(payment_id: UUID, *, amount_msat: int, fee_msat: int, preimage: bytes) -> None:
    """What lnd has paid is paid, though it was given up here."""
    unsettled = InvoicePayment.objects.filter(pk=payment_id).exclude(state=InvoicePayment.State.SETTLED)
    settled = unsettled.update(
        state=InvoicePayment.State.SETTLED,
        amount_msat=amount_msat,
        fee_msat=fee_msat,
        cost_msat=amount_msat + fee_msat,
        preimage=preimage,
        failure="",
        cause="",
        ended_at=timezone.now(),
    )
    if not settled:
        return
    transaction.on_commit(
        partial(metrics.count_paid, metrics.INVOICES, amount_msat + fee_msat, fee_msat), robust=True
    )


def payment_fail(payment_id: UUID, *, failure: str, cause: str, index: int = 0) -> None:
    """It has cost nothing. What is settled stays settled. `index` is that of lnd's record of the failure, if it has one."""
    InvoicePayment.objects.filter(pk=payment_id, state=InvoicePayment.State.IN_FLIGHT).update(
        state=InvoicePayment.State.FAILED,
        failed_index=Greatest("failed_index", Value(index)),
        failure=failure,
        cause=cause[:500],
        cost_msat=0,
        ended_at=timezone.now(),
    )


def payments_suspect(causes: Mapping[bytes, str], cleared: Collection[bytes]) -> None:
    """Says of payments under way, by their hashes, why they hang; takes it back where nothing is wrong any more."""
    for payment_hash, cause in [*((one, "") for one in cleared), *causes.items()]:
        InvoicePayment.objects.filter(payment_hash=payment_hash, state=InvoicePayment.State.IN_FLIGHT).update(
            cause=cause[:500]
        )


def spent_on_invoices(since: datetime) -> int:
    """The msat that were spent on invoices since then, or may be (a source of messaging.budget)."""
    return InvoicePayment.objects.filter(created_at__gte=since).aggregate(sum=Sum("cost_msat"))["sum"] or 0


def reserved_by_invoices(since: datetime) -> int:
    """Of these msat, those of payments that are under way (messaging.budget)."""
    under_way = InvoicePayment.objects.filter(created_at__gte=since, state=InvoicePayment.State.IN_FLIGHT)
    return under_way.aggregate(sum=Sum("cost_msat"))["sum"] or 0


def expenses_of_invoices(since: datetime) -> list[tuple[datetime, int]]:
    """When and how many msat were paid, the oldest first (a source of messaging.budget)."""
    found = InvoicePayment.objects.filter(
        created_at__gte=since, cost_msat__gt=0, state=InvoicePayment.State.SETTLED
    ).order_by("created_at")
    return list(found.values_list("created_at", "cost_msat")[:MOST_EXPENSES])
