"""Leases that this node has bought are renewed before their end, if the configuration says so and the tunnel is in use.

In use: the interface of the tunnel is on this machine, and its last handshake is a few minutes old at most (WireGuard
makes one every two minutes while packets pass). A tunnel that is brought up elsewhere cannot be seen from here, and is
not renewed.
"""

import logging
from datetime import datetime, timedelta

from django.db.models import Sum

from messaging.models import Message, Origin
from messaging.outgoing import new_message
from vpn import bodies, buying
from vpn.models import Purchase, PurchasedLease
from vpn.settings import SERVICE, VpnSettings
from vpn.states import BoughtState, PurchaseState
from vpn.wireguard import WireGuard, WireGuardError

logger = logging.getLogger(__name__)

IN_USE = timedelta(minutes=5)
# One try, and when it was refused another one after this long.
AGAIN = timedelta(minutes=2)
BUDGET_WINDOW = timedelta(hours=24)
REQUEST_SECONDS = 300


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
    if last.state == PurchaseState.REFUSED and last.created_at > now - AGAIN:
        return False
    return lease.expires_at - now <= timedelta(seconds=last.seconds / 2)


async def is_in_use(wireguard: WireGuard, lease: PurchasedLease, now: datetime) -> bool:
    try:
        interface = await wireguard.interface_of(lease.public_key)
        found = await wireguard.statistics(interface) if interface else {}
    except WireGuardError as error:
        logger.debug("no tunnel can be seen: %s", error)
        return False
    peer = found.get(lease.peering["server_pub_key"])
    return bool(peer and peer.latest_handshake and now - peer.latest_handshake <= IN_USE)


def renew(lease: PurchasedLease, now: datetime, settings: VpnSettings, postage_sat: int = 1) -> list[Message]:
    """As much time as was bought last, if the budget of renewals has room for it. Part of the caller's transaction."""
    lease = PurchasedLease.objects.get(pk=lease.pk)
    if lease.state == BoughtState.ENDED or not _is_due(lease, now):
        return []
    price_sat = Purchase.objects.filter(lease_id=lease.pk).latest("created_at").price_sat
    spent_sat = spent(now)
    if spent_sat + price_sat > settings.auto_renew_budget_sat:
        logger.info(
            "a VPN lease is not renewed: vpn.auto_renew.budget_sat",
            extra={"lease": str(lease.pk), "price_sat": price_sat, "spent_sat": spent_sat},
        )
        return []
    body = buying.asked_body(bodies.REFRESH, lease.nonce, price_sat, lease.public_key)
    message = new_message(
        service=SERVICE,
        pubkey=lease.seller,
        body=body,
        amount_sat=postage_sat,
        expires_seconds=REQUEST_SECONDS,
        origin=Origin.CALLER,
    )
    buying.send_refresh(message, lease.nonce, str(price_sat), automatic=True)
    return [message]


def spent(now: datetime) -> int:
    """Sat that renewals have cost, or may, in the last 24 hours."""
    made = Purchase.objects.filter(automatic=True, created_at__gt=now - BUDGET_WINDOW).exclude(
        state=PurchaseState.REFUSED
    )
    return made.aggregate(sum=Sum("price_sat"))["sum"] or 0
