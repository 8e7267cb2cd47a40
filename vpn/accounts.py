"""What was paid for leases: the time that it bought, the price without fees, and the payment by which a lease began."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from invoices.models import InvoicePayment
from vpn.models import Purchase, Term
from vpn.states import PurchaseState, TermState

PAID = (PurchaseState.PAID, PurchaseState.DONE)


@dataclass
class Paid:
    """For one lease, refreshes included."""

    seconds: int = 0
    paid_sat: int = 0
    payment_hash: str = ""

    def add(self, payment: Purchase | Term) -> None:
        self.seconds += payment.seconds
        self.paid_sat += payment.price_sat
        if payment.kind == Term.Kind.CONTRACT:
            self.payment_hash = bytes(payment.payment_hash or b"").hex()

    def fields(self) -> dict[str, Any]:
        """As a list of leases shows it."""
        return {"seconds": self.seconds, "paid_sat": self.paid_sat, "payment_hash": self.payment_hash}


def paid_of_bought(lease_ids: Sequence[UUID]) -> dict[UUID, Paid]:
    """By the ids of leases that this node has bought."""
    purchases = list(Purchase.objects.filter(lease_id__in=lease_ids).exclude(payment_hash=None))
    # One that was refused in the end may have been paid all the same.
    refused = [one.payment_hash for one in purchases if one.state == PurchaseState.REFUSED]
    settled = InvoicePayment.objects.filter(payment_hash__in=refused, state=InvoicePayment.State.SETTLED)
    hashes = {bytes(payment_hash) for payment_hash in settled.values_list("payment_hash", flat=True)}
    found: dict[UUID, Paid] = defaultdict(Paid)
    for purchase in purchases:
        if purchase.state in PAID or bytes(purchase.payment_hash or b"") in hashes:
            found[purchase.lease_id].add(purchase)
    return found


def paid_of_sold(lease_keys: Sequence[int]) -> dict[int, Paid]:
    """By the primary keys of leases that this node has sold."""
    found: dict[int, Paid] = defaultdict(Paid)
    for term in Term.objects.filter(lease__in=lease_keys, state=TermState.SETTLED):
        found[term.lease_id].add(term)
    return found
