"""The buyer's steps, each a part of the caller's transaction. Whatever a seller says is checked against what was agreed
before anything is paid; the buyer's worker (vpn/buyer.py) does what the rows ask for.
"""

import hashlib
import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, Min, OuterRef, Q, QuerySet, Sum
from django.utils import timezone

from invoices.services import payment_of
from messaging import metrics
from messaging.models import Event, Message, Origin
from messaging.registry import Reaction
from messaging.required import required
from messaging.times import rfc3339_seconds
from vpn import bodies, reliability, sealing, telling
from vpn.keys import KeyPair
from vpn.models import ClientKey, Purchase, PurchasedLease, ReceivedQuote, Term
from vpn.pricing import Prices, bought_seconds, check_price, parse_price
from vpn.settings import VpnSettings
from vpn.states import BoughtState, PurchaseState
from vpn.told_tunnel import accepted
from vpn.wgquick import parse_peering, peering_fields

logger = logging.getLogger("vpn.buying")

# If no `lease` came so long after the payment, the seller is asked for it; then after twice as long each time.
ASK_AGAIN_SECONDS = 30
LONGEST_ASK_SECONDS = 3_600
# Clocks of two nodes differ, and a lease begins when the payment is taken, a little before it is told.
SLACK = timedelta(seconds=120)
# Ends are told in whole seconds.
ROUNDING = timedelta(seconds=1)
# How long a contract or refresh may wait for its invoice: it is tried for ten minutes, and its answer for two.
NO_ANSWER = timedelta(minutes=15)
KEPT_QUOTES = timedelta(days=1)
# Without a word from the seller a lease is over so long after its end.
END_GRACE = timedelta(seconds=30)
EXPIRING_SECONDS = 300
OPEN_PURCHASES = (PurchaseState.INVOICED, PurchaseState.PAYING, PurchaseState.PAID)


class NotPossible(Exception):
    """`field` is what of the call is wrong, `str()` why; `invalid`: it will never be right."""

    def __init__(self, field: str, text: str, *, invalid: bool = False):
        super().__init__(text)
        self.field = field
        self.invalid = invalid


# what this node asks for


def ask_quote(message: Message) -> None:
    ReceivedQuote.objects.create(request_id=message.message_id, seller=message.pubkey)


def contract_of(seller: str, nonce: str, price: str) -> tuple[ReceivedQuote, int]:
    """The quote that a contract names, and its price in sat. Raises NotPossible."""
    quote = ReceivedQuote.objects.filter(seller=seller, nonce=nonce).first()
    if quote is None:
        raise NotPossible("nonce", "is of no quote that this node has had from this node", invalid=True)
    price_sat = _price_within(price, quote.min_price_sat, quote.max_price_sat)
    expires_at = required(quote.expires_at)
    if expires_at <= timezone.now():
        raise NotPossible("nonce", f"its quote held until {rfc3339_seconds(expires_at)}: ask for another")
    used = Purchase.objects.filter(seller=seller, nonce=nonce).exclude(state=PurchaseState.REFUSED)
    if used.exists():
        raise NotPossible("nonce", "was used for a contract before: ask for another quote")
    return quote, price_sat


def send_contract(message: Message, nonce: str, price: str, keys: KeyPair) -> None:
    """Before `message` is stored. Raises NotPossible."""
    quote, price_sat = contract_of(message.pubkey, nonce, price)
    _store_purchase(
        message, Term.Kind.CONTRACT, message.message_id, nonce, price_sat, quote.price_sat, keys.public
    )
    ClientKey.objects.create(contract_id=message.message_id, sealed=sealing.seal(keys.private))
    reliability.trust(message.pubkey)


def refresh_of(seller: str, nonce: str, price: str) -> tuple[PurchasedLease, int]:
    """The lease that a refresh names, and its price in sat. Raises NotPossible."""
    lease = PurchasedLease.objects.filter(seller=seller, nonce=nonce).first()
    if lease is None:
        raise NotPossible("nonce", "is of no lease that this node has bought from this node", invalid=True)
    if lease.state == BoughtState.ENDED:
        raise NotPossible("nonce", "its lease is over: ask for a quote")
    try:
        return lease, parse_price(price)
    except ValueError as error:
        raise NotPossible("price", str(error), invalid=True) from None


def send_refresh(message: Message, nonce: str, price: str, *, automatic_at: datetime | None = None) -> None:
    """Before `message` is stored. `automatic_at` is now for a renewal that nobody asked for. Raises NotPossible."""
    lease, price_sat = refresh_of(message.pubkey, nonce, price)
    _store_purchase(
        message,
        Term.Kind.REFRESH,
        lease.pk,
        nonce,
        price_sat,
        lease.price_sat,
        lease.public_key,
        ended_before=lease.expires_at,
        automatic=automatic_at is not None,
        created_at=automatic_at or timezone.now(),
    )
    if automatic_at is None:
        reliability.trust(message.pubkey)


