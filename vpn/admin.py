"""VPN leases as the operator sees them, sold and bought, with what can be done: extend, end now. No key but public
ones.

The admin may run in another process than the node, so an action only stores a wish (vpn/wishes.py).
"""

from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html

from messaging.admin_base import HistoryAdmin, Noted, StateFilter, in_words, short, to_the_second
from messaging.required import required
from vpn.models import (
    Address,
    Lease,
    LeaseStep,
    LeaseWish,
    Purchase,
    PurchasedLease,
    Quote,
    ReceivedQuote,
    Shop,
    Term,
    UnreliableSeller,
)
from vpn.pool import Pool
from vpn.states import RUNNING, BoughtState, LeaseState

HOUR_SECONDS, DAY_SECONDS = 3_600, 86_400
SHOWN_CELLS = 1_024
_LARGER = ("KiB", "MiB", "GiB", "TiB")


def in_bytes(count: float) -> str:
    unit = "B"
    for larger in _LARGER:
        if count < 1024:
            break
        count, unit = count / 1024, larger
    return f"{count:,.0f} B" if unit == "B" else f"{count:,.1f} {unit}"


class RunningFilter(StateFilter):
    """Begins with the leases that run: those are what an operator looks for."""

    usual, usual_words, choices_of_states = RUNNING, "running", LeaseState.choices


@admin.register(Lease)
class LeaseAdmin(HistoryAdmin, Noted):
    noted_as = "leases"
    list_display = (
        "peer",
        "addresses",
        "state",
        "price",
        "time_left",
        "ends",
        "handshake",
        "received",
        "sent",
    )
    list_filter = (RunningFilter,)
    search_fields = ("buyer__startswith", "wg_key__startswith", "addresses__startswith")
    search_help_text = "The beginning of a node's key, of a WireGuard key, or of an address"
    ordering = ("-pk",)
    actions = ("extend_by_an_hour", "extend_by_a_day", "end_now")
    fields = (
        "contract_id",
        "buyer",
        "wg_key",
        "addresses",
        "price",
        "state",
        "cause",
        "starts",
        "ends",
        "time_left",
        "paid",
        "handshake",
        "received",
        "sent",
        "history",
    )
    readonly_fields = (
        "price",
        "starts",
        "ends",
        "time_left",
        "paid",
        "handshake",
        "received",
        "sent",
        "history",
    )

    def has_act_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("vpn.change_lease")

    @admin.action(description="Extend the chosen leases by an hour, free of charge", permissions=["act"])
    def extend_by_an_hour(self, request: HttpRequest, queryset: QuerySet[Lease]) -> None:
        self._wish(request, queryset, LeaseWish.Action.EXTEND, HOUR_SECONDS)

    @admin.action(description="Extend the chosen leases by a day, free of charge", permissions=["act"])
    def extend_by_a_day(self, request: HttpRequest, queryset: QuerySet[Lease]) -> None:
        self._wish(request, queryset, LeaseWish.Action.EXTEND, DAY_SECONDS)

    @admin.action(description="End the chosen leases now", permissions=["act"])
    def end_now(self, request: HttpRequest, queryset: QuerySet[Lease]) -> None:
        self._wish(request, queryset, LeaseWish.Action.END, 0)

    def _wish(
        self, request: HttpRequest, queryset: QuerySet[Lease], action: LeaseWish.Action, seconds: int
    ) -> None:
        asked_by = request.user.get_username()
        made = [
            LeaseWish(lease=lease, action=action, seconds=seconds, asked_by=asked_by) for lease in queryset
        ]
        LeaseWish.objects.bulk_create(made)
        by = f" by {seconds} s" if seconds else ""
        for wish in made:
            told = f"lease {wish.lease.contract_id}{by}"
            self.note(request, action.value, peer=wish.lease.buyer, detail=told, outcome="accepted")
        self.message_user(
            request,
            f"Asked the node to {action.label}: {len(made)}. It does so within a second; what became of it is told under "
            "Wishes.",
            messages.SUCCESS,
        )

    @admin.display(description="peer", ordering="buyer")
    def peer(self, lease: Lease) -> str:
        return short(lease.buyer)

    @admin.display(description="price", ordering="price_sat")
    def price(self, lease: Lease) -> str:
        return f"{lease.price_sat:,} sat an hour"

    @admin.display(description="began (UTC)", ordering="starts_at")
    def starts(self, lease: Lease) -> str:
        return to_the_second(lease.starts_at)

    @admin.display(description="ends (UTC)", ordering="expires_at")
    def ends(self, lease: Lease) -> str:
        return to_the_second(lease.expires_at)

    @admin.display(description="time left", ordering="expires_at")
    def time_left(self, lease: Lease) -> str:
        return in_words(required(lease.expires_at) - timezone.now()) if lease.state in RUNNING else "–"

    @admin.display(description="last handshake (UTC)", ordering="last_handshake_at")
    def handshake(self, lease: Lease) -> str:
        return to_the_second(lease.last_handshake_at)

    @admin.display(description="from the client", ordering="received_bytes")
    def received(self, lease: Lease) -> str:
        return in_bytes(lease.received_bytes)

    @admin.display(description="to the client", ordering="sent_bytes")
    def sent(self, lease: Lease) -> str:
        return in_bytes(lease.sent_bytes)

    @admin.display(description="payments")
    def paid(self, lease: Lease) -> str:
        lines = (
            f"{to_the_second(term.created_at)}  {term.kind}: {term.price_sat:,} sat for {term.seconds:,} s, {term.state}"
            for term in lease.terms.order_by("-pk")[:50]
        )
        return format_html('<span style="white-space:pre-line">{}</span>', "\n".join(lines))

    @admin.display(description="history (UTC)")
    def history(self, lease: Lease) -> str:
        lines = (
            f"{to_the_second(step.created_at)}  {step.state}: {step.cause}"
            for step in lease.steps.order_by("-pk")[:50]
        )
        return format_html('<span style="white-space:pre-line">{}</span>', "\n".join(lines))


