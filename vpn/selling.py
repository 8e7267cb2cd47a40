"""The seller's steps, each a part of the caller's transaction. No step speaks to lnd or to WireGuard: they only write
rows, and the seller's worker (vpn/seller.py) does what the rows ask for.
"""

import hashlib
import ipaddress
import secrets
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Exists, Min, OuterRef, QuerySet, Sum
from django.utils import timezone

from messaging import metrics, peers
from messaging.answers import paid_from, pay_in
from messaging.models import Event, Message
from messaging.registry import Reaction
from messaging.required import required
from messaging.times import rfc3339_seconds
from messaging.transitions import require_way
from vpn import addresses, bodies, telling
from vpn.keys import check_public_key
from vpn.models import Answered, Lease, LeaseStep, Quote, Shop, Term
from vpn.pool import Address, Network
from vpn.pricing import Prices, bought_seconds, check_price
from vpn.settings import KEEPALIVE_SECONDS, VpnSettings
from vpn.states import (
    LEASE_WAYS,
    OPEN_TERMS,
    PEERED,
    RUNNING,
    TERM_WAYS,
    UNDECIDED,
    LeaseState,
    TermState,
)
from vpn.wgquick import Peering, peering_fields

INVOICE_SECONDS = 120
FINAL_CLTV_BLOCKS = 80
MINUTE = timedelta(minutes=1)
# Keys cost nothing, so what one buyer may do is bounded for all of them together too, and half of that is kept for known
# peers: contracts and refreshes of all buyers that wait for their payment, and how many times as much as one of them all
# may ask for in a minute.
MAX_UNPAID = 1_000
ALL_BUYERS = 10
CLOSED = "closed"
# However often it is refreshed, no lease ends later than this.
FURTHEST_END = timedelta(days=10 * 366)
# What this machine's clock and that of lnd may differ by.
CLOCK_SLACK = timedelta(seconds=60)
WARN_SECONDS, WARN_SHARE = 300, 0.1


