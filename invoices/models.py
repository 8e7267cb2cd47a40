"""Plain Lightning invoices (BOLT11) that this node has made, and those that it has paid or tried to pay."""

import uuid

from django.db import models
from django.utils import timezone


class Invoice(models.Model):
    """An invoice made here: looked up in lnd until it is final, so that its payment is told exactly once.

    lnd keeps the preimage. `id` is what the event of its payment bears.
    """

    class State(models.TextChoices):
        OPEN = "open"
        SETTLED = "settled", "paid"
        CANCELED = "canceled", "canceled or expired"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    payee = models.CharField(max_length=66, help_text="The node whose lnd is paid.")
    payment_hash = models.BinaryField(max_length=32, unique=True)
    payment_request = models.TextField("invoice", help_text="What the payer is given (BOLT11).")
    memo = models.TextField(blank=True, help_text="What it is for; the payer reads it.")
    amount_msat = models.BigIntegerField(help_text="0: the payer chooses.")
    paid_msat = models.BigIntegerField(default=0)
    state = models.CharField(max_length=16, choices=State, default=State.OPEN)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    settled_at = models.DateTimeField("paid at", null=True)

    class Meta:
        verbose_name = "invoice made here"
        verbose_name_plural = "invoices made here"
        indexes = [models.Index(fields=["created_at"], name="invoice_open", condition=models.Q(state="open"))]

    def __str__(self) -> str:
        return f"{self.payment_request[:24]}…"


class InvoicePayment(models.Model):
    """An invoice that this node was asked to pay: stored before lnd hears of it. lnd pays a payment hash at most once."""

    class State(models.TextChoices):
        IN_FLIGHT = "in_flight", "under way"
        SETTLED = "settled", "paid"
        FAILED = "failed"

    class Failure(models.TextChoices):
        """Why it failed. What is REFUSED fails again, and what is DEAD in lnd can never be tried again; the others may
        pass.
        """

        REFUSED = "refused", "refused"
        BALANCE = "balance", "not enough balance"
        ROUTE = "route", "no way to the payee"
        TIMEOUT = "timeout", "no way in time"
        DEAD = "dead", "dead in lnd"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    payer = models.CharField(max_length=66, help_text="The node whose lnd pays.")
    payee = models.CharField("to", max_length=66)
    payment_hash = models.BinaryField(max_length=32, unique=True)
    payment_request = models.TextField("invoice")
    memo = models.TextField(blank=True, help_text="What it is for, as the payee wrote it.")
    amount_msat = models.BigIntegerField(help_text="Without the fee.")
    amount_given = models.BooleanField(
        default=False, help_text="The invoice left the amount open; the caller chose it."
    )
    fee_limit_msat = models.BigIntegerField(help_text="The most that the way may cost.")
    cltv_limit_blocks = models.PositiveIntegerField(
        default=0, help_text="The longest that it may be held; 0: lnd's own."
    )
    fee_msat = models.BigIntegerField(default=0)
    cost_msat = models.BigIntegerField(
        help_text="What it may cost with the fee while under way; what it has cost then."
    )
    preimage = models.BinaryField(max_length=32, default=b"", help_text="The proof of payment.")
    state = models.CharField(max_length=16, choices=State, default=State.IN_FLIGHT)
    failure = models.CharField(max_length=16, choices=Failure, blank=True)
    cause = models.CharField(max_length=500, blank=True)
    attempts = models.PositiveIntegerField(default=1)
    failed_index = models.BigIntegerField(
        default=0,
        db_default=0,
        help_text="The payment_index of lnd's record of the last attempt that failed.",
    )
    created_at = models.DateTimeField("last begun at", default=timezone.now)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "invoice paid from here"
        verbose_name_plural = "invoices paid from here"
        indexes = [
            models.Index(fields=["created_at"], name="invoice_payment_begun"),
            models.Index(fields=["id"], name="invoice_payment_open", condition=models.Q(state="in_flight")),
        ]

    def __str__(self) -> str:
        return f"{self.payment_request[:24]}…"
