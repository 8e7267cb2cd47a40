"""What is stored of VPN leases, sold (quotes, leases, the payments for them, addresses) and bought (purchases,
leases).
"""

import uuid

from django.db import models
from django.utils import timezone

from vpn.states import OPEN_TERMS, PEERED, BoughtState, LeaseState, PurchaseState, TermState

KEY_CHARACTERS = 44


class Shop(models.Model):
    """Whether this node can sell, as the worker saw it last. One row, number 1."""

    interface = models.CharField(max_length=32, blank=True)
    problem = models.CharField(max_length=500, blank=True, help_text="Why nothing can be sold.")
    foreign = models.JSONField("peers that are not ours", default=list, help_text="Public keys, left alone.")
    looked_at = models.DateTimeField(default=timezone.now)
    server_name = models.CharField(
        max_length=253, blank=True, db_default="", help_text="The host name that was looked up."
    )
    server_address = models.CharField(
        max_length=45, blank=True, db_default="", help_text="Its address, which buyers are told."
    )
    told = models.JSONField(
        default=dict, help_text="What buyers were told of the tunnel, but for their address."
    )

    class Meta:
        verbose_name_plural = "shop"

    def __str__(self) -> str:
        return self.interface or "closed"


class KeptClock(models.Model):
    """What this node takes for the time (messaging/clock.py), kept over restarts of the node, not of the machine. One
    row, number 1.
    """

    boot_id = models.CharField(max_length=64)
    offset_seconds = models.FloatField(help_text="The time, less the seconds since the machine's start.")


class Quote(models.Model):
    """A price that was offered to a node. The nonce is used at most once."""

    nonce = models.CharField(max_length=32, unique=True)
    buyer = models.CharField(max_length=66)
    price_sat = models.BigIntegerField("sat per hour")
    min_price_sat = models.BigIntegerField()
    max_price_sat = models.BigIntegerField()
    created_at = models.DateTimeField("time", default=timezone.now)
    expires_at = models.DateTimeField("holds until")
    used_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["buyer", "created_at"], name="vpn_quote_by_buyer")]

    def __str__(self) -> str:
        return f"{self.nonce[:8]}… to {self.buyer[:16]}…"


class Answered(models.Model):
    """An answer to a node other than a quote: so that nobody makes this node answer without end. Deleted after a
    while.
    """

    buyer = models.CharField(max_length=66)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["buyer", "created_at"], name="vpn_answered_by_buyer")]


class Lease(models.Model):
    """A lease that this node sells. `contract_id` is the id of the buyer's message, by which both nodes call it.

    Addresses are kept as they were told: the configuration may change. Byte counts outlive the interface: `seen_*` is
    what its counters stood at last.
    """

    contract_id = models.UUIDField()
    buyer = models.CharField(max_length=66)
    nonce = models.CharField(max_length=32, unique=True)
    wg_key = models.CharField("its WireGuard key", max_length=KEY_CHARACTERS)
    addresses = models.CharField(max_length=100, blank=True)
    price_sat = models.BigIntegerField("sat per hour")
    state = models.CharField(max_length=16, choices=LeaseState)
    cause = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    changed_at = models.DateTimeField(default=timezone.now)
    starts_at = models.DateTimeField(null=True)
    warns_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField("ends", null=True)
    rests_until = models.DateTimeField(null=True)
    holds_key = models.BooleanField(default=False, help_text="Its key and address are nobody else's.")
    last_handshake_at = models.DateTimeField(null=True)
    received_bytes = models.BigIntegerField(default=0)
    sent_bytes = models.BigIntegerField(default=0)
    seen_received_bytes = models.BigIntegerField(default=0)
    seen_sent_bytes = models.BigIntegerField(default=0)

    class Meta:
        verbose_name = "lease sold"
        verbose_name_plural = "leases sold"
        constraints = [
            models.UniqueConstraint(fields=["buyer", "contract_id"], name="vpn_lease_once"),
            models.UniqueConstraint(
                fields=["wg_key"], name="vpn_key_once", condition=models.Q(holds_key=True)
            ),
        ]
        indexes = [
            models.Index(fields=["id"], name="vpn_lease_peered", condition=models.Q(state__in=PEERED)),
            models.Index(fields=["id"], name="vpn_lease_holding", condition=models.Q(holds_key=True)),
            models.Index(
                fields=["buyer"], name="vpn_lease_unpaid", condition=models.Q(state=LeaseState.CONTRACTED)
            ),
        ]

    def __str__(self) -> str:
        return str(self.contract_id)


class Address(models.Model):
    """One client's number of the pool (vpn/pool.py) that was handed out at least once, and to whom now."""

    client = models.PositiveIntegerField(primary_key=True)
    lease = models.OneToOneField(Lease, null=True, on_delete=models.PROTECT)
    free_since = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name_plural = "addresses"
        indexes = [
            models.Index(fields=["free_since"], name="vpn_address_free", condition=models.Q(lease=None))
        ]


class Term(models.Model):
    """One payment for a lease, by the id of the contract or refresh that asked for it: its time is counted once."""

    class Kind(models.TextChoices):
        CONTRACT = "contract"
        REFRESH = "refresh"

    lease = models.ForeignKey(Lease, on_delete=models.PROTECT, related_name="terms")
    kind = models.CharField(max_length=8, choices=Kind)
    contract_id = models.UUIDField()
    buyer = models.CharField(max_length=66)
    price_sat = models.BigIntegerField("sat")
    seconds = models.BigIntegerField(help_text="What the price buys.")
    secret = models.BinaryField(max_length=32, help_text="The preimage.")
    payment_hash = models.BinaryField(max_length=32, unique=True)
    payment_request = models.TextField(blank=True)
    state = models.CharField(max_length=16, choices=TermState, default=TermState.WANTED)
    cause = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    held_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "payment for a lease"
        verbose_name_plural = "payments for leases"
        constraints = [models.UniqueConstraint(fields=["buyer", "contract_id"], name="vpn_term_once")]
        indexes = [
            models.Index(fields=["id"], name="vpn_term_open", condition=models.Q(state__in=OPEN_TERMS))
        ]


