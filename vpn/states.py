"""The states of a lease that is sold, of a payment for one, and of a purchase, and the ways between them. Pure.

contracted → held → provisioning → active ⇄ expiring → expired → quarantined → freed
    └─────────┴──────────┴───→ canceled
"""

from django.db.models import TextChoices


class LeaseState(TextChoices):
    """Of a lease that this node sells."""

    CONTRACTED = "contracted", "contracted, not paid"
    HELD = "held", "the payment is held"
    PROVISIONING = "provisioning", "the peer is being added"
    ACTIVE = "active", "active"
    EXPIRING = "expiring", "ends soon"
    EXPIRED = "expired", "over, the peer is being removed"
    QUARANTINED = "quarantined", "over, the address rests"
    FREED = "freed", "over"
    CANCELED = "canceled", "canceled"


class TermState(TextChoices):
    """Of one payment for a lease: `wanted` has no invoice yet; from `settling` on it is never canceled, from
    `canceling` on never settled.
    """

    WANTED = "wanted", "no invoice yet"
    OFFERED = "offered", "invoice sent"
    HELD = "held", "paid and held"
    SETTLING = "settling", "being taken"
    SETTLED = "settled", "taken"
    CANCELING = "canceling", "being given back"
    CANCELED = "canceled", "canceled"


class PurchaseState(TextChoices):
    """Of a contract or refresh that this node has sent."""

    ASKED = "asked", "asked"
    INVOICED = "invoiced", "has an invoice"
    PAYING = "paying", "being paid"
    PAID = "paid", "paid, the lease has not come"
    DONE = "done", "done"
    REFUSED = "refused", "refused"


class BoughtState(TextChoices):
    """Of a lease that this node has bought."""

    ACTIVE = "active"
    EXPIRING = "expiring", "ends soon"
    ENDED = "ended"


class Role(TextChoices):
    """What this node is in a lease."""

    BOUGHT = "bought"
    SOLD = "sold"


L, T = LeaseState, TermState
LEASE_WAYS: dict[LeaseState, tuple[LeaseState | None, ...]] = {
    L.CONTRACTED: (None,),
    L.HELD: (L.CONTRACTED,),
    L.PROVISIONING: (L.HELD,),
    L.ACTIVE: (L.PROVISIONING, L.EXPIRING),
    L.EXPIRING: (L.ACTIVE,),
    L.EXPIRED: (L.ACTIVE, L.EXPIRING),
    L.QUARANTINED: (L.EXPIRED,),
    L.FREED: (L.QUARANTINED,),
    L.CANCELED: (L.CONTRACTED, L.HELD, L.PROVISIONING),
}
TERM_WAYS: dict[TermState, tuple[TermState | None, ...]] = {
    T.WANTED: (None,),
    T.OFFERED: (T.WANTED,),
    T.HELD: (T.OFFERED,),
    T.SETTLING: (T.HELD,),
    # lnd settles nothing by itself, but a database that was restored from a copy may be behind it.
    T.SETTLED: (T.SETTLING, T.HELD),
    T.CANCELING: (T.WANTED, T.OFFERED, T.HELD),
    # From settling: lnd gave the payment back before it heard of the settlement (the HTLC was about to time out).
    T.CANCELED: (T.WANTED, T.OFFERED, T.HELD, T.CANCELING, T.SETTLING),
}
# The peer stands on the interface; the lease can be refreshed.
PEERED = (L.PROVISIONING, L.ACTIVE, L.EXPIRING)
RUNNING = (L.ACTIVE, L.EXPIRING)
OVER = (L.EXPIRED, L.QUARANTINED, L.FREED)
# The time of its end does not come while a payment that moves it is held.
UNDECIDED = (T.HELD, T.SETTLING)
OPEN_TERMS = (T.WANTED, T.OFFERED, T.HELD, T.SETTLING, T.CANCELING)