class Refused(Exception):
    """`reason` is a word for the other node's program, `str()` a sentence for its people."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


# what buyers ask for


def quote_requested(message: Message, body: dict[str, Any], settings: VpnSettings) -> Reaction:
    _require_open(settings)
    now = timezone.now()
    if _asked_too_often(Quote, message.pubkey, now, settings):
        raise Refused("too_many", f"at most {settings.quotes_per_minute} quotes a minute; try again later")
    prices = settings.bounds(settings.price_sat)
    quote = Quote.objects.create(
        nonce=secrets.token_hex(16),
        buyer=message.pubkey,
        price_sat=settings.price_sat,
        min_price_sat=prices.min_sat,
        max_price_sat=prices.max_sat,
        created_at=now,
        expires_at=(now + timedelta(seconds=settings.quote_seconds)).replace(microsecond=0),
    )
    answer = telling.message(
        bodies.QUOTE,
        message.pubkey,
        reply_to=message.message_id,
        for_seconds=settings.quote_seconds,
        nonce=quote.nonce,
        price=str(quote.price_sat),
        min_price=str(quote.min_price_sat),
        max_price=str(quote.max_price_sat),
        expires_at=quote.expires_at,
    )
    return Reaction(answers=[answer])


def contract_received(message: Message, body: dict[str, Any], settings: VpnSettings) -> Reaction:
    _require_open(settings)
    quote = _usable_quote(body["nonce"], message.pubkey)
    price_sat = _checked_price(body["price"], quote.min_price_sat, quote.max_price_sat)
    wg_key = _checked_key(body["pubkey"], settings)
    if not addresses.any_free(settings.pool):
        raise Refused("full", "no address is free now; try again later")
    _require_few_unpaid(message.pubkey, settings)
    if not Quote.objects.filter(pk=quote.pk, used_at=None).update(used_at=timezone.now()):
        raise Refused("used", "this quote was used")
    _make_room(message.pubkey)
    lease = Lease(
        contract_id=message.message_id,
        buyer=message.pubkey,
        nonce=quote.nonce,
        wg_key=wg_key,
        price_sat=quote.price_sat,
    )
    move(lease, LeaseState.CONTRACTED, f"contract over {price_sat} sat")
    _want_payment(lease, Term.Kind.CONTRACT, message, price_sat, settings)
    return Reaction()


def refresh_received(message: Message, body: dict[str, Any], settings: VpnSettings) -> Reaction:
    lease = Lease.objects.filter(nonce=body["nonce"], buyer=message.pubkey, state__in=RUNNING).first()
    if lease is None:
        raise Refused("unknown_lease", "no lease of yours that runs has this nonce")
    if body["pubkey"] != lease.wg_key:
        raise Refused("key", "the lease has another key")
    try:
        prices = settings.bounds(lease.price_sat)
    except ValueError:
        raise Refused("price", "no payment prolongs this lease any more") from None
    price_sat = _checked_price(body["price"], prices.min_sat, prices.max_sat)
    seconds = bought_seconds(price_sat * 1000, lease.price_sat)
    if required(lease.expires_at) + timedelta(seconds=seconds) > timezone.now() + FURTHEST_END:
        raise Refused("too_long", "the lease would last too long")
    if lease.terms.filter(state__in=OPEN_TERMS).count() >= settings.quotes_per_minute:
        raise Refused("busy", "too many refreshes of this lease wait for their payment")
    if _waiting_refreshes(message.pubkey) >= _share_of(message.pubkey, MAX_UNPAID):
        raise Refused("busy", "too many refreshes wait for their payment")
    _want_payment(lease, Term.Kind.REFRESH, message, price_sat, settings)
    return Reaction()


def lease_requested(message: Message, body: dict[str, Any], settings: VpnSettings) -> Reaction:
    """The same `lease` again, to the contract's sender alone, until its end."""
    term = Term.objects.select_related("lease").filter(buyer=message.pubkey, contract_id=body["id"]).first()
    if term is None or (term.state == TermState.SETTLED and term.lease.state not in RUNNING):
        raise Refused("unknown_lease", "no lease of yours that runs has this id")
    if term.state in (TermState.CANCELING, TermState.CANCELED):
        raise Refused("canceled", term.cause or "it was canceled")
    if term.state != TermState.SETTLED:
        return Reaction(dropped="lease_not_paid")
    _count_answer(message.pubkey, settings)
    return Reaction(answers=[lease_message(term, settings, reply_to=message.message_id)])


def refusal(message: Message, refused: Refused, settings: VpnSettings) -> Reaction:
    try:
        _count_answer(message.pubkey, settings)
    except Refused:
        return Reaction(dropped="flood")
    answer = telling.message(
        bodies.REFUSAL,
        message.pubkey,
        reply_to=message.message_id,
        for_seconds=600,
        reason=refused.reason,
        text=str(refused),
    )
    return Reaction(answers=[answer])


def _count_answer(buyer: str, settings: VpnSettings) -> None:
    """Keys cost nothing but the payment; each answer costs this node as much. Raises Refused beyond the limit."""
    if _asked_too_often(Answered, buyer, timezone.now(), settings):
        raise Refused("too_many", "too many requests; try again later")
    Answered.objects.create(buyer=buyer)


def _asked_too_often(model: type[Quote | Answered], buyer: str, now: datetime, settings: VpnSettings) -> bool:
    """What is of the future was given while the clock was wrong, and would count for years."""
    lately = model.objects.filter(created_at__gt=now - MINUTE, created_at__lte=now)
    if lately.filter(buyer=buyer).count() >= settings.quotes_per_minute:
        return True
    most = ALL_BUYERS * settings.quotes_per_minute
    if lately.count() >= most:
        return True
    return not peers.are_known([buyer]) and peers.of_strangers(lately, "buyer").count() >= most // 2


def _share_of(buyer: str, most: int) -> int:
    return most if peers.are_known([buyer]) else most // 2


def _waiting_refreshes(buyer: str) -> int:
    """Of all buyers or, for a stranger, of all strangers."""
    waiting = Term.objects.filter(kind=Term.Kind.REFRESH, state__in=OPEN_TERMS)
    return (waiting if peers.are_known([buyer]) else peers.of_strangers(waiting, "buyer")).count()


