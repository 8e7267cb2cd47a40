"""Leases that this node has bought are renewed before their end, if the configuration says so and the tunnel is in use.

A seller is paid again only when the end has moved by what was bought before, and not at all once it has not kept what was
agreed (vpn/reliability.py). In use: the interface of the tunnel is on this machine, and its last handshake is a few minutes old at most (WireGuard
makes one every two minutes while packets pass). A tunnel that is brought up elsewhere cannot be seen from here, and is
not renewed.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Q, QuerySet, Sum

from invoices.models import InvoicePayment
from messaging.models import Direction, Message, Origin, named
from messaging.outgoing import new_message
from vpn import bodies, buying, reliability
from vpn.models import Purchase, PurchasedLease
from vpn.settings import SERVICE, VpnSettings
from vpn.states import BoughtState, PurchaseState
from vpn.wireguard import WireGuard, WireGuardError

logger = logging.getLogger("vpn.renewing")

IN_USE = timedelta(minutes=5)
# One try, and when it was refused another one after this long, then after twice as long each time.
AGAIN = timedelta(minutes=2)
MOST_DOUBLINGS = 5
BUDGET_WINDOW = timedelta(hours=24)
# A lease is asked for once an hour in the end: more often than that in a day only at first.
ASKS_IN_WINDOW = 48
REQUEST_SECONDS = 300

# What a message of so many bytes, or a payment without one, may cost with its fees; both in msat.
CostMsat = Callable[[int, int], int]


def due(now: datetime, settings: VpnSettings) -> list[PurchasedLease]:
    """Those that end soon, which nobody renews yet: within the lead, or the second half of a time shorter than twice
    that.
    """
    soon = now + timedelta(seconds=settings.auto_renew_lead_seconds)
    ending = PurchasedLease.objects.filter(expires_at__gt=now, expires_at__lte=soon).exclude(
        state=BoughtState.ENDED
    )
    return [lease for lease in ending if _is_due(lease, now)]


def _is_due(lease: PurchasedLease, now: datetime) -> bool:
    purchases = Purchase.objects.filter(lease_id=lease.pk).order_by("-created_at")
    last = purchases.first()
    if last is None or purchases.exclude(state__in=(PurchaseState.DONE, PurchaseState.REFUSED)).exists():
        return False
    if last.state == PurchaseState.REFUSED and last.created_at > now - _pause(purchases):
        return False
    kept = purchases.filter(automatic=True, state=PurchaseState.DONE)
    if reliability.is_distrusted(lease.seller) or not all(buying.has_moved(lease, one) for one in kept):
        return False
    return lease.expires_at - now <= timedelta(seconds=last.seconds / 2)


def _pause(purchases: QuerySet[Purchase]) -> timedelta:
    """After the refusals that came last, one after the other."""
    states = list(purchases.values_list("state", flat=True)[: MOST_DOUBLINGS + 1])
    refused = next((n for n, state in enumerate(states) if state != PurchaseState.REFUSED), len(states))
    return timedelta(seconds=AGAIN.total_seconds() * 2 ** (refused - 1))


async def is_in_use(wireguard: WireGuard, lease: PurchasedLease, now: datetime) -> bool:
    try:
        interface = await wireguard.interface_of(lease.public_key)
        found = await wireguard.statistics(interface) if interface else {}
    except WireGuardError as error:
        logger.debug("no tunnel can be seen: %s", error)
        return False
    peer = found.get(lease.peering["server_pub_key"])
    return bool(peer and peer.latest_handshake and now - peer.latest_handshake <= IN_USE)


def renew(
    lease: PurchasedLease, now: datetime, settings: VpnSettings, cost_msat: CostMsat, postage_sat: int = 1
) -> list[Message]:
    """As much time as was bought last, if the budget of renewals has room for its price, its message and their fees. Part
    of the caller's transaction.
    """
    lease = PurchasedLease.objects.get(pk=lease.pk)
    if lease.state == BoughtState.ENDED or not _is_due(lease, now):
        return []
    price_sat = Purchase.objects.filter(lease_id=lease.pk).latest("created_at").price_sat
    body = buying.asked_body(bodies.REFRESH, lease.nonce, price_sat, lease.public_key)
    message = new_message(
        service=SERVICE,
        pubkey=lease.seller,
        body=body,
        amount_sat=postage_sat,
        expires_seconds=REQUEST_SECONDS,
        origin=Origin.CALLER,
    )
    wanted_msat = cost_msat(0, price_sat * 1000) + cost_msat(len(body), message.amount_msat)
    spent_msat = spent(now, cost_msat)
    if spent_msat + wanted_msat > settings.auto_renew_budget_sat * 1000:
        logger.info(
            "a VPN lease is not renewed: vpn.auto_renew.budget_sat",
            extra={"lease": str(lease.pk), "cost_msat": wanted_msat, "spent_msat": spent_msat},
        )
        return []
    buying.send_refresh(message, lease.nonce, str(price_sat), automatic_at=now)
    return [message]


def spent(now: datetime, cost_msat: CostMsat) -> int:
    """The msat that renewals have cost, or may, in the last 24 hours: prices, messages, and the fees of both."""
    since = now - BUDGET_WINDOW
    recent = Q(created_at__gt=since)
    # One that is paid and not told of goes on asking.
    made = list(Purchase.objects.filter(recent | Q(state=PurchaseState.PAID), automatic=True))
    messages = named(Direction.OUT, [key for purchase in made for key in _message_ids(purchase)])
    messages_msat = messages.filter(recent).aggregate(sum=Sum("cost_msat"))["sum"] or 0
    return messages_msat + _prices(made, since, cost_msat)


def _message_ids(purchase: Purchase) -> list[UUID]:
    """Of the refresh, and of the messages that asked for its lease."""
    asked = purchase.asked_again
    asks = range(max(0, asked - ASKS_IN_WINDOW) + 1, asked + 1)
    return [purchase.pk, *(buying.ask_id(purchase, number) for number in asks)]


def _prices(made: list[Purchase], since: datetime, cost_msat: CostMsat) -> int:
    hashes = [purchase.payment_hash for purchase in made if purchase.payment_hash]
    payments = InvoicePayment.objects.filter(payment_hash__in=hashes).values_list("payment_hash", "cost_msat")
    known = {bytes(payment_hash): cost for payment_hash, cost in payments}
    total_msat = 0
    for purchase in made:
        if purchase.created_at <= since:
            continue
        refused = purchase.state == PurchaseState.REFUSED
        reserved_msat = 0 if refused else cost_msat(0, purchase.price_sat * 1000)
        # One that was refused may have been paid all the same.
        total_msat += known.get(bytes(purchase.payment_hash or b""), reserved_msat)
    return total_msat