@admin.register(Term)
class TermAdmin(HistoryAdmin):
    list_display = ("when", "buyer_short", "kind", "price_sat", "seconds", "state", "cause")
    list_filter = ("state", "kind", "created_at")
    search_fields = ("buyer__startswith",)
    # Without the preimage.
    fields = (
        "contract_id",
        "buyer",
        "kind",
        "price_sat",
        "seconds",
        "state",
        "cause",
        "created_at",
        "held_at",
        "ended_at",
    )
    ordering = ("-pk",)

    @admin.display(description="time (UTC)", ordering="created_at")
    def when(self, term: Term) -> str:
        return to_the_second(term.created_at)

    @admin.display(description="buyer", ordering="buyer")
    def buyer_short(self, term: Term) -> str:
        return short(term.buyer)


@admin.register(Quote)
class QuoteAdmin(HistoryAdmin):
    list_display = (
        "when",
        "buyer_short",
        "price_sat",
        "min_price_sat",
        "max_price_sat",
        "holds_until",
        "used",
    )
    list_filter = ("created_at",)
    search_fields = ("buyer__startswith", "nonce__startswith")
    fields = ("nonce", "buyer", "price_sat", "min_price_sat", "max_price_sat", "when", "holds_until", "used")
    readonly_fields = ("when", "holds_until", "used")
    ordering = ("-pk",)

    @admin.display(description="time (UTC)", ordering="created_at")
    def when(self, quote: Quote) -> str:
        return to_the_second(quote.created_at)

    @admin.display(description="buyer", ordering="buyer")
    def buyer_short(self, quote: Quote) -> str:
        return short(quote.buyer)

    @admin.display(description="holds until (UTC)", ordering="expires_at")
    def holds_until(self, quote: Quote) -> str:
        return to_the_second(quote.expires_at)

    @admin.display(description="used (UTC)", ordering="used_at")
    def used(self, quote: Quote) -> str:
        return to_the_second(quote.used_at)


@admin.register(LeaseStep)
class LeaseStepAdmin(HistoryAdmin):
    list_display = ("when", "lease", "state", "cause")
    list_filter = ("state", "created_at")
    fields = ("when", "lease", "state", "cause")
    readonly_fields = ("when",)
    list_select_related = ("lease",)
    ordering = ("-pk",)

    @admin.display(description="time (UTC)", ordering="created_at")
    def when(self, step: LeaseStep) -> str:
        return to_the_second(step.created_at)


@admin.register(LeaseWish)
class LeaseWishAdmin(HistoryAdmin):
    list_display = ("asked", "action", "lease", "seconds", "asked_by", "result")
    list_filter = ("action", "created_at")
    fields = ("asked", "action", "lease", "seconds", "asked_by", "result", "done_at")
    readonly_fields = ("asked", "result")
    list_select_related = ("lease",)
    ordering = ("-pk",)

    @admin.display(description="asked at (UTC)", ordering="created_at")
    def asked(self, wish: LeaseWish) -> str:
        return to_the_second(wish.created_at)

    @admin.display(description="outcome", ordering="outcome")
    def result(self, wish: LeaseWish) -> str:
        return wish.outcome or "the node has not looked at it yet"


@admin.register(Address)
class AddressAdmin(HistoryAdmin):
    """The list of all that were ever handed out, and above it the map of the pool."""

    change_list_template = "vpn/pool_map.html"
    list_display = ("client", "addresses", "lease", "state", "free_from")
    fields = ("client", "lease", "free_from")
    readonly_fields = ("free_from",)
    list_select_related = ("lease",)
    ordering = ("client",)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().changelist_view(request, (extra_context or {}) | {"pool": pool_map()})

    @admin.display(description="addresses")
    def addresses(self, address: Address) -> str:
        return address.lease.addresses if address.lease else "–"

    @admin.display(description="state")
    def state(self, address: Address) -> str:
        return address.lease.state if address.lease else "free"

    @admin.display(description="free since (UTC)", ordering="free_since")
    def free_from(self, address: Address) -> str:
        return "–" if address.lease else to_the_second(address.free_since)


