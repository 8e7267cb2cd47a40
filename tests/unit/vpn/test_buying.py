"""The buyer's steps on their rows: what a seller says is checked against what was agreed, and never pays twice."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from invoices.models import InvoicePayment
from messaging.models import Message
from messaging.outgoing import new_message
from tests.support.vpn_deals import (
    OTHER,
    PRICE_SAT,
    SELLER,
    SERVER_KEY,
    CountingWake,
    body_of,
    received,
    told,
    vpn_settings,
)
from vpn import bodies, buying, reliability, sealing
from vpn.buying import NotPossible
from vpn.keys import new_key_pair
from vpn.models import ClientKey, Purchase, PurchasedLease, ReceivedQuote, UnreliableSeller
from vpn.settings import SERVICE
from vpn.states import BoughtState, PurchaseState

pytestmark = [pytest.mark.usefixtures("tables"), pytest.mark.sql]

SECOND = timedelta(seconds=1)
NONCE = "nonce-of-the-quote"
HASH = bytes(range(32))


def out(type: str, **fields) -> Message:
    """Ours, to the seller."""
    return new_message(service=SERVICE, pubkey=SELLER, body=bodies.encode(type, **fields))


def quoted(*, nonce: str = NONCE, seconds: float = 60) -> ReceivedQuote:
    """Asked for and answered; it holds for so many seconds."""
    request = out(bodies.QUOTE_REQUEST)
    buying.ask_quote(request)
    return answered(request, nonce=nonce, expires_at=timezone.now() + timedelta(seconds=seconds))


def answered(request: Message, **fields) -> ReceivedQuote:
    quote_of(request, **fields)
    return ReceivedQuote.objects.get(pk=request.message_id)


def quote_of(request: Message, *, pubkey: str = SELLER, **changes):
    fields = {
        "nonce": NONCE,
        "price": str(PRICE_SAT),
        "min_price": "10",
        "max_price": "86400",
        "expires_at": timezone.now() + timedelta(seconds=60),
    }
    message = received(bodies.QUOTE, sender=pubkey, reply_to=request.message_id, **(fields | changes))
    return buying.quote_received(message, body_of(message), vpn_settings())


def contracted(price: str = "600", *, nonce: str = "") -> Purchase:
    nonce = nonce or quoted().nonce
    message = out(bodies.CONTRACT)
    buying.send_contract(message, nonce, price, new_key_pair())
    return Purchase.objects.get(pk=message.message_id)


def invoice_for(purchase: Purchase, *, seconds: int | None = 600, settings=None, **fields):
    message = received(
        bodies.INVOICE,
        reply_to=purchase.pk,
        **({"sender": SELLER, "payment_request": "lnsb1invoice", "seconds": seconds} | fields),
    )
    return buying.invoice_received(message, body_of(message), settings or vpn_settings())


def in_state(purchase: Purchase, state: PurchaseState, payment_hash: bytes = HASH) -> Purchase:
    """Moved on as the worker does it."""
    if state != PurchaseState.ASKED:
        invoice_for(purchase)
        purchase.refresh_from_db()
    if state in (PurchaseState.PAYING, PurchaseState.PAID):
        assert buying.pay(purchase, payment_hash) is None
    if state == PurchaseState.PAID:
        buying.paid(purchase, timezone.now())
    purchase.refresh_from_db()
    return purchase


def lease_for(purchase: Purchase, *, pubkey: str = SELLER, lease_id: UUID | None = None, **changes):
    fields = {
        "address": "10.77.0.2/32",
        "endpoint": "192.0.2.1:51820",
        "server_pub_key": SERVER_KEY,
        "allowed_ips": "0.0.0.0/0",
        "keepalive": 25,
        "expires_at": timezone.now() + timedelta(seconds=purchase.seconds),
        "seconds": purchase.seconds,
        "payment_hash": bytes(purchase.payment_hash or HASH).hex(),
    }
    message = received(
        bodies.LEASE,
        sender=pubkey,
        reply_to=purchase.pk,
        id=lease_id or purchase.lease_id,
        **(fields | changes),
    )
    return buying.lease_received(message, body_of(message), vpn_settings())


def bought(price: str = "600") -> PurchasedLease:
    purchase = in_state(contracted(price), PurchaseState.PAID)
    assert not lease_for(purchase).dropped
    return PurchasedLease.objects.get(pk=purchase.pk)


def refreshing(lease: PurchasedLease, price: str = "100") -> Purchase:
    message = out(bodies.REFRESH)
    buying.send_refresh(message, lease.nonce, price)
    return Purchase.objects.get(pk=message.message_id)


def state_of(purchase: Purchase) -> str:
    return Purchase.objects.get(pk=purchase.pk).state


def not_possible(step, *arguments) -> NotPossible:
    with pytest.raises(NotPossible) as caught:
        step(*arguments)
    return caught.value


# quotes


def test_quote_is_told_once():
    request = out(bodies.QUOTE_REQUEST)
    buying.ask_quote(request)
    (event,) = quote_of(request).events
    quote = ReceivedQuote.objects.get()
    assert (quote.nonce, quote.price_sat, quote.min_price_sat, quote.max_price_sat) == (
        NONCE,
        PRICE_SAT,
        10,
        86_400,
    )
    assert (event.message_id, event.from_pubkey) == (request.message_id, SELLER)
    assert (told(event)["nonce"], told(event)["price"]) == (NONCE, str(PRICE_SAT))
    assert quote_of(request).dropped == "quote_unasked"


def test_quotes_that_nobody_asked_for_are_dropped():
    assert quote_of(out(bodies.QUOTE_REQUEST)).dropped == "quote_unasked"
    request = out(bodies.QUOTE_REQUEST)
    buying.ask_quote(request)
    assert quote_of(request, pubkey=OTHER).dropped == "quote_unasked"
    assert quote_of(request, price="0").dropped == "bad_price"
    assert quote_of(request, max_price="free").dropped == "bad_price"
    quoted()
    assert quote_of(request, nonce=NONCE).dropped == "nonce_again"
    assert not ReceivedQuote.objects.get(pk=request.message_id).nonce


# contracts


def test_contract_is_stored_with_its_sealed_key():
    quote, keys, message = quoted(), new_key_pair(), out(bodies.CONTRACT)
    buying.send_contract(message, quote.nonce, "600", keys)
    purchase = Purchase.objects.get()
    assert (purchase.pk, purchase.lease_id) == (message.message_id, message.message_id)
    assert (purchase.kind, purchase.state, purchase.automatic) == ("contract", PurchaseState.ASKED, False)
    assert (purchase.price_sat, purchase.hourly_price_sat, purchase.seconds) == (600, PRICE_SAT, 600)
    sealed = ClientKey.objects.get(pk=purchase.pk).sealed
    assert keys.private not in sealed
    assert sealing.unseal(sealed) == keys.private


@pytest.mark.parametrize(
    ("nonce", "price", "field", "invalid"),
    [
        ("unknown", "600", "nonce", True),
        (NONCE, "9", "price", True),
        (NONCE, "86401", "price", True),
        (NONCE, "1.5", "price", True),
    ],
)
def test_contract_that_is_not_possible(nonce, price, field, invalid):
    quoted()
    error = not_possible(buying.contract_of, SELLER, nonce, price)
    assert (error.field, error.invalid) == (field, invalid)


def test_quote_of_another_seller_or_that_is_over_is_not_accepted():
    quoted()
    assert not_possible(buying.contract_of, OTHER, NONCE, "600").invalid
    ReceivedQuote.objects.update(expires_at=timezone.now() - SECOND)
    error = not_possible(buying.contract_of, SELLER, NONCE, "600")
    assert (error.field, error.invalid) == ("nonce", False)
    assert "its quote held until" in str(error)


def test_quote_is_used_once_unless_its_contract_was_refused():
    purchase = contracted(nonce=quoted().nonce)
    assert "was used for a contract" in str(not_possible(buying.contract_of, SELLER, NONCE, "600"))
    buying.refuse(purchase, "invoice", "is too dear")
    assert buying.contract_of(SELLER, NONCE, "600")[1] == 600


# invoices


def test_invoice_of_the_contract_wakes_the_worker():
    bell = CountingWake()
    purchase = contracted()
    reaction = invoice_for(purchase, settings=vpn_settings(buying=bell))
    assert (reaction.events, reaction.dropped) == ([], "")
    purchase.refresh_from_db()
    assert (purchase.state, purchase.payment_request) == (PurchaseState.INVOICED, "lnsb1invoice")
    assert bell.rings == 1
    assert invoice_for(purchase).dropped == "invoice_unasked"


def test_invoice_of_an_older_seller_does_not_tell_its_time():
    purchase = contracted()
    assert invoice_for(purchase, seconds=None).dropped == ""
    assert state_of(purchase) == PurchaseState.INVOICED


def test_invoice_for_less_time_is_not_paid():
    purchase = contracted()
    (event,) = invoice_for(purchase, seconds=599).events
    assert told(event)["reason"] == "less_time"
    assert state_of(purchase) == PurchaseState.REFUSED
    assert not ClientKey.objects.exists()


def test_invoices_that_nobody_asked_for_are_dropped():
    purchase = contracted()
    assert invoice_for(purchase, sender=OTHER).dropped == "invoice_unasked"
    assert invoice_for(Purchase(id=uuid4())).dropped == "invoice_unasked"
    assert state_of(purchase) == PurchaseState.ASKED


def test_hash_of_another_purchase_is_not_paid():
    in_state(contracted(), PurchaseState.PAYING)
    second = in_state(contracted(nonce=quoted(nonce="second").nonce), PurchaseState.INVOICED)
    event = buying.pay(second, HASH)
    assert told(event)["reason"] == "invoice"
    assert state_of(second) == PurchaseState.REFUSED


# the lease


def test_lease_is_stored_and_told():
    purchase = in_state(contracted(), PurchaseState.PAID)
    ends = (timezone.now() + timedelta(seconds=600)).replace(microsecond=0)
    (event,) = lease_for(purchase, expires_at=ends).events
    lease = PurchasedLease.objects.get()
    assert (lease.pk, lease.seller, lease.nonce, lease.state) == (
        purchase.pk,
        SELLER,
        NONCE,
        BoughtState.ACTIVE,
    )
    assert (lease.expires_at, lease.price_sat) == (ends, PRICE_SAT)
    assert lease.peering["address"] == "10.77.0.2/32"
    assert state_of(purchase) == PurchaseState.DONE
    assert (told(event)["type"], told(event)["id"]) == ("lease", str(lease.pk))
    assert told(event)["path"] == f"http://127.0.0.1:8882/v1/vpn/leases/{lease.pk}/config"
    assert lease_for(purchase, expires_at=ends).dropped == "lease_known"


@pytest.mark.parametrize("state", [PurchaseState.PAYING, PurchaseState.PAID])
def test_lease_may_come_before_lnd_has_told_of_the_payment(state):
    purchase = in_state(contracted(), state)
    assert lease_for(purchase).dropped == ""
    assert state_of(purchase) == PurchaseState.DONE


def test_leases_that_nobody_paid_for_are_dropped():
    purchase = in_state(contracted(), PurchaseState.PAID)
    assert lease_for(purchase, pubkey=OTHER).dropped == "lease_unasked"
    assert lease_for(purchase, payment_hash="ff" * 32).dropped == "lease_unasked"
    assert lease_for(purchase, lease_id=uuid4()).dropped == "lease_unasked"
    refused = in_state(
        contracted(nonce=quoted(nonce="second").nonce), PurchaseState.PAYING, payment_hash=bytes(32)
    )
    buying.refuse(refused, "not_paid", "no route")
    assert lease_for(refused).dropped == "lease_unasked"
    assert not PurchasedLease.objects.exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoint": "evil.example:51820"},
        {"address": "10.77.0.2/32, 10.77.0.3/32"},
        {"server_pub_key": "A" * 43 + "="},
        {"allowed_ips": "everything"},
    ],
)
def test_lease_that_cannot_be_used_is_told_and_asked_for_again(fields):
    purchase = in_state(contracted(), PurchaseState.PAID)
    (event,) = lease_for(purchase, **fields).events
    assert told(event)["reason"] == "unusable_lease"
    assert not PurchasedLease.objects.exists()
    assert state_of(purchase) == PurchaseState.PAID
    assert lease_for(purchase).dropped == ""


def test_networks_that_are_not_public_are_left_out_of_the_file_and_told():
    purchase = in_state(contracted(), PurchaseState.PAID)
    (event,) = lease_for(purchase, allowed_ips="0.0.0.0/0, 192.168.1.0/25, 169.254.169.254/32").events
    assert told(event)["left_out"] == ["allowed_ips 192.168.1.0/25", "allowed_ips 169.254.169.254/32"]
    assert told(event)["allowed_ips"] == "0.0.0.0/0"
    lease = PurchasedLease.objects.get()
    assert lease.peering["allowed_ips"] == "0.0.0.0/0"
    # Nor when the tunnel is told anew.
    again = lease_for(purchase, allowed_ips="10.77.0.0/24, 192.168.1.0/25", expires_at=lease.expires_at)
    assert [told(event)["allowed_ips"] for event in again.events] == ["10.77.0.0/24"]
    assert [told(event)["left_out"] for event in again.events] == [["allowed_ips 192.168.1.0/25"]]


@pytest.mark.parametrize(
    "fields",
    [{"endpoint": "127.0.0.1:51820"}, {"endpoint": "[::ffff:10.0.0.1]:51820"}, {"allowed_ips": "fe80::/10"}],
)
def test_lease_of_a_tunnel_that_is_not_public_is_not_usable(fields):
    purchase = in_state(contracted(), PurchaseState.PAID)
    (event,) = lease_for(purchase, **fields).events
    assert told(event)["reason"] == "unusable_lease"
    assert not PurchasedLease.objects.exists()


def test_less_time_than_was_paid_for_is_told():
    for number, changes in enumerate(
        (
            {"seconds": 599},
            {"expires_at": timezone.now() + timedelta(seconds=600) - buying.SLACK - 60 * SECOND},
        )
    ):
        nonce = f"nonce-{number}"
        purchase = contracted(nonce=quoted(nonce=nonce).nonce)
        purchase = in_state(purchase, PurchaseState.PAID, payment_hash=bytes([number] * 32))
        lease, note = lease_for(purchase, **changes).events
        assert (told(lease)["type"], told(note)["reason"]) == ("lease", "less_time")
        assert state_of(purchase) == PurchaseState.DONE


def test_same_lease_again_is_news_when_its_end_or_its_tunnel_has_moved():
    lease = bought()
    purchase = Purchase.objects.get()
    buying.expiring_received(
        message := received(
            bodies.EXPIRING, sender=SELLER, id=lease.pk, expires_at=lease.expires_at + SECOND
        ),
        body_of(message),
        vpn_settings(),
    )
    later = (lease.expires_at + timedelta(hours=1)).replace(microsecond=0)
    (event,) = lease_for(purchase, expires_at=later).events
    assert told(event)["type"] == "lease"
    lease.refresh_from_db()
    assert (lease.expires_at, lease.state) == (later, BoughtState.ACTIVE)
    assert lease_for(purchase, expires_at=later - 60 * SECOND).dropped == "lease_known"
    assert lease_for(purchase, expires_at=later, endpoint="198.51.100.7:1").events
    lease.refresh_from_db()
    assert lease.peering["endpoint"] == "198.51.100.7:1"
    assert lease_for(purchase, expires_at=later, endpoint="nowhere").dropped == "unusable_lease"
    buying.end(lease)
    assert lease_for(purchase, expires_at=later + timedelta(days=1)).dropped == "lease_known"


def test_lease_that_ends_soon_still_does_when_only_its_tunnel_has_moved():
    purchase = in_state(contracted(), PurchaseState.PAID)
    ends = (timezone.now() + timedelta(seconds=600)).replace(microsecond=0)
    lease_for(purchase, expires_at=ends)
    PurchasedLease.objects.update(state=BoughtState.EXPIRING)
    assert lease_for(purchase, expires_at=ends, endpoint="198.51.100.7:1").events
    assert PurchasedLease.objects.get().state == BoughtState.EXPIRING


# refreshes


def test_refresh_moves_the_end_and_never_back():
    lease = bought()
    first, second = refreshing(lease), refreshing(lease)
    for number, purchase in enumerate((first, second)):
        in_state(purchase, PurchaseState.PAID, payment_hash=bytes([100 + number] * 32))
    ends = [(lease.expires_at + timedelta(seconds=s)).replace(microsecond=0) for s in (100, 200)]
    # They are told in the other order than they were paid in.
    assert lease_for(second, expires_at=ends[1]).events
    assert lease_for(first, expires_at=ends[0]).events
    lease.refresh_from_db()
    assert lease.expires_at == ends[1]
    assert [state_of(first), state_of(second)] == [PurchaseState.DONE] * 2


def test_refresh_that_is_not_possible():
    lease = bought()
    assert not_possible(buying.refresh_of, SELLER, "unknown", "100").field == "nonce"
    assert not_possible(buying.refresh_of, OTHER, lease.nonce, "100").field == "nonce"
    assert not_possible(buying.refresh_of, SELLER, lease.nonce, "x").field == "price"
    buying.end(lease)
    error = not_possible(buying.refresh_of, SELLER, lease.nonce, "100")
    assert (error.field, error.invalid) == ("nonce", False)


def test_refresh_of_a_lease_that_ended_meanwhile_is_not_paid():
    lease = bought()
    purchase = in_state(refreshing(lease), PurchaseState.INVOICED)
    buying.end(lease)
    assert told(buying.pay(purchase, bytes(32)))["reason"] == "lease_over"
    assert state_of(purchase) == PurchaseState.REFUSED


def test_refresh_that_is_told_after_the_end_is_done_with():
    lease = bought()
    purchase = in_state(refreshing(lease), PurchaseState.PAID, payment_hash=bytes(32))
    buying.end(lease)
    assert lease_for(purchase).dropped == "lease_over"
    assert state_of(purchase) == PurchaseState.DONE


# sellers who do not keep what was agreed


def automatic(lease: PurchasedLease, price: str = "100") -> Purchase:
    message = out(bodies.REFRESH)
    buying.send_refresh(message, lease.nonce, price, automatic_at=timezone.now())
    return Purchase.objects.get(pk=message.message_id)


def reasons_of(reaction) -> list[str]:
    return [told(event)["reason"] for event in reaction.events if told(event)["type"] == "refusal"]


def blamed_for() -> str:
    seller = UnreliableSeller.objects.first()
    return seller.reason if seller else ""


@pytest.mark.parametrize("moved_seconds", [-10_000, -1, 0, 1, 98])
def test_refresh_that_moves_the_end_by_less_than_it_bought_is_told(moved_seconds):
    """Also where less than the slack of two clocks was bought."""
    lease = bought()
    purchase = in_state(automatic(lease), PurchaseState.PAID, payment_hash=bytes(32))
    moved = timedelta(seconds=moved_seconds)
    reaction = lease_for(purchase, seconds=100, expires_at=lease.expires_at + moved)
    assert reasons_of(reaction) == ["less_time"]
    assert (state_of(purchase), blamed_for()) == (PurchaseState.DONE, "less_time")
    lease.refresh_from_db()
    assert lease.expires_at >= purchase.ended_before


@pytest.mark.parametrize("moved_seconds", [100, 101, 10**9])
def test_refresh_that_moves_the_end_by_what_it_bought_is_kept(moved_seconds):
    lease = bought()
    purchase = in_state(automatic(lease), PurchaseState.PAID, payment_hash=bytes(32))
    moved = timedelta(seconds=moved_seconds)
    assert reasons_of(lease_for(purchase, seconds=100, expires_at=lease.expires_at + moved)) == []
    assert blamed_for() == ""


def test_end_in_the_far_future_is_not_sold_again():
    """The first lease was told to last for long; its refreshes then move nothing."""
    first = in_state(contracted(), PurchaseState.PAID)
    far = (timezone.now() + timedelta(days=365)).replace(microsecond=0)
    lease_for(first, expires_at=far)
    lease = PurchasedLease.objects.get()
    purchase = in_state(automatic(lease), PurchaseState.PAID, payment_hash=bytes(32))
    assert reasons_of(lease_for(purchase, seconds=100, expires_at=far)) == ["less_time"]
    assert blamed_for() == "less_time"


def test_end_that_moved_before_the_refresh_was_answered_counts():
    """The seller told the lease of the contract again, as when its operator changed the endpoint."""
    lease, first = bought(), Purchase.objects.get()
    purchase = in_state(automatic(lease), PurchaseState.PAID, payment_hash=bytes(32))
    moved = lease.expires_at + timedelta(seconds=100)
    assert lease_for(first, expires_at=moved).events
    assert reasons_of(lease_for(purchase, seconds=100, expires_at=moved)) == []
    assert blamed_for() == ""


def test_sellers_are_blamed_for_what_they_break():
    lease, first = bought(), Purchase.objects.get()
    assert blamed_for() == ""
    offered = automatic(lease)
    invoice_for(offered, seconds=99)
    assert blamed_for() == "less_time"
    UnreliableSeller.objects.all().delete()
    # A lease that runs is told again, of a tunnel that does not exist.
    assert lease_for(first, endpoint="nowhere").dropped == "unusable_lease"
    assert blamed_for() == "unusable_lease"
    UnreliableSeller.objects.all().delete()
    unusable = in_state(automatic(lease), PurchaseState.PAID, payment_hash=bytes(32))
    lease_for(unusable, endpoint="nowhere")
    assert blamed_for() == "unusable_lease"
    UnreliableSeller.objects.all().delete()
    buying.ask_again(unusable, lease.expires_at + timedelta(days=1))
    assert blamed_for() == "no_lease"


def test_lease_that_its_seller_ends_early_is_no_reason_to_trust_it():
    lease = bought()
    end_message(bodies.ENDED, lease)
    assert blamed_for() == "ended_early"


def test_lease_that_ends_in_its_time_is_nobodys_fault():
    lease = bought()
    PurchasedLease.objects.update(expires_at=timezone.now() - SECOND)
    lease.refresh_from_db()
    assert end_message(bodies.ENDED, lease).events
    assert blamed_for() == ""


@pytest.mark.parametrize("ask_anew", [refreshing, lambda _: contracted(nonce=quoted(nonce="new").nonce)])
def test_seller_is_trusted_again_when_it_is_asked_by_a_call(ask_anew):
    lease = bought()
    reliability.distrust(SELLER, "less_time", "half", lease_id=lease.pk)
    reliability.distrust(SELLER, "no_lease", "", lease_id=lease.pk)
    assert blamed_for() == "less_time"
    automatic(lease)
    assert blamed_for() == "less_time"
    ask_anew(lease)
    assert blamed_for() == ""


# refusals


def refused_by_seller(reply_to: UUID, *, pubkey: str = SELLER, reason: str = "full"):
    message = received(bodies.REFUSAL, sender=pubkey, reply_to=reply_to, reason=reason, text="no address")
    return buying.refusal_received(message, body_of(message), vpn_settings())


@pytest.mark.parametrize("state", [PurchaseState.ASKED, PurchaseState.INVOICED])
def test_refusal_before_the_payment_ends_the_contract(state):
    purchase = in_state(contracted(), state)
    (event,) = refused_by_seller(purchase.pk).events
    assert (told(event)["reason"], told(event)["text"]) == ("full", "no address")
    assert state_of(purchase) == PurchaseState.REFUSED
    assert not ClientKey.objects.exists()
    assert refused_by_seller(purchase.pk).dropped == "refusal_known"


@pytest.mark.parametrize("state", [PurchaseState.PAYING, PurchaseState.PAID])
def test_refusal_while_lnd_pays_is_told_and_lnd_tells_the_end(state):
    purchase = in_state(contracted(), state)
    assert refused_by_seller(purchase.pk, reason="canceled").events
    assert state_of(purchase) == state
    assert ClientKey.objects.exists()
    assert refused_by_seller(purchase.pk).dropped == "refusal_known"
    purchase.refresh_from_db()
    # The stream has told why already.
    assert buying.refuse(purchase, "not_paid", "it was given back") is None
    assert Purchase.objects.get().cause == "canceled: no address"


def test_refusals_that_answer_nothing_are_dropped():
    purchase = contracted()
    assert refused_by_seller(purchase.pk, pubkey=OTHER).dropped == "refusal_unasked"
    assert refused_by_seller(uuid4()).dropped == "refusal_unasked"
    request = out(bodies.QUOTE_REQUEST)
    buying.ask_quote(request)
    (event,) = refused_by_seller(request.message_id, reason="closed").events
    assert (event.message_id, told(event)["reason"]) == (request.message_id, "closed")


def test_contract_that_is_never_delivered_gives_its_key_up():
    purchase = contracted()
    message = out(bodies.CONTRACT)
    message.message_id = purchase.pk
    assert buying.undelivered(message, "no route") == []
    purchase.refresh_from_db()
    assert (purchase.state, purchase.cause) == (PurchaseState.REFUSED, "not delivered: no route")
    assert not ClientKey.objects.exists()
    assert buying.undelivered(out(bodies.LEASE_REQUEST), "no route") == []


# asking again


def test_lease_that_does_not_come_is_asked_for_at_longer_and_longer_intervals():
    purchase = in_state(contracted("86400"), PurchaseState.PAYING)
    now = timezone.now()
    buying.paid(purchase, now)
    assert purchase.ask_again_at == now + timedelta(seconds=30)
    pauses_seconds = []
    for _ in range(9):
        now = purchase.ask_again_at
        message = buying.ask_again(purchase, now)
        assert body_of(message) == {"type": "lease_request", "id": purchase.pk}
        pauses_seconds.append((purchase.ask_again_at - now).total_seconds())
    assert pauses_seconds == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_lease_that_never_comes_is_given_up_when_it_would_be_over():
    purchase = in_state(contracted(), PurchaseState.PAID)
    ends = purchase.created_at + timedelta(seconds=600) + buying.END_GRACE
    assert isinstance(buying.ask_again(purchase, ends - SECOND), Message)
    event = buying.ask_again(purchase, ends)
    assert told(event)["reason"] == "no_lease"
    assert state_of(purchase) == PurchaseState.REFUSED


def test_time_of_a_lease_runs_from_its_payment():
    """The seller had held the money for an hour."""
    purchase = in_state(contracted(), PurchaseState.PAID)
    paid_at = purchase.created_at + timedelta(hours=1)
    InvoicePayment.objects.create(
        payee=SELLER,
        payment_hash=HASH,
        payment_request="lnsb1invoice",
        amount_msat=600_000,
        fee_limit_msat=0,
        cost_msat=600_000,
        state=InvoicePayment.State.SETTLED,
        ended_at=paid_at,
    )
    late = paid_at + timedelta(seconds=600)
    assert isinstance(buying.ask_again(purchase, late), Message)
    assert not isinstance(buying.ask_again(purchase, late + buying.END_GRACE), Message)


def test_refresh_is_asked_for_until_the_lease_it_prolongs_is_over():
    lease = bought()
    purchase = in_state(refreshing(lease, "100"), PurchaseState.PAID, payment_hash=bytes(32))
    late = lease.expires_at + timedelta(seconds=100)
    assert isinstance(buying.ask_again(purchase, late), Message)
    assert not isinstance(buying.ask_again(purchase, late + buying.END_GRACE), Message)


def test_far_ends_that_sellers_name_do_not_fail():
    lease = bought()
    PurchasedLease.objects.update(expires_at=datetime.max.replace(tzinfo=UTC) - timedelta(seconds=1))
    purchase = in_state(refreshing(lease), PurchaseState.PAID, payment_hash=bytes(32))
    assert isinstance(buying.ask_again(purchase, timezone.now()), Message)


# the end


def end_message(type: str, lease: PurchasedLease, *, pubkey: str = SELLER, moved: timedelta = 0 * SECOND):
    message = received(type, sender=pubkey, id=lease.pk, expires_at=lease.expires_at + moved + SECOND)
    step = {bodies.EXPIRING: buying.expiring_received, bodies.ENDED: buying.ended_received}[type]
    return step(message, body_of(message), vpn_settings())


def test_seller_tells_of_the_end():
    lease = bought()
    assert end_message(bodies.EXPIRING, lease, pubkey=OTHER).dropped == "no_such_lease"
    assert end_message(bodies.EXPIRING, lease, moved=-60 * SECOND).dropped == "was_prolonged"
    (event,) = end_message(bodies.EXPIRING, lease).events
    assert told(event)["type"] == "expiring"
    lease.refresh_from_db()
    assert lease.state == BoughtState.EXPIRING
    assert end_message(bodies.EXPIRING, lease).dropped == "no_such_lease"
    assert end_message(bodies.ENDED, lease, pubkey=OTHER).dropped == "no_such_lease"
    (event,) = end_message(bodies.ENDED, lease).events
    assert told(event)["type"] == "ended"
    lease.refresh_from_db()
    assert lease.state == BoughtState.ENDED
    assert not ClientKey.objects.filter(pk=lease.pk).exists()
    assert end_message(bodies.ENDED, lease).dropped == "no_such_lease"


def test_lease_ends_by_itself_a_little_later():
    lease = bought()
    at = lease.expires_at + buying.END_GRACE
    assert not buying.is_any_due(at - SECOND)
    assert buying.pass_time(at - SECOND) == []
    assert buying.is_any_due(at)
    (event,) = buying.pass_time(at)
    assert (told(event)["type"], told(event)["id"]) == ("ended", str(lease.pk))
    assert not buying.is_any_due(at)


@pytest.mark.parametrize(
    ("state", "ends"),
    [(PurchaseState.INVOICED, True), (PurchaseState.PAYING, False), (PurchaseState.PAID, False)],
)
def test_lease_does_not_end_while_a_payment_prolongs_it(state, ends):
    lease = bought()
    in_state(refreshing(lease), state, payment_hash=bytes(32))
    at = lease.expires_at + timedelta(minutes=1)
    buying.pass_time(at)
    lease.refresh_from_db()
    assert (lease.state == BoughtState.ENDED) is ends


def test_contract_that_is_not_answered_is_given_up():
    purchase = contracted()
    at = purchase.created_at + buying.NO_ANSWER
    assert buying.pass_time(at - SECOND) == []
    (event,) = buying.pass_time(at)
    assert told(event)["reason"] == "no_answer"
    assert state_of(purchase) == PurchaseState.REFUSED
    assert buying.pass_time(at) == []


def test_old_quotes_are_forgotten():
    asked_long_ago, over, holding = (out(bodies.QUOTE_REQUEST) for _ in range(3))
    for number, request in enumerate((asked_long_ago, over, holding)):
        buying.ask_quote(request)
        if request is not asked_long_ago:
            quote_of(request, nonce=f"nonce-{number}")
    long_ago = timezone.now() - buying.KEPT_QUOTES - SECOND
    ReceivedQuote.objects.update(created_at=long_ago)
    ReceivedQuote.objects.filter(pk=over.message_id).update(expires_at=long_ago)
    recent = out(bodies.QUOTE_REQUEST)
    buying.ask_quote(recent)
    buying.forget_old_quotes()
    kept = set(ReceivedQuote.objects.values_list("pk", flat=True))
    assert kept == {holding.message_id, recent.message_id}
