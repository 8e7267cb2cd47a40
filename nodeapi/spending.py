"""What the calls of one API key have cost, or may cost: reads of the audit log, and of the tables of what is paid for.

A message costs what its row says. A payment of an invoice is on account of the call that began it last. Of a VPN lease the
price is reserved from the call until the invoice's payment says what it is; what was refused costs nothing.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from uuid import UUID

from django.db.models import OuterRef, QuerySet, Subquery, Sum

from invoices.models import InvoicePayment
from messaging.budget import MOST_EXPENSES
from messaging.models import UNFINISHED, Direction, named
from nodeapi.models import AuditEntry
from vpn.models import Purchase
from vpn.states import PurchaseState

FeeLimit = Callable[[int], int]
# Beyond these an agreed price is a payment, or it will never be paid.
UNPAID = (PurchaseState.ASKED, PurchaseState.INVOICED, PurchaseState.PAYING)


def spent_by(caller: str, fee_limit_msat: FeeLimit, since: datetime) -> int:
    """The msat that were spent with this key since then, or may be."""
    ids = _entries(caller, since).values("message_id")
    messages = named(Direction.OUT, ids).aggregate(sum=Sum("cost_msat"))
    payments = _payments(caller, since, ids).aggregate(sum=Sum("cost_msat"))
    purchases = sum(cost for _, cost, _ in _of_purchases(ids, fee_limit_msat))
    return (messages["sum"] or 0) + (payments["sum"] or 0) + purchases


def reserved_by(caller: str, fee_limit_msat: FeeLimit, since: datetime) -> int:
    """Of these msat, those that are under way and may cost less in the end."""
    ids = _entries(caller, since).values("message_id")
    messages = named(Direction.OUT, ids).filter(state__in=UNFINISHED).aggregate(sum=Sum("cost_msat"))
    under_way = _payments(caller, since, ids).filter(state=InvoicePayment.State.IN_FLIGHT)
    payments = under_way.aggregate(sum=Sum("cost_msat"))
    purchases = sum(cost for _, cost, settled in _of_purchases(ids, fee_limit_msat) if not settled)
    return (messages["sum"] or 0) + (payments["sum"] or 0) + purchases


def expenses_of(caller: str, since: datetime) -> list[tuple[datetime, int]]:
    """When and how many msat were spent, the oldest of each kind."""
    entries = _entries(caller, since)
    oldest = entries.order_by("created_at").values_list("message_id", flat=True)[:MOST_EXPENSES]
    ids = [message_id for message_id in oldest if message_id]
    messages = named(Direction.OUT, ids).filter(cost_msat__gt=0).exclude(state__in=UNFINISHED)
    payments = (
        _payments(caller, since, entries.values("message_id"))
        .filter(cost_msat__gt=0, state=InvoicePayment.State.SETTLED)
        .order_by("created_at")
    )
    purchases = _of_purchases(entries.values("message_id"), lambda _: 0)
    return [
        *messages.values_list("created_at", "cost_msat"),
        *payments.values_list("created_at", "cost_msat")[:MOST_EXPENSES],
        *((moment, cost) for moment, cost, settled in purchases if settled),
    ]


def _entries(caller: str, since: datetime) -> QuerySet[AuditEntry]:
    return AuditEntry.objects.filter(caller=caller, created_at__gte=since, spends=True)


def _payments(caller: str, since: datetime, ids: QuerySet) -> QuerySet[InvoicePayment]:
    """One that failed may be begun again, with another key."""
    last = (
        AuditEntry.objects.filter(message_id=OuterRef("pk"), spends=True).order_by("-pk").values("caller")[:1]
    )
    return (
        InvoicePayment.objects.filter(pk__in=ids, created_at__gte=since)
        .annotate(last=Subquery(last))
        .filter(last=caller)
    )


def _of_purchases(
    ids: Iterable[UUID] | QuerySet, fee_limit_msat: FeeLimit
) -> list[tuple[datetime, int, bool]]:
    """When, how many msat, and whether that is what it has cost."""
    purchases = list(Purchase.objects.filter(pk__in=ids))
    hashes = [purchase.payment_hash for purchase in purchases if purchase.payment_hash]
    payments = {
        bytes(payment.payment_hash): payment
        for payment in InvoicePayment.objects.filter(payment_hash__in=hashes)
    }
    found = []
    for purchase in purchases:
        payment = payments.get(bytes(purchase.payment_hash or b""))
        price_msat = purchase.price_sat * 1000
        if payment:
            cost_msat = payment.cost_msat
        else:
            cost_msat = price_msat + fee_limit_msat(price_msat) if purchase.state in UNPAID else 0
        settled = payment is not None and payment.state == InvoicePayment.State.SETTLED
        if cost_msat:
            found.append((purchase.created_at, cost_msat, settled))
    return found