def asked_body(type: str, nonce: str, price_sat: int, public_key: str) -> bytes:
    return bodies.encode(type, nonce=nonce, price=str(price_sat), pubkey=public_key)


def _price_within(price: str, min_sat: int, max_sat: int) -> int:
    try:
        return check_price(price, Prices(min_sat, max_sat))
    except ValueError as error:
        raise NotPossible("price", str(error), invalid=True) from None


def _store_purchase(
    message: Message,
    kind: Term.Kind,
    lease_id: UUID,
    nonce: str,
    price_sat: int,
    hourly_sat: int,
    public_key: str,
    **fields: Any,
) -> None:
    Purchase.objects.create(
        id=message.message_id,
        kind=kind,
        seller=message.pubkey,
        lease_id=lease_id,
        nonce=nonce,
        price_sat=price_sat,
        hourly_price_sat=hourly_sat,
        seconds=bought_seconds(price_sat * 1000, hourly_sat),
        public_key=public_key,
        **fields,
    )


# what the seller tells


def quote_received(message: Message, body: dict[str, Any], settings: VpnSettings) -> Reaction:
    request_id = message.reply_to
    if request_id is None:
        return Reaction(dropped="quote_unasked")
    asked = ReceivedQuote.objects.filter(request_id=request_id, seller=message.pubkey, nonce="").first()
    if asked is None:
        return Reaction(dropped="quote_unasked")
    if ReceivedQuote.objects.filter(seller=message.pubkey, nonce=body["nonce"]).exists():
        return Reaction(dropped="nonce_again")
    try:
        asked.price_sat, asked.min_price_sat, asked.max_price_sat = (
            parse_price(body[name]) for name in ("price", "min_price", "max_price")
        )
    except ValueError:
        return Reaction(dropped="bad_price")
    asked.nonce, asked.expires_at = body["nonce"], body["expires_at"]
    asked.save()
    told = {name: body[name] for name in ("nonce", "price", "min_price", "max_price", "expires_at")}
    return Reaction(
        events=[telling.event(bodies.QUOTE, request_id, received=message, pubkey=message.pubkey, **told)]
    )


def invoice_received(message: Message, body: dict[str, Any], settings: VpnSettings) -> Reaction:
    purchase = _purchase(message)
    if purchase is None or purchase.state != PurchaseState.ASKED:
        return Reaction(dropped="invoice_unasked")
    if body["seconds"] is not None and body["seconds"] < purchase.seconds:
        text = (
            f"the invoice is for {body['seconds']} seconds; {purchase.price_sat} sat buy {purchase.seconds}"
        )
        return Reaction(events=[required(refuse(purchase, reliability.LESS_TIME, text))])
    purchase.payment_request, purchase.state = body["payment_request"], PurchaseState.INVOICED
    purchase.save()
    transaction.on_commit(settings.buying.ring)
    return Reaction()


def lease_received(message: Message, body: dict[str, Any], settings: VpnSettings) -> Reaction:
    purchase = Purchase.objects.filter(
        seller=message.pubkey, payment_hash=bytes.fromhex(body["payment_hash"])
    ).first()
    if purchase is None or purchase.lease_id != body["id"]:
        return Reaction(dropped="lease_unasked")
    if purchase.state != PurchaseState.DONE and purchase.state not in OPEN_PURCHASES:
        return Reaction(dropped="lease_unasked")
    try:
        fields, left_out = _tunnel(body, settings)
    except ValueError as error:
        text = f"the seller's lease cannot be used: {error}"
        if purchase.state == PurchaseState.DONE:
            reliability.distrust(
                purchase.seller, reliability.UNUSABLE_LEASE, text, lease_id=purchase.lease_id
            )
            return Reaction(dropped="unusable_lease")
        return Reaction(events=[_note(purchase, reliability.UNUSABLE_LEASE, text)])
    if purchase.state == PurchaseState.DONE:
        return _told_again(message, body, fields, left_out)
    lease = PurchasedLease.objects.filter(pk=purchase.lease_id).first()
    if purchase.kind == Term.Kind.REFRESH and (lease is None or lease.state == BoughtState.ENDED):
        _finish(purchase)
        return Reaction(dropped="lease_over")
    ends = body["expires_at"]
    if lease is None:
        lease = PurchasedLease(
            pk=purchase.pk,
            seller=purchase.seller,
            nonce=purchase.nonce,
            price_sat=purchase.hourly_price_sat,
            public_key=purchase.public_key,
            peering=fields,
            path=f"{settings.base_url}/v1/vpn/leases/{purchase.pk}/config",
        )
    else:
        # Refreshes may be told in another order than they were paid in: the furthest end holds.
        ends = max(ends, lease.expires_at)
    lease.expires_at, lease.state = ends, BoughtState.ACTIVE
    lease.save()
    _finish(purchase)
    transaction.on_commit(
        partial(metrics.count_vpn, "bought", purchase.kind, purchase.price_sat), robust=True
    )
    told = [_lease_event(lease, purchase.pk, message, body, left_out)]
    if body["seconds"] < purchase.seconds or ends < _least_end(lease) or not has_moved(lease, purchase):
        text = f"the seller gives less time than was paid for: until {rfc3339_seconds(ends)}"
        told.append(_note(purchase, reliability.LESS_TIME, text))
    return Reaction(events=told)


