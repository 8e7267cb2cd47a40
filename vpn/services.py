"""What can be asked of the VPN. Reads are synchronous; asking goes through the outbox."""

import io
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import segno
from cryptography.fernet import InvalidToken
from django.db.models import QuerySet
from django.utils import timezone

from messaging.database import Database
from messaging.idempotency import Claim
from messaging.models import Message, Origin
from messaging.outbox import Outbox
from messaging.outgoing import new_message
from messaging.required import required
from messaging.times import rfc3339_seconds
from vpn import bodies, buying, sealing
from vpn.accounts import paid_of_bought, paid_of_sold
from vpn.keys import new_key_pair
from vpn.models import ClientKey, Lease, PurchasedLease
from vpn.settings import SERVICE
from vpn.states import OVER, RUNNING, BoughtState, LeaseState, Role
from vpn.wgquick import parse_peering, render

ALL = "all"
TEXT, SVG = "text/plain; charset=utf-8", "image/svg+xml"
# A quote that comes later has expired.
REQUEST_SECONDS = 600


class NoFile(Exception):
    """`str()` says why there is none."""


async def quote_request(*, outbox: Outbox, pubkey: str, claim: Claim | None) -> UUID:
    """The id of the request, once it is committed. Raises KeyReused and OverBudget."""
    message = await _request(outbox, pubkey, bodies.encode(bodies.QUOTE_REQUEST))
    return await _send(outbox, message, partial(buying.ask_quote, message), claim)


async def contract_accept(
    *, outbox: Outbox, database: Database, pubkey: str, nonce: str, price: str, claim: Claim | None
) -> UUID:
    """The id of the contract, and of the lease that comes of it. Raises NotPossible, KeyReused and OverBudget."""
    _, price_sat = await database.read(partial(buying.contract_of, pubkey, nonce, price))
    keys = new_key_pair()
    body = buying.asked_body(bodies.CONTRACT, nonce, price_sat, keys.public)
    message = await _request(outbox, pubkey, body)
    return await _send(outbox, message, partial(buying.send_contract, message, nonce, price, keys), claim)


async def contract_refresh(
    *, outbox: Outbox, database: Database, pubkey: str, nonce: str, price: str, claim: Claim | None
) -> UUID:
    """The id of the refresh. Raises NotPossible, KeyReused and OverBudget."""
    lease, price_sat = await database.read(partial(buying.refresh_of, pubkey, nonce, price))
    body = buying.asked_body(bodies.REFRESH, nonce, price_sat, lease.public_key)
    message = await _request(outbox, pubkey, body)
    return await _send(outbox, message, partial(buying.send_refresh, message, nonce, price), claim)


async def _request(outbox: Outbox, pubkey: str, body: bytes) -> Message:
    """It carries what the answer costs."""
    return new_message(
        service=SERVICE,
        pubkey=pubkey,
        body=body,
        amount_sat=await outbox.ways.postage_sat(pubkey, SERVICE),
        expires_seconds=REQUEST_SECONDS,
        origin=Origin.CALLER,
    )


async def _send(outbox: Outbox, message: Message, step: Callable[[], None], claim: Claim | None) -> UUID:
    return (await outbox.accept_all([message], claim=claim, step=step))[0]


def lease_list(*, state: str = "", pubkey: str = "", role: str = "", limit: int) -> list[dict[str, Any]]:
    """The leases that this node has bought, or has `sold`, or `all`: those that run, or `ended`, or `all`; the newest
    first.
    """
    lists: dict[Role, Callable[[str, str], QuerySet[Any]]] = {Role.BOUGHT: _bought, Role.SOLD: _sold}
    roles = list(lists) if role == ALL else [Role(role or Role.BOUGHT)]
    leases: list[PurchasedLease | Lease] = [
        lease for one in roles for lease in lists[one](state, pubkey)[:limit]
    ]
    now = timezone.now()
    newest = sorted(leases, key=lambda lease: lease.created_at, reverse=True)[:limit]
    bought = paid_of_bought([lease.pk for lease in newest if isinstance(lease, PurchasedLease)])
    sold = paid_of_sold([lease.pk for lease in newest if isinstance(lease, Lease)])
    return [
        _shown(lease, now) | bought[lease.pk].fields()
        if isinstance(lease, PurchasedLease)
        else _shown_sold(lease, now) | sold[lease.pk].fields()
        for lease in newest
    ]


def _bought(state: str, pubkey: str) -> QuerySet[PurchasedLease]:
    leases = PurchasedLease.objects.order_by("-created_at", "pk")
    if state and state != ALL:
        leases = leases.filter(state=state)
    elif not state:
        leases = leases.exclude(state=BoughtState.ENDED)
    return leases.filter(seller=pubkey) if pubkey else leases


def _sold(state: str, pubkey: str) -> QuerySet[Lease]:
    """Those that were paid for."""
    states = {"": RUNNING, ALL: (*RUNNING, *OVER), BoughtState.ENDED: OVER}.get(state, (state,))
    leases = Lease.objects.filter(state__in=states).order_by("-created_at", "-pk")
    return leases.filter(buyer=pubkey) if pubkey else leases


def _shown_sold(lease: Lease, now: datetime) -> dict[str, Any]:
    """Of the server's side there is nothing to tell: it is this node's own."""
    runs, expires_at = lease.state in RUNNING, required(lease.expires_at)
    return {
        "role": Role.SOLD.value,
        "id": str(lease.contract_id),
        "pubkey": lease.buyer,
        "price": str(lease.price_sat),
        "state": LeaseState(lease.state).value if runs else BoughtState.ENDED.value,
        "address": lease.addresses,
        "public_key": lease.wg_key,
        "expires_at": rfc3339_seconds(expires_at),
        "seconds_left": max(0, int((expires_at - now).total_seconds())) if runs else 0,
    }


def _shown(lease: PurchasedLease, now: datetime) -> dict[str, Any]:
    left = 0 if lease.state == BoughtState.ENDED else max(0, int((lease.expires_at - now).total_seconds()))
    return {
        "role": Role.BOUGHT.value,
        "id": str(lease.pk),
        "pubkey": lease.seller,
        "nonce": lease.nonce,
        "price": str(lease.price_sat),
        "state": BoughtState(lease.state).value,
        "address": lease.peering["address"],
        "endpoint": lease.peering["endpoint"],
        "server_pub_key": lease.peering["server_pub_key"],
        "public_key": lease.public_key,
        "expires_at": rfc3339_seconds(lease.expires_at),
        "seconds_left": left,
        "path": lease.path if lease.state != BoughtState.ENDED else "",
    }


def lease_file(*, lease_id: UUID) -> str:
    """The finished wg-quick file. Raises NoFile."""
    lease = PurchasedLease.objects.filter(pk=lease_id).first()
    if lease is None:
        raise NoFile(f"there is no lease {lease_id}")
    key = ClientKey.objects.filter(pk=lease_id).first()
    if key is None:
        raise NoFile("the lease is over, and its key was forgotten")
    try:
        private = sealing.unseal(key.sealed)
    except InvalidToken:
        raise NoFile(
            "its key was sealed under another secret: the file beside the database was exchanged"
        ) from None
    return render(parse_peering(lease.peering), private)


def as_qr(text: str) -> str:
    """An SVG image that the WireGuard apps read from a screen."""
    image = io.BytesIO()
    segno.make(text, error="m", micro=False).save(image, kind="svg", scale=4)
    return image.getvalue().decode()
