"""Invoices as the operator sees them. The preimage is not shown: whoever knows it can pretend to have paid."""

from django.contrib import admin

from invoices.models import Invoice, InvoicePayment
from messaging.admin_base import HistoryAdmin, When, begin, in_two_lines, sat, short


@admin.register(Invoice)
class InvoiceAdmin(When, HistoryAdmin):
    """What others were asked to pay to this node."""

    list_display = ("when", "memo_begin", "asked", "paid", "state", "expires", "settled")
    list_filter = ("state", "created_at")
    ordering = ("-created_at",)
    search_fields = ("memo", "payment_request")
    search_help_text = "Words of the memo, or the invoice (lnbc…)"
    fields = (
        "id",
        "memo",
        "asked",
        "paid",
        "state",
        "payment_request",
        "hash_in_hex",
        "payee",
        "created_at",
        "expires_at",
        "settled_at",
    )
    readonly_fields = ("asked", "paid", "hash_in_hex")

    @admin.display(description="memo")
    def memo_begin(self, invoice: Invoice) -> str:
        return begin(invoice.memo.encode()) or "–"

    @admin.display(description="asked for", ordering="amount_msat")
    def asked(self, invoice: Invoice) -> str:
        return sat(invoice.amount_msat) if invoice.amount_msat else "any amount"

    @admin.display(description="paid", ordering="paid_msat")
    def paid(self, invoice: Invoice) -> str:
        return sat(invoice.paid_msat) if invoice.settled_at else "–"

    @admin.display(description="expires at (UTC)", ordering="expires_at")
    def expires(self, invoice: Invoice) -> str:
        return in_two_lines(invoice.expires_at)

    @admin.display(description="paid at (UTC)", ordering="settled_at")
    def settled(self, invoice: Invoice) -> str:
        return in_two_lines(invoice.settled_at)

    @admin.display(description="payment hash")
    def hash_in_hex(self, invoice: Invoice) -> str:
        return bytes(invoice.payment_hash).hex()


@admin.register(InvoicePayment)
class InvoicePaymentAdmin(When, HistoryAdmin):
    """What this node was asked to pay to others."""

    list_display = ("when", "memo_begin", "short_payee", "amount", "fee", "state", "cause")
    list_filter = ("state", "failure", "created_at")
    ordering = ("-created_at",)
    search_fields = ("memo", "payment_request", "payee__startswith", "cause")
    search_help_text = (
        "Words of the memo or of a cause, the invoice (lnbc…), or the beginning of the payee's key"
    )
    fields = (
        "id",
        "memo",
        "payee",
        "amount",
        "fee",
        "fee_limit",
        "state",
        "failure",
        "cause",
        "attempts",
        "payment_request",
        "hash_in_hex",
        "created_at",
        "ended_at",
    )
    readonly_fields = ("amount", "fee", "fee_limit", "hash_in_hex")

    @admin.display(description="memo")
    def memo_begin(self, payment: InvoicePayment) -> str:
        return begin(payment.memo.encode()) or "–"

    @admin.display(description="to", ordering="payee")
    def short_payee(self, payment: InvoicePayment) -> str:
        return short(payment.payee)

    @admin.display(description="amount", ordering="amount_msat")
    def amount(self, payment: InvoicePayment) -> str:
        return sat(payment.amount_msat)

    @admin.display(description="routing fee")
    def fee(self, payment: InvoicePayment) -> str:
        return sat(payment.fee_msat)

    @admin.display(description="fee limit")
    def fee_limit(self, payment: InvoicePayment) -> str:
        return sat(payment.fee_limit_msat)

    @admin.display(description="payment hash")
    def hash_in_hex(self, payment: InvoicePayment) -> str:
        return bytes(payment.payment_hash).hex()