def _has_paid(lease: PurchasedLease) -> bool:
    return _paid_for(lease).exists()


def _paid_for(lease: PurchasedLease) -> QuerySet[Purchase]:
    return Purchase.objects.filter(lease_id=lease.pk, state=PurchaseState.DONE)


def _least_end(lease: PurchasedLease) -> datetime:
    """By all that was paid for it and told of."""
    sums = _paid_for(lease).aggregate(began=Min("created_at"), seconds=Sum("seconds"))
    return _later(sums["began"], sums["seconds"]) - SLACK


def has_moved(lease: PurchasedLease, purchase: Purchase) -> bool:
    """Whether the lease's end has moved, since the refresh was asked for, by what it buys."""
    if purchase.ended_before is None:
        return True
    return lease.expires_at >= _later(purchase.ended_before, purchase.seconds) - ROUNDING


def _tunnel(body: dict[str, Any], settings: VpnSettings) -> tuple[dict[str, Any], list[str]]:
    """The fields of the tunnel that go into the file, and what was left out. ValueError where it cannot be used."""
    told = parse_peering({name: body[name] for name in bodies.PEERING})
    peering, left_out = accepted(told, private=settings.private_networks)
    return peering_fields(peering), left_out


def _told_again(
    message: Message, body: dict[str, Any], fields: dict[str, Any], left_out: list[str]
) -> Reaction:
    """The same lease again: news only if its end has moved on, as when the seller's operator extends it, or if the
    tunnel is found elsewhere now.
    """
    lease = PurchasedLease.objects.filter(pk=body["id"], expires_at__lte=body["expires_at"]).first()
    if lease is None or lease.state == BoughtState.ENDED:
        return Reaction(dropped="lease_known")
    if (lease.expires_at, lease.peering) == (body["expires_at"], fields):
        return Reaction(dropped="lease_known")
    if lease.expires_at < body["expires_at"]:
        lease.state = BoughtState.ACTIVE
    lease.expires_at, lease.peering = body["expires_at"], fields
    lease.save()
    return Reaction(events=[_lease_event(lease, message.message_id, message, body, left_out)])


def _lease_event(
    lease: PurchasedLease, message_id: UUID, message: Message, body: dict[str, Any], left_out: list[str]
) -> Event:
    if left_out:
        logger.warning(
            "a seller's tunnel names networks that are not public: they are left out",
            extra={"lease": str(lease.pk), "left_out": len(left_out)},
        )
    return telling.event(
        bodies.LEASE,
        message_id,
        received=message,
        id=lease.pk,
        pubkey=lease.seller,
        **lease.peering,
        expires_at=lease.expires_at,
        seconds=body["seconds"],
        payment_hash=body["payment_hash"],
        path=lease.path,
        **({"left_out": left_out} if left_out else {}),
    )


def refusal_received(message: Message, body: dict[str, Any], settings: VpnSettings) -> Reaction:
    told = {"reason": body["reason"], "text": body["text"], "pubkey": message.pubkey}
    purchase = _purchase(message)
    if purchase is None:
        request_id = message.reply_to
        if (
            request_id is None
            or not ReceivedQuote.objects.filter(
                request_id=request_id, seller=message.pubkey, nonce=""
            ).exists()
        ):
            return Reaction(dropped="refusal_unasked")
        return Reaction(events=[telling.event(bodies.REFUSAL, request_id, received=message, **told)])
    if purchase.state in (PurchaseState.REFUSED, PurchaseState.DONE) or purchase.cause:
        return Reaction(dropped="refusal_known")
    purchase.cause = f"{body['reason']}: {body['text']}"[:500]
    # Of a payment that is under way lnd tells the end.
    if purchase.state in (PurchaseState.ASKED, PurchaseState.INVOICED):
        _give_up(purchase)
    purchase.save()
    return Reaction(events=[telling.event(bodies.REFUSAL, purchase.pk, received=message, **told)])