def pool_map() -> dict[str, Any]:
    """One cell an address, in their order: free, or the state of the lease that has it."""
    config = getattr(settings, "IMPD", None)
    if config is None:
        return {}
    pool = Pool(config.vpn.subnet)
    taken = {
        address.client: address.lease
        for address in Address.objects.exclude(lease=None).select_related("lease")
    }
    cells = []
    for client in pool.clients[:SHOWN_CELLS]:
        lease = taken.get(client)
        shown = ", ".join(str(address) for address in pool.addresses(client))
        cells.append(
            {
                "state": lease.state if lease else "free",
                "title": f"{shown}: {lease.state if lease else 'free'}",
            }
        )
    shop = Shop.objects.filter(pk=1).first()
    return {
        "cells": cells,
        "all": len(pool.clients),
        "taken": len(taken),
        "more": max(0, len(pool.clients) - SHOWN_CELLS),
        "networks": ", ".join(str(network) for network in pool.networks),
        "interface": shop.interface if shop else "",
        "problem": shop.problem if shop else "",
        "foreign": len(shop.foreign) if shop else 0,
    }


@admin.register(PurchasedLease)
class PurchasedLeaseAdmin(HistoryAdmin):
    list_display = ("seller_short", "address", "endpoint", "state", "price_sat", "time_left", "ends")
    list_filter = ("state", "created_at")
    search_fields = ("seller__startswith",)
    fields = (
        "id",
        "seller",
        "address",
        "endpoint",
        "public_key",
        "price_sat",
        "state",
        "created_at",
        "ends",
        "time_left",
        "path",
    )
    readonly_fields = ("address", "endpoint", "ends", "time_left")
    ordering = ("-created_at",)

    @admin.display(description="seller", ordering="seller")
    def seller_short(self, lease: PurchasedLease) -> str:
        return short(lease.seller)

    @admin.display(description="address")
    def address(self, lease: PurchasedLease) -> str:
        return str(lease.peering["address"])

    @admin.display(description="server")
    def endpoint(self, lease: PurchasedLease) -> str:
        return str(lease.peering["endpoint"])

    @admin.display(description="ends (UTC)", ordering="expires_at")
    def ends(self, lease: PurchasedLease) -> str:
        return to_the_second(lease.expires_at)

    @admin.display(description="time left", ordering="expires_at")
    def time_left(self, lease: PurchasedLease) -> str:
        return (
            "–" if lease.state == BoughtState.ENDED else in_words(required(lease.expires_at) - timezone.now())
        )


@admin.register(Purchase)
class PurchaseAdmin(HistoryAdmin):
    list_display = ("when", "seller_short", "kind", "price_sat", "seconds", "state", "cause")
    list_filter = ("state", "kind", "created_at")
    search_fields = ("seller__startswith",)
    fields = (
        "id",
        "seller",
        "kind",
        "lease_id",
        "price_sat",
        "hourly_price_sat",
        "seconds",
        "state",
        "cause",
        "when",
    )
    readonly_fields = ("when",)
    ordering = ("-created_at",)

    @admin.display(description="time (UTC)", ordering="created_at")
    def when(self, purchase: Purchase) -> str:
        return to_the_second(purchase.created_at)

    @admin.display(description="seller", ordering="seller")
    def seller_short(self, purchase: Purchase) -> str:
        return short(purchase.seller)


@admin.register(ReceivedQuote)
class ReceivedQuoteAdmin(HistoryAdmin):
    list_display = ("when", "seller_short", "price_sat", "min_price_sat", "max_price_sat", "holds_until")
    list_filter = ("created_at",)
    search_fields = ("seller__startswith",)
    fields = (
        "request_id",
        "seller",
        "nonce",
        "price_sat",
        "min_price_sat",
        "max_price_sat",
        "when",
        "holds_until",
    )
    readonly_fields = ("when", "holds_until")
    ordering = ("-created_at",)

    @admin.display(description="asked (UTC)", ordering="created_at")
    def when(self, quote: ReceivedQuote) -> str:
        return to_the_second(quote.created_at)

    @admin.display(description="seller", ordering="seller")
    def seller_short(self, quote: ReceivedQuote) -> str:
        return short(quote.seller)

    @admin.display(description="holds until (UTC)", ordering="expires_at")
    def holds_until(self, quote: ReceivedQuote) -> str:
        return to_the_second(quote.expires_at)


@admin.register(UnreliableSeller)
class UnreliableSellerAdmin(HistoryAdmin):
    list_display = ("since", "seller_short", "reason", "text")
    search_fields = ("pubkey__startswith",)
    fields = ("pubkey", "reason", "text", "lease_id", "since")
    readonly_fields = ("since",)
    ordering = ("-created_at",)

    @admin.display(description="since (UTC)", ordering="created_at")
    def since(self, seller: UnreliableSeller) -> str:
        return to_the_second(seller.created_at)

    @admin.display(description="seller", ordering="pubkey")
    def seller_short(self, seller: UnreliableSeller) -> str:
        return short(seller.pubkey)