class LeaseStep(models.Model):
    """One step of a lease's history. Never changed."""

    lease = models.ForeignKey(Lease, on_delete=models.CASCADE, related_name="steps")
    state = models.CharField(max_length=16, choices=LeaseState)
    cause = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField("time", default=timezone.now)


class LeaseWish(models.Model):
    """Something that an operator asked for in the admin, which the worker carries out."""

    class Action(models.TextChoices):
        EXTEND = "extend", "extend"
        END = "end", "end now"

    lease = models.ForeignKey(Lease, on_delete=models.PROTECT)
    action = models.CharField(max_length=8, choices=Action)
    seconds = models.BigIntegerField(default=0)
    asked_by = models.CharField(max_length=150)
    created_at = models.DateTimeField("asked at", default=timezone.now)
    done_at = models.DateTimeField("carried out at", null=True)
    outcome = models.CharField(max_length=500, blank=True)

    class Meta:
        verbose_name = "wish"
        verbose_name_plural = "wishes"
        indexes = [
            models.Index(fields=["id"], name="vpn_wish_open", condition=models.Q(done_at__isnull=True))
        ]


class ReceivedQuote(models.Model):
    """What this node asked a seller, by the id of its request, and the quote that came."""

    request_id = models.UUIDField(primary_key=True)
    seller = models.CharField(max_length=66)
    nonce = models.CharField(max_length=64, blank=True)
    price_sat = models.BigIntegerField("sat per hour", default=0)
    min_price_sat = models.BigIntegerField(default=0)
    max_price_sat = models.BigIntegerField(default=0)
    created_at = models.DateTimeField("asked at", default=timezone.now)
    expires_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "quote received"
        verbose_name_plural = "quotes received"
        constraints = [
            models.UniqueConstraint(
                fields=["seller", "nonce"], name="vpn_received_nonce", condition=~models.Q(nonce="")
            )
        ]


class PurchasedLease(models.Model):
    """A lease that this node has bought: its id is that of the contract. The private key is in ClientKey."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    seller = models.CharField(max_length=66)
    nonce = models.CharField(max_length=64)
    price_sat = models.BigIntegerField("sat per hour")
    public_key = models.CharField(max_length=KEY_CHARACTERS)
    peering = models.JSONField(help_text="What the seller told of the tunnel, checked.")
    path = models.CharField(max_length=200, help_text="Where the file for wg-quick is found.")
    state = models.CharField(max_length=16, choices=BoughtState, default=BoughtState.ACTIVE)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField("ends")

    class Meta:
        verbose_name = "lease bought"
        verbose_name_plural = "leases bought"
        indexes = [
            models.Index(fields=["expires_at"], name="vpn_bought_ends", condition=~models.Q(state="ended"))
        ]

    def __str__(self) -> str:
        return str(self.id)


class UnreliableSeller(models.Model):
    """A seller who did not keep what was agreed: nothing is renewed with it automatically until a contract or refresh
    with it is asked for by a call.
    """

    pubkey = models.CharField(max_length=66, primary_key=True)
    reason = models.CharField(max_length=40)
    text = models.CharField(max_length=500, blank=True)
    lease_id = models.UUIDField()
    created_at = models.DateTimeField("since", default=timezone.now)

    class Meta:
        verbose_name = "seller without automatic renewals"
        verbose_name_plural = "sellers without automatic renewals"

    def __str__(self) -> str:
        return self.pubkey


class ClientKey(models.Model):
    """The private key that was made for a contract, sealed (vpn/sealing.py). In no admin page, log, event or
    message.
    """

    contract_id = models.UUIDField(primary_key=True)
    sealed = models.TextField()


class Purchase(models.Model):
    """A contract or refresh that this node has sent, by the id of its message, and the payment that it led to."""

    id = models.UUIDField(primary_key=True)
    kind = models.CharField(max_length=8, choices=Term.Kind)
    seller = models.CharField(max_length=66)
    lease_id = models.UUIDField(help_text="Of a refresh: the lease that it prolongs; else its own.")
    nonce = models.CharField(max_length=64)
    price_sat = models.BigIntegerField("sat")
    hourly_price_sat = models.BigIntegerField("sat per hour")
    seconds = models.BigIntegerField(help_text="What the price buys.")
    ended_before = models.DateTimeField(
        null=True, help_text="Of a refresh: when its lease ended before it was asked for."
    )
    public_key = models.CharField(max_length=KEY_CHARACTERS)
    automatic = models.BooleanField(
        default=False, help_text="A renewal that nobody asked for (vpn.auto_renew)."
    )
    payment_request = models.TextField(blank=True)
    payment_hash = models.BinaryField(max_length=32, null=True, unique=True)
    state = models.CharField(max_length=16, choices=PurchaseState, default=PurchaseState.ASKED)
    cause = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    ask_again_at = models.DateTimeField(null=True)
    asked_again = models.PositiveIntegerField(default=0)

    class Meta:
        indexes = [
            models.Index(
                fields=["id"],
                name="vpn_purchase_open",
                condition=models.Q(state__in=("invoiced", "paying", "paid")),
            ),
            models.Index(fields=["lease_id", "created_at"], name="vpn_purchase_by_lease"),
            models.Index(fields=["created_at"], name="vpn_purchase_asked", condition=models.Q(state="asked")),
        ]

    def __str__(self) -> str:
        return str(self.id)