def expiring_received(message: Message, body: dict[str, Any], settings: VpnSettings) -> Reaction:
    lease = PurchasedLease.objects.filter(
        pk=body["id"], seller=message.pubkey, state=BoughtState.ACTIVE
    ).first()
    if lease is None:
        return Reaction(dropped="no_such_lease")
    if body["expires_at"] < lease.expires_at:
        return Reaction(dropped="was_prolonged")
    lease.state = BoughtState.EXPIRING
    lease.save()
    return Reaction(events=[_end_event(bodies.EXPIRING, lease, message)])


def ended_received(message: Message, body: dict[str, Any], settings: VpnSettings) -> Reaction:
    lease = (
        PurchasedLease.objects.filter(pk=body["id"], seller=message.pubkey)
        .exclude(state=BoughtState.ENDED)
        .first()
    )
    if lease is None:
        return Reaction(dropped="no_such_lease")
    if _has_paid(lease) and timezone.now() < min(lease.expires_at, _least_end(lease)):
        text = f"the seller ended a lease that was paid for until {rfc3339_seconds(lease.expires_at)}"
        reliability.distrust(lease.seller, reliability.ENDED_EARLY, text, lease_id=lease.pk)
    return Reaction(events=[end(lease, received=message)])


def undelivered(message: Message, cause: str) -> list[Event]:
    """The seller will never know of a contract or refresh of ours: the stream tells so as of any message."""
    purchase = Purchase.objects.filter(pk=message.message_id, state=PurchaseState.ASKED).first()
    if purchase:
        purchase.cause = f"not delivered: {cause}"[:500]
        _give_up(purchase)
        purchase.save()
    return []


# what becomes of the payment, and of time


def pay(purchase: Purchase, payment_hash: bytes) -> Event | None:
    """It is to be paid from here on, unless the hash is that of another purchase, or the lease is over."""
    if purchase.kind == Term.Kind.REFRESH and not _runs(purchase.lease_id):
        return refuse(purchase, "lease_over", "the lease had ended before the refresh was paid")
    if Purchase.objects.filter(payment_hash=payment_hash).exclude(pk=purchase.pk).exists():
        return refuse(purchase, "invoice", "the invoice has the payment hash of another one")
    purchase.payment_hash, purchase.state = payment_hash, PurchaseState.PAYING
    purchase.save()
    return None


def paid(purchase: Purchase, now: datetime) -> None:
    purchase.state, purchase.ask_again_at = PurchaseState.PAID, now + timedelta(seconds=ASK_AGAIN_SECONDS)
    purchase.save()


def refuse(purchase: Purchase, reason: str, text: str) -> Event | None:
    """This node does not go on with it, or cannot; nothing was paid. None when the stream has told why already."""
    known = bool(purchase.cause)
    _judge(purchase, reason, text)
    purchase.cause = purchase.cause or f"{reason}: {text}"[:500]
    _give_up(purchase)
    purchase.save()
    if known:
        return None
    return telling.event(
        bodies.REFUSAL,
        purchase.pk,
        reason=reason,
        text=text[: bodies.MAX_TEXT_CHARACTERS],
        pubkey=purchase.seller,
    )


def ask_again(purchase: Purchase, now: datetime, postage_sat: int = 1) -> Message | Event:
    """The seller is asked for the lease, for as long as it can last."""
    if now >= _latest_end(purchase) + END_GRACE:
        told = _note(purchase, reliability.NO_LEASE, "it was paid, and the seller never told of the lease")
        _give_up(purchase)
        purchase.save()
        return told
    purchase.asked_again += 1
    message_id = ask_id(purchase, purchase.asked_again)
    pause = min(ASK_AGAIN_SECONDS * 2 ** min(purchase.asked_again, 10), LONGEST_ASK_SECONDS)
    purchase.ask_again_at = now + timedelta(seconds=pause)
    purchase.save()
    asking = telling.message(
        bodies.LEASE_REQUEST, purchase.seller, message_id=message_id, for_seconds=pause, id=purchase.pk
    )
    asking.origin, asking.amount_msat = Origin.CALLER, postage_sat * 1000
    return asking