def _require_open(settings: VpnSettings) -> None:
    shop = Shop.objects.filter(pk=1).first()
    if shop is None or not shop.interface or shop.problem or settings.price_problem:
        raise Refused(CLOSED, "this node sells no VPN now")


def _usable_quote(nonce: str, buyer: str) -> Quote:
    quote = Quote.objects.filter(nonce=nonce, buyer=buyer).first()
    if quote is None:
        raise Refused("unknown_nonce", "no quote to you has this nonce")
    if quote.used_at:
        raise Refused("used", "this quote was used; ask for another")
    if quote.expires_at <= timezone.now():
        raise Refused(
            "expired", f"this quote held until {rfc3339_seconds(quote.expires_at)}; ask for another"
        )
    return quote


def _require_few_unpaid(buyer: str, settings: VpnSettings) -> None:
    """Each costs this node an invoice of lnd and a stream that follows it, and the buyer next to nothing."""
    if Lease.objects.filter(state=LeaseState.CONTRACTED, buyer=buyer).count() >= settings.quotes_per_minute:
        raise Refused(
            "busy", f"at most {settings.quotes_per_minute} contracts of yours may wait for their payment"
        )


def _make_room(buyer: str) -> None:
    """Nobody keeps others from buying by contracts that are not paid: the oldest of who has the most gives way, and
    strangers' before those of known peers.
    """
    unpaid = Lease.objects.filter(state=LeaseState.CONTRACTED)
    strangers = peers.of_strangers(unpaid, "buyer")
    if unpaid.count() < MAX_UNPAID and (strangers.count() < MAX_UNPAID // 2 or peers.are_known([buyer])):
        return
    if strangers.exists():
        unpaid = strangers
    by_buyer = unpaid.values("buyer").annotate(contracts=Count("pk"), oldest=Min("pk"))
    greediest = required(by_buyer.order_by("-contracts", "oldest").first())
    term = Term.objects.select_related("lease").get(lease_id=greediest["oldest"], kind=Term.Kind.CONTRACT)
    give_back(term, "it was not paid, and gave way to another contract")


def _checked_price(text: str, min_sat: int, max_sat: int) -> int:
    try:
        return check_price(text, Prices(min_sat, max_sat))
    except ValueError as error:
        raise Refused("price", f"price {error}") from None


def _checked_key(text: str, settings: VpnSettings) -> str:
    try:
        check_public_key(text, own=settings.server_pub_key)
    except ValueError as error:
        raise Refused("key", f"pubkey {error}"[:200]) from None
    if is_taken(text):
        raise Refused("key", "pubkey has another lease here; use another key")
    return text


def is_taken(wg_key: str) -> bool:
    """Held by another lease, or by a peer that the operator added."""
    shop = Shop.objects.filter(pk=1).first()
    return Lease.objects.filter(wg_key=wg_key, holds_key=True).exists() or (
        shop is not None and wg_key in shop.foreign
    )


def _want_payment(
    lease: Lease, kind: Term.Kind, message: Message, price_sat: int, settings: VpnSettings
) -> None:
    preimage = secrets.token_bytes(32)
    Term.objects.create(
        lease=lease,
        kind=kind,
        contract_id=message.message_id,
        buyer=message.pubkey,
        price_sat=price_sat,
        seconds=bought_seconds(price_sat * 1000, lease.price_sat),
        secret=preimage,
        payment_hash=hashlib.sha256(preimage).digest(),
    )
    transaction.on_commit(settings.selling.ring)


# what the seller's lnd tells


def offer(term: Term, payment_request: str) -> list[Message]:
    """The invoice is there: it goes to the buyer."""
    _move_term(term, TermState.OFFERED, payment_request=payment_request)
    return [
        telling.message(
            bodies.INVOICE,
            term.buyer,
            reply_to=term.contract_id,
            for_seconds=INVOICE_SECONDS,
            payment_request=payment_request,
            seconds=term.seconds,
        )
    ]


def hold(term: Term, settings: VpnSettings, now: datetime) -> None:
    """The payment is held: address and key are taken in this very transaction, or it is to be given back."""
    lease = term.lease
    _move_term(term, TermState.HELD, held_at=now)
    if term.kind == Term.Kind.REFRESH:
        if lease.state not in RUNNING:
            give_back(term, "the lease is over")
        return
    move(lease, LeaseState.HELD, "the payment is held")
    if is_taken(lease.wg_key):
        give_back(term, "its key has another lease here")
        return
    client = addresses.take(lease, settings.pool)
    if client is None:
        give_back(term, "no address is free any more")
        return
    lease.holds_key = True
    lease.addresses = peering(lease, settings, client=client)["address"]
    move(lease, LeaseState.PROVISIONING, f"address {lease.addresses}")


def decide_to_settle(term: Term) -> None:
    """The peer was read back. From here on the payment is never given back by this node."""
    _move_term(term, TermState.SETTLING)


def settle(term: Term, settled_at: datetime, settings: VpnSettings) -> tuple[list[Message], list[Event]]:
    """lnd has taken the payment: its time counts, this once."""
    lease = term.lease
    _move_term(term, TermState.SETTLED, ended_at=timezone.now())
    transaction.on_commit(partial(metrics.count_vpn, "sold", term.kind, term.price_sat), robust=True)
    if term.kind == Term.Kind.CONTRACT:
        lease.starts_at = settled_at
        lease.expires_at = settled_at + timedelta(seconds=term.seconds)
        _set_warning(lease, settled_at)
        move(lease, LeaseState.ACTIVE, f"{term.price_sat} sat for {term.seconds} s")
    else:
        extend(lease, term.seconds, f"refreshed: {term.price_sat} sat for {term.seconds} s")
    told = telling.event(
        bodies.LEASE,
        lease.contract_id,
        id=lease.contract_id,
        buyer=lease.buyer,
        address=lease.addresses,
        price=str(term.price_sat),
        seconds=term.seconds,
        expires_at=lease.expires_at,
        kind=term.kind,
    )
    return [lease_message(term, settings, reply_to=term.contract_id)], [told]


def begun_at(term: Term, told: datetime, now: datetime) -> datetime:
    """When lnd took the payment. What lnd tells is not believed where it cannot be: a clock was wrong."""
    earliest = term.held_at or told
    return told if earliest - CLOCK_SLACK <= told <= now + CLOCK_SLACK else min(max(told, earliest), now)


def extend(lease: Lease, seconds: int, cause: str) -> None:
    lease.expires_at = required(lease.expires_at) + timedelta(seconds=seconds)
    _set_warning(lease, timezone.now())
    move(lease, LeaseState.ACTIVE, cause) if lease.state == LeaseState.EXPIRING else store(lease, cause)


def give_back(term: Term, cause: str) -> None:
    """The payment goes back, after the peer is gone."""
    _move_term(term, TermState.CANCELING, cause=cause[:500])
    if term.kind == Term.Kind.CONTRACT:
        move(term.lease, LeaseState.CANCELED, cause)


def cancel(term: Term, cause: str) -> tuple[list[Message], list[Event]]:
    """lnd has given the payment back, or the invoice has ended without one."""
    was_paid = term.held_at is not None
    cause = term.cause or cause
    _move_term(term, TermState.CANCELED, cause=cause[:500], ended_at=timezone.now())
    if term.kind == Term.Kind.CONTRACT and term.lease.state != LeaseState.CANCELED:
        move(term.lease, LeaseState.CANCELED, cause)
    if not was_paid:
        return [], []
    refused = telling.message(
        bodies.REFUSAL,
        term.buyer,
        reply_to=term.contract_id,
        reason="canceled",
        text=f"{cause}; nothing was taken"[:300],
    )
    told = telling.event(
        "canceled",
        term.lease.contract_id,
        id=term.lease.contract_id,
        buyer=term.buyer,
        price=str(term.price_sat),
        text=cause,
    )
    return [refused], [told]


def note_taken(term: Term) -> None:
    """It was to be given back, and lnd had taken it before this database was restored from a copy."""
    cause = f"{term.cause}; lnd had taken the payment before: its operator has to give it back"
    _move_term(term, TermState.CANCELED, cause=cause[:500], ended_at=timezone.now())


# what time makes of it


def pass_time(now: datetime) -> tuple[list[Message], list[Event]]:
    """Warns, ends and frees what is due."""
    messages, events = [], []
    for lease in Lease.objects.filter(state=LeaseState.ACTIVE, warns_at__lte=now):
        # One that is over already is not told that it will be.
        if required(lease.expires_at) > now:
            messages.append(_end_message(bodies.EXPIRING, lease))
            events.append(_end_event(bodies.EXPIRING, lease))
        move(lease, LeaseState.EXPIRING, "ends soon")
    for lease in _ending().filter(expires_at__lte=now):
        move(lease, LeaseState.EXPIRED, "its time is over")
    for lease in Lease.objects.filter(state=LeaseState.QUARANTINED, rests_until__lte=now):
        _let_go(lease)
        move(lease, LeaseState.FREED, "its address may be given to another")
    return messages, events


def _ending() -> QuerySet[Lease]:
    """But for those whose end a payment that is held will move."""
    undecided = Term.objects.filter(lease=OuterRef("pk"), state__in=UNDECIDED)
    return Lease.objects.filter(state=LeaseState.EXPIRING).exclude(Exists(undecided))


def next_due() -> datetime | None:
    """When time makes something of a lease next."""
    rows = Lease.objects.filter
    dues = (
        rows(state=LeaseState.ACTIVE).aggregate(due=Min("warns_at"))["due"],
        _ending().aggregate(due=Min("expires_at"))["due"],
        rows(state=LeaseState.QUARANTINED).aggregate(due=Min("rests_until"))["due"],
    )
    return min((due for due in dues if due), default=None)


def peers_gone(present: set[str], now: datetime, settings: VpnSettings) -> tuple[list[Message], list[Event]]:
    """What was to be removed, and is not there any more."""
    messages, events = [], []
    for lease in Lease.objects.filter(state=LeaseState.EXPIRED).exclude(wg_key__in=present):
        lease.rests_until = now + timedelta(seconds=settings.quarantine_seconds)
        move(lease, LeaseState.QUARANTINED, "the peer is gone")
        messages.append(_end_message(bodies.ENDED, lease))
        events.append(_end_event(bodies.ENDED, lease))
    for lease in Lease.objects.filter(state=LeaseState.CANCELED, holds_key=True).exclude(wg_key__in=present):
        _let_go(lease)
        store(lease, "the peer is gone")
    return messages, events


def _let_go(lease: Lease) -> None:
    lease.holds_key = False
    addresses.free(lease)


def end_now(lease: Lease, cause: str) -> None:
    """By the operator. ValueError says why not."""
    if lease.state not in RUNNING:
        raise ValueError("the lease does not run")
    if lease.terms.filter(state__in=UNDECIDED).exists():
        raise ValueError("a payment for it is held; ask again when it has ended")
    lease.expires_at = min(required(lease.expires_at), timezone.now())
    move(lease, LeaseState.EXPIRED, cause)


def _set_warning(lease: Lease, since: datetime) -> None:
    expires_at = required(lease.expires_at)
    left_seconds = max(0.0, (expires_at - since).total_seconds())
    lease.warns_at = expires_at - timedelta(seconds=min(WARN_SECONDS, left_seconds * WARN_SHARE))


def _end_message(type: str, lease: Lease) -> Message:
    told = telling.message(type, lease.buyer, id=lease.contract_id, expires_at=lease.expires_at)
    return _paid_from_lease(told, lease)


def _paid_from_lease(message: Message, lease: Lease) -> Message:
    """What a lease has cost its buyer pays for all that is told of it."""
    account = f"vpn lease {lease.pk}"
    paid_sat = lease.terms.filter(state=TermState.SETTLED).aggregate(sum=Sum("price_sat"))["sum"] or 0
    pay_in(account, paid_sat * 1000)
    return paid_from(message, account)


def _end_event(type: str, lease: Lease) -> Event:
    return telling.event(
        type,
        lease.contract_id,
        id=lease.contract_id,
        buyer=lease.buyer,
        address=lease.addresses,
        expires_at=lease.expires_at,
    )


# shared


def peering(lease: Lease, settings: VpnSettings, *, client: int | None = None) -> dict[str, Any]:
    """The fields of a `lease` message that tell of the tunnel."""
    if client is not None:
        own = settings.pool.addresses(client)
    else:
        own = tuple(ipaddress.ip_interface(text.strip()).ip for text in lease.addresses.split(","))
    return peering_fields(_tunnel(settings, own))


def _endpoint_host(settings: VpnSettings) -> Address:
    if (address := settings.endpoint_host) is not None:
        return address
    if (known := known_address(settings.server_ip)) is None:
        raise ValueError(f"vpn.server_ip: {settings.server_ip} has not been looked up yet")
    return known


def _tunnel(settings: VpnSettings, addresses_told: tuple[Address, ...]) -> Peering:
    return Peering(
        addresses=addresses_told,
        endpoint_host=_endpoint_host(settings),
        endpoint_port=settings.server_port,
        server_pub_key=settings.server_pub_key,
        allowed_ips=settings.allowed_ips,
        keepalive_seconds=KEEPALIVE_SECONDS,
        dns=settings.dns,
    )


def known_address(server_name: str) -> Address | None:
    """That of the host name when it was looked up last."""
    shop = Shop.objects.filter(pk=1, server_name=server_name).first()
    return ipaddress.ip_address(shop.server_address) if shop else None


def note_address(server_name: str, address: Address) -> None:
    found = {"server_name": server_name, "server_address": str(address)}
    Shop.objects.update_or_create(pk=1, defaults=found)


def tell_changes(settings: VpnSettings) -> list[Message]:
    """Buyers whose lease runs are told of the tunnel anew when the configuration says other things of it than before:
    without them they could not use it any more.
    """
    now = peering_fields(_tunnel(settings, settings.pool.addresses(settings.pool.clients[0])))
    now.pop("address")
    told = Shop.objects.get(pk=1).told
    Shop.objects.filter(pk=1).update(told=now)
    if told in ({}, now):
        return []
    terms = Term.objects.select_related("lease").filter(kind=Term.Kind.CONTRACT, lease__state__in=RUNNING)
    return [lease_message(term, settings, reply_to=None) for term in terms.order_by("pk")]


def lease_message(term: Term, settings: VpnSettings, *, reply_to: UUID | None) -> Message:
    lease = term.lease
    told = telling.message(
        bodies.LEASE,
        lease.buyer,
        reply_to=reply_to,
        for_seconds=(required(lease.expires_at) - timezone.now()).total_seconds(),
        id=lease.contract_id,
        **peering(lease, settings),
        expires_at=lease.expires_at,
        seconds=term.seconds,
        payment_hash=bytes(term.payment_hash).hex(),
    )
    return _paid_from_lease(told, lease)


def desired_peers() -> dict[str, frozenset[Network]]:
    """What should stand on the interface, the oldest lease first."""
    rows = Lease.objects.filter(state__in=PEERED).order_by("pk").values_list("wg_key", "addresses")
    return {key: networks_of(told) for key, told in rows}


def networks_of(addresses_told: str) -> frozenset[Network]:
    return frozenset(ipaddress.ip_network(text.strip()) for text in addresses_told.split(","))


def leaving_keys() -> list[str]:
    """Keys whose peers have to be seen gone."""
    return list(
        Lease.objects.filter(holds_key=True).exclude(state__in=PEERED).values_list("wg_key", flat=True)
    )


def move(lease: Lease, state: LeaseState, cause: str) -> None:
    require_way(LEASE_WAYS, LeaseState(lease.state) if lease.state else None, state)
    lease.state, lease.cause, lease.changed_at = state, cause[:500], timezone.now()
    store(lease, cause)


def store(lease: Lease, cause: str) -> None:
    lease.save()
    LeaseStep.objects.create(lease=lease, state=lease.state, cause=cause[:500])


def _move_term(term: Term, state: TermState, **fields: Any) -> None:
    require_way(TERM_WAYS, TermState(term.state), state)
    term.state = state
    for name, value in fields.items():
        setattr(term, name, value)
    term.save()


def as_moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