def ask_id(purchase: Purchase, number: int) -> UUID:
    """The id of the message that asks for the lease that many times: what it has cost is found by it."""
    digest = hashlib.sha256(
        purchase.pk.bytes + bytes(purchase.payment_hash or b"") + number.to_bytes(4, "big")
    )
    return UUID(bytes=digest.digest()[:16], version=4)


def _latest_end(purchase: Purchase) -> datetime:
    """When a lease that was paid for, and not told of, is over whatever its seller does."""
    if purchase.kind == Term.Kind.REFRESH:
        lease = PurchasedLease.objects.filter(pk=purchase.lease_id).exclude(state=BoughtState.ENDED).first()
        begins = lease.expires_at if lease else purchase.created_at
    else:
        # Its time runs from the settlement: a seller may have held the money for long.
        payment = payment_of(bytes(required(purchase.payment_hash)))
        begins = (
            max(purchase.created_at, payment.ended_at)
            if payment and payment.ended_at
            else purchase.created_at
        )
    return _later(begins, purchase.seconds)


def pass_time(now: datetime) -> list[Event]:
    """Ends what is over and what nobody told the end of, and gives up what is not answered."""
    told: list[Event | None] = []
    for lease in _over(now):
        told.append(end(lease))
    for purchase in _unanswered(now):
        told.append(refuse(purchase, "no_answer", "the seller did not answer with an invoice"))
    return [event for event in told if event]


def is_any_due(now: datetime) -> bool:
    return _over(now).exists() or _unanswered(now).exists()


def _unanswered(now: datetime) -> QuerySet[Purchase]:
    return Purchase.objects.filter(state=PurchaseState.ASKED, created_at__lte=now - NO_ANSWER)


def _over(now: datetime) -> QuerySet[PurchasedLease]:
    """But for those that a payment which is under way or was not answered yet prolongs, as it does at the seller."""
    prolonging = Purchase.objects.filter(
        lease_id=OuterRef("pk"), state__in=(PurchaseState.PAYING, PurchaseState.PAID)
    )
    over = PurchasedLease.objects.filter(expires_at__lte=now - END_GRACE).exclude(state=BoughtState.ENDED)
    return over.exclude(Exists(prolonging))


def _runs(lease_id: UUID) -> bool:
    return PurchasedLease.objects.filter(pk=lease_id).exclude(state=BoughtState.ENDED).exists()


def forget_old_quotes() -> None:
    """Those that hold no more; contracts have what they need of them."""
    before = timezone.now() - KEPT_QUOTES
    ReceivedQuote.objects.filter(created_at__lt=before).filter(
        Q(expires_at=None) | Q(expires_at__lt=before)
    ).delete()


def end(lease: PurchasedLease, *, received: Message | None = None) -> Event:
    lease.state = BoughtState.ENDED
    lease.save()
    ClientKey.objects.filter(pk=lease.pk).delete()
    return _end_event(bodies.ENDED, lease, received)


def _purchase(message: Message) -> Purchase | None:
    return (
        Purchase.objects.filter(pk=message.reply_to, seller=message.pubkey).first()
        if message.reply_to
        else None
    )


def _finish(purchase: Purchase) -> None:
    purchase.state, purchase.ask_again_at = PurchaseState.DONE, None
    purchase.save()


def _give_up(purchase: Purchase) -> None:
    purchase.state, purchase.ask_again_at = PurchaseState.REFUSED, None
    if purchase.kind == Term.Kind.CONTRACT:
        ClientKey.objects.filter(pk=purchase.pk).delete()


def _later(moment: datetime, seconds: int) -> datetime:
    """Never beyond the last dates that there are: sellers name the ends of leases, and what is added must not fail."""
    furthest = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
    if moment >= furthest:
        return furthest
    return moment + timedelta(seconds=min(seconds, int((furthest - moment).total_seconds())))


def _note(purchase: Purchase, reason: str, text: str) -> Event:
    """Told, although it was paid."""
    _judge(purchase, reason, text)
    purchase.cause = f"{reason}: {text}"[:500]
    purchase.save()
    return telling.event(
        bodies.REFUSAL,
        purchase.pk,
        reason=reason,
        text=text[: bodies.MAX_TEXT_CHARACTERS],
        pubkey=purchase.seller,
    )


def _judge(purchase: Purchase, reason: str, text: str) -> None:
    if reason in reliability.BROKEN:
        reliability.distrust(purchase.seller, reason, text, lease_id=purchase.lease_id)


def _end_event(type: str, lease: PurchasedLease, received: Message | None) -> Event:
    return telling.event(
        type,
        received.message_id if received else lease.pk,
        received=received,
        id=lease.pk,
        pubkey=lease.seller,
        expires_at=lease.expires_at,
    )
