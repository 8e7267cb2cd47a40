"""The seller's steps on their rows: what buyers ask for, what lnd tells, and what time makes of it."""

import hashlib
import ipaddress
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from messaging.models import Peer
from messaging.transitions import NoSuchWay
from tests.support.vpn_deals import (
    BUYER,
    OTHER,
    PRICE_SAT,
    SERVER_KEY,
    CountingWake,
    body_of,
    open_shop,
    received,
    told,
    types_of,
    vpn_settings,
)
from vpn import addresses, bodies, selling
from vpn.keys import new_key_pair
from vpn.models import Address, Answered, Lease, LeaseStep, Quote, Shop, Term
from vpn.selling import Refused
from vpn.states import LeaseState, TermState

pytestmark = [pytest.mark.usefixtures("tables"), pytest.mark.sql]

SECOND = timedelta(seconds=1)
LOW_ORDER = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@pytest.fixture(autouse=True)
def shop(tables: None) -> None:
    open_shop()


def quoted(settings, pubkey: str = BUYER) -> Quote:
    """Asked for by this buyer."""
    message = received(bodies.QUOTE_REQUEST, sender=pubkey)
    (answer,) = selling.quote_requested(message, {}, settings).answers
    return Quote.objects.get(nonce=body_of(answer)["nonce"])


def contract(settings, nonce: str, *, pubkey: str = BUYER, price: str = "600", wg_key: str = "") -> Term:
    """The payment that a contract has led to."""
    message = received(bodies.CONTRACT, sender=pubkey)
    body = {"nonce": nonce, "price": price, "pubkey": wg_key or new_key_pair().public}
    reaction = selling.contract_received(message, body, settings)
    assert (reaction.answers, reaction.events) == ([], [])
    return Term.objects.get(contract_id=message.message_id)


def contracted(settings, pubkey: str = BUYER, **fields) -> Term:
    return contract(settings, quoted(settings, pubkey).nonce, pubkey=pubkey, **fields)


def offered(settings, **fields) -> Term:
    term = contracted(settings, **fields)
    selling.offer(term, "lnsb1…")
    return term


def held(settings, **fields) -> Term:
    term = offered(settings, **fields)
    selling.hold(term, settings, timezone.now())
    return term


def settled(settings, *, at: datetime | None = None, **fields) -> Term:
    term = held(settings, **fields)
    selling.decide_to_settle(term)
    selling.settle(term, at or timezone.now(), settings)
    return term


def refresh(settings, lease: Lease, *, price: str = "100") -> Term:
    message = received(bodies.REFRESH)
    selling.refresh_received(
        message, {"nonce": lease.nonce, "price": price, "pubkey": lease.wg_key}, settings
    )
    return Term.objects.get(contract_id=message.message_id)


def refusal(step, *arguments) -> str:
    with pytest.raises(Refused) as caught:
        step(*arguments)
    return caught.value.reason


def states(term: Term) -> tuple[str, str]:
    """Of the payment and its lease, as they are stored."""
    term = Term.objects.select_related("lease").get(pk=term.pk)
    return term.state, term.lease.state


# quotes


def test_quote_tells_price_bounds_and_until_when(settings):
    message = received(bodies.QUOTE_REQUEST)
    (answer,) = selling.quote_requested(message, {}, settings).answers
    body, quote = body_of(answer), Quote.objects.get()
    assert (answer.pubkey, answer.reply_to) == (BUYER, message.message_id)
    assert (body["type"], body["nonce"]) == (bodies.QUOTE, quote.nonce)
    assert (body["price"], body["min_price"], body["max_price"]) == (str(PRICE_SAT), "10", "86400")
    assert body["expires_at"] == quote.expires_at
    assert quote.expires_at == (quote.created_at + timedelta(seconds=60)).replace(microsecond=0)


@pytest.mark.parametrize(
    "closed",
    [
        lambda: Shop.objects.all().delete(),
        lambda: open_shop(interface=""),
        lambda: open_shop(problem="wg is not permitted"),
    ],
    ids=["never looked", "no interface", "trouble"],
)
@pytest.mark.parametrize("step", [selling.quote_requested, selling.contract_received])
def test_closed_shop_sells_nothing(settings, closed, step):
    closed()
    assert refusal(step, received(bodies.QUOTE_REQUEST), {}, settings) == "closed"
    assert not Quote.objects.exists()


def test_price_that_buys_no_allowed_time_closes_the_shop():
    message = received(bodies.QUOTE_REQUEST)
    assert refusal(selling.quote_requested, message, {}, vpn_settings(price_sat=0)) == "closed"


def test_quotes_a_minute_are_counted_for_each_buyer():
    settings = vpn_settings(quotes_per_minute=2)
    for _ in range(2):
        quoted(settings)
    assert refusal(quoted, settings) == "too_many"
    assert quoted(settings, OTHER).buyer == OTHER
    Quote.objects.filter(buyer=BUYER).update(created_at=timezone.now() - timedelta(seconds=61))
    assert quoted(settings).buyer == BUYER


def test_quotes_of_the_future_count_for_nothing():
    """The clock was wrong when they were given."""
    settings = vpn_settings(quotes_per_minute=1)
    quoted(settings)
    Quote.objects.update(created_at=timezone.now() + timedelta(days=300))
    assert quoted(settings).buyer == BUYER


# contracts


def test_contract_waits_for_its_payment(settings):
    quote, pair = quoted(settings), new_key_pair()
    term = contract(settings, quote.nonce, price="600", wg_key=pair.public)
    lease = term.lease
    assert states(term) == (TermState.WANTED, LeaseState.CONTRACTED)
    assert (term.kind, term.price_sat, term.seconds, term.buyer) == ("contract", 600, 600, BUYER)
    assert hashlib.sha256(bytes(term.secret)).digest() == bytes(term.payment_hash)
    assert (lease.contract_id, lease.buyer, lease.nonce) == (term.contract_id, BUYER, quote.nonce)
    assert (lease.wg_key, lease.price_sat, lease.holds_key) == (pair.public, PRICE_SAT, False)
    quote.refresh_from_db()
    assert quote.used_at is not None
    assert [(step.state, step.cause) for step in lease.steps.all()] == [
        (LeaseState.CONTRACTED, "contract over 600 sat")
    ]


def test_contract_and_refresh_wake_the_worker():
    bell = CountingWake()
    settings = vpn_settings(selling=bell)
    term = settled(settings)
    assert bell.rings == 1
    refresh(settings, term.lease)
    assert bell.rings == 2


def expired(quote: Quote) -> None:
    Quote.objects.filter(pk=quote.pk).update(expires_at=timezone.now() - SECOND)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"nonce": "0" * 32}, "unknown_nonce"),
        ({"pubkey": OTHER}, "unknown_nonce"),
        ({"price": "9"}, "price"),
        ({"price": "86401"}, "price"),
        ({"price": "12.5"}, "price"),
        ({"price": "-600"}, "price"),
        ({"wg_key": "x" * 44}, "key"),
        ({"wg_key": LOW_ORDER}, "key"),
        ({"wg_key": SERVER_KEY}, "key"),
    ],
)
def test_contract_that_is_refused_leaves_its_quote_unused(settings, fields, reason):
    quote = quoted(settings)
    assert refusal(lambda: contract(settings, **({"nonce": quote.nonce} | fields))) == reason
    quote.refresh_from_db()
    assert quote.used_at is None
    assert not Lease.objects.exists()
    assert contract(settings, quote.nonce).state == TermState.WANTED


def test_quote_holds_until_its_end_and_once(settings):
    quote = quoted(settings)
    expired(quote)
    assert refusal(contract, settings, quote.nonce) == "expired"
    quote = quoted(settings)
    contract(settings, quote.nonce)
    assert refusal(contract, settings, quote.nonce) == "used"


def test_price_of_the_quote_holds_when_the_configuration_has_changed(settings):
    quote = quoted(settings)
    dearer = vpn_settings(price_sat=10 * PRICE_SAT)
    term = contract(dearer, quote.nonce, price="10")
    assert (term.seconds, term.lease.price_sat) == (10, PRICE_SAT)


def test_key_of_another_lease_or_of_the_operators_peer_is_refused(settings):
    taken = held(settings).lease.wg_key
    open_shop(foreign=[operators := new_key_pair().public])
    for key in (taken, operators):
        assert refusal(lambda key=key: contracted(settings, wg_key=key)) == "key"


def test_full_pool_takes_no_contract():
    settings = vpn_settings(networks=(ipaddress.ip_network("10.77.0.0/30"),))
    held(settings)
    assert refusal(contracted, settings) == "full"


def test_contracts_that_wait_for_their_payment_are_counted_for_each_buyer():
    settings = vpn_settings(quotes_per_minute=2)
    for _ in range(2):
        contracted(settings)
        Quote.objects.update(created_at=timezone.now() - timedelta(minutes=2))
    assert refusal(contracted, settings) == "busy"
    assert contracted(settings, OTHER).buyer == OTHER


def test_too_many_unpaid_contracts_push_out_the_oldest_of_who_has_most(settings, monkeypatch):
    monkeypatch.setattr(selling, "MAX_UNPAID", 6)
    of_other = contracted(settings, OTHER)
    oldest, newer = contracted(settings), contracted(settings)
    assert states(contracted(settings, "02" + "44" * 32)) == (TermState.WANTED, LeaseState.CONTRACTED)
    assert states(oldest) == (TermState.CANCELING, LeaseState.CANCELED)
    assert states(of_other) == states(newer) == (TermState.WANTED, LeaseState.CONTRACTED)


def test_strangers_contracts_leave_half_of_the_room_to_known_peers(settings, monkeypatch):
    monkeypatch.setattr(selling, "MAX_UNPAID", 4)
    Peer.objects.create(pubkey=OTHER, marked=True)
    strangers = [contracted(settings, f"02{number:064x}") for number in range(2)]
    known = [contracted(settings, OTHER) for _ in range(2)]
    contracted(settings, "02" + "44" * 32)
    assert states(strangers[0]) == (TermState.CANCELING, LeaseState.CANCELED)
    known.append(contracted(settings, OTHER))
    assert states(strangers[1]) == (TermState.CANCELING, LeaseState.CANCELED)
    assert all(states(term) == (TermState.WANTED, LeaseState.CONTRACTED) for term in known)


@pytest.mark.parametrize("most", [10, 20])
def test_all_strangers_together_get_so_many_quotes_a_minute(most, monkeypatch):
    """A key costs nothing; the other half is kept for known peers."""
    monkeypatch.setattr(selling, "ALL_BUYERS", most)
    settings = vpn_settings(quotes_per_minute=1)
    Peer.objects.create(pubkey=OTHER, written_to=True)
    for number in range(most // 2):
        quoted(settings, f"02{number:064x}")
    assert refusal(quoted, settings, BUYER) == "too_many"
    assert quoted(settings, OTHER).buyer == OTHER


def test_all_strangers_together_get_so_many_other_answers_a_minute(monkeypatch):
    monkeypatch.setattr(selling, "ALL_BUYERS", 4)
    settings, refused = vpn_settings(quotes_per_minute=1), Refused("price", "price is too low")
    answered = [
        bool(selling.refusal(received(bodies.CONTRACT, sender=f"02{number:064x}"), refused, settings).answers)
        for number in range(4)
    ]
    assert answered == [True, True, False, False]


def test_refreshes_of_strangers_that_wait_leave_half_of_the_room(settings, monkeypatch):
    monkeypatch.setattr(selling, "MAX_UNPAID", 2)
    term = settled(settings)
    refresh(settings, term.lease)
    assert refusal(refresh, settings, term.lease) == "busy"
    Peer.objects.create(pubkey=BUYER, marked=True)
    assert states(refresh(settings, term.lease))[0] == TermState.WANTED


# the payment


def test_invoice_goes_to_the_buyer(settings):
    term = contracted(settings)
    (message,) = selling.offer(term, "lnsb1invoice")
    assert states(term) == (TermState.OFFERED, LeaseState.CONTRACTED)
    assert (message.pubkey, message.reply_to) == (BUYER, term.contract_id)
    assert body_of(message) == {"type": "invoice", "payment_request": "lnsb1invoice", "seconds": 600}


def test_held_payment_takes_address_and_key(settings):
    term = held(settings)
    assert states(term) == (TermState.HELD, LeaseState.PROVISIONING)
    lease = Lease.objects.get()
    assert (lease.addresses, lease.holds_key) == ("10.77.0.2/32", True)
    assert Address.objects.get().lease == lease
    assert selling.desired_peers() == {lease.wg_key: selling.networks_of("10.77.0.2/32")}
    assert selling.leaving_keys() == []


def test_address_of_both_families():
    networks = (ipaddress.ip_network("10.77.0.0/28"), ipaddress.ip_network("fd00::/64"))
    assert held(vpn_settings(networks=networks)).lease.addresses == "10.77.0.2/32, fd00::2/128"


def test_payment_is_given_back_when_the_key_was_taken_meanwhile(settings):
    key = new_key_pair().public
    first, second = (offered(settings, wg_key=key) for _ in range(2))
    for term in (first, second):
        selling.hold(term, settings, timezone.now())
    assert states(first) == (TermState.HELD, LeaseState.PROVISIONING)
    assert states(second) == (TermState.CANCELING, LeaseState.CANCELED)
    assert "key" in Term.objects.get(pk=second.pk).cause
    assert Address.objects.count() == 1


def test_payment_is_given_back_when_the_pool_was_filled_meanwhile():
    settings = vpn_settings(networks=(ipaddress.ip_network("10.77.0.0/30"),))
    first, second = offered(settings), offered(settings)
    for term in (first, second):
        selling.hold(term, settings, timezone.now())
    assert states(first) == (TermState.HELD, LeaseState.PROVISIONING)
    assert states(second) == (TermState.CANCELING, LeaseState.CANCELED)
    assert Lease.objects.get(pk=second.lease_id).holds_key is False


def test_settled_contract_begins_the_lease(settings):
    term, began = held(settings), datetime(2030, 1, 1, tzinfo=UTC)
    selling.decide_to_settle(term)
    (message,), (event,) = selling.settle(term, began, settings)
    lease = Lease.objects.get()
    assert states(term) == (TermState.SETTLED, LeaseState.ACTIVE)
    assert (lease.starts_at, lease.expires_at) == (began, began + timedelta(seconds=600))
    # A tenth of its time before the end.
    assert lease.warns_at == began + timedelta(seconds=540)
    body = body_of(message)
    assert (message.pubkey, message.reply_to) == (BUYER, term.contract_id)
    assert (body["type"], body["id"], body["seconds"]) == ("lease", term.contract_id, 600)
    assert (body["address"], body["endpoint"]) == ("10.77.0.2/32", "192.0.2.1:51820")
    assert (body["server_pub_key"], body["expires_at"]) == (SERVER_KEY, lease.expires_at)
    assert body["payment_hash"] == bytes(term.payment_hash).hex()
    assert (told(event)["type"], told(event)["kind"], told(event)["price"]) == ("lease", "contract", "600")
    assert (event.message_id, event.from_pubkey) == (lease.contract_id, "")


def test_long_lease_is_warned_five_minutes_before_its_end(settings):
    lease = settled(settings, price="86400").lease
    assert lease.expires_at - lease.warns_at == timedelta(seconds=300)


def test_payment_is_taken_once(settings):
    term = settled(settings)
    before = Lease.objects.get().expires_at
    with pytest.raises(NoSuchWay):
        selling.settle(term, timezone.now(), settings)
    assert Lease.objects.get().expires_at == before


def test_what_is_being_taken_is_not_given_back(settings):
    term = held(settings)
    selling.decide_to_settle(term)
    with pytest.raises(NoSuchWay):
        selling.give_back(term, "too late")
    term = held(settings)
    selling.give_back(term, "no tunnel")
    with pytest.raises(NoSuchWay):
        selling.decide_to_settle(term)


def test_unpaid_invoice_ends_in_silence(settings):
    term = offered(settings)
    assert selling.cancel(term, "not paid in time") == ([], [])
    assert states(term) == (TermState.CANCELED, LeaseState.CANCELED)


def test_payment_that_was_given_back_is_told_to_buyer_and_stream(settings):
    term = held(settings)
    selling.give_back(term, "the tunnel could not be made in time")
    assert states(term) == (TermState.CANCELING, LeaseState.CANCELED)
    (message,), (event,) = selling.cancel(term, "given back")
    assert states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    text = "the tunnel could not be made in time"
    assert body_of(message) == {
        "type": "refusal",
        "reason": "canceled",
        "text": f"{text}; nothing was taken",
    }
    assert (told(event)["type"], told(event)["text"], told(event)["price"]) == ("canceled", text, "600")


def test_payment_that_lnd_gave_back_by_itself_while_it_was_to_be_taken(settings):
    term = held(settings)
    selling.decide_to_settle(term)
    messages, events = selling.cancel(term, "the payment timed out before it could be taken")
    assert states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert types_of(messages) == ["refusal"]
    assert types_of(events) == ["canceled"]
    # Its peer is to be removed.
    assert selling.leaving_keys() == [term.lease.wg_key]


def test_payment_that_was_taken_although_it_was_to_be_given_back(settings):
    term = held(settings)
    selling.give_back(term, "no tunnel")
    selling.note_taken(term)
    assert states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert "its operator has to give it back" in Term.objects.get().cause


def moment(seconds: float) -> datetime:
    return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("told_at", "begun"),
    [
        pytest.param(5, 5, id="as lnd tells it"),
        pytest.param(-60, -60, id="clocks differ a little"),
        pytest.param(70, 70, id="lnd is a minute ahead"),
        pytest.param(-61, 0, id="before it was held"),
        pytest.param(71, 10, id="in the future"),
        pytest.param(86_400, 10, id="in the far future"),
    ],
)
def test_time_that_lnd_tells_is_believed_where_it_can_be(told_at, begun):
    term = Term(held_at=moment(0))
    assert selling.begun_at(term, moment(told_at), now=moment(10)) == moment(begun)


# refreshes


def test_refresh_adds_its_time_at_the_leases_price(settings):
    lease = settled(settings).lease
    before = lease.expires_at
    term = refresh(vpn_settings(price_sat=2 * PRICE_SAT), lease, price="100")
    assert (term.kind, term.seconds, term.state) == ("refresh", 100, TermState.WANTED)
    selling.offer(term, "lnsb1…")
    selling.hold(term, settings, timezone.now())
    assert states(term) == (TermState.HELD, LeaseState.ACTIVE)
    selling.decide_to_settle(term)
    (message,), (event,) = selling.settle(term, timezone.now(), settings)
    lease.refresh_from_db()
    assert lease.expires_at == before + timedelta(seconds=100)
    body = body_of(message)
    assert (body["id"], body["seconds"]) == (lease.contract_id, 100)
    assert body["expires_at"] == lease.expires_at.replace(microsecond=0)
    assert message.reply_to == term.contract_id
    assert told(event)["kind"] == "refresh"
    assert Address.objects.count() == 1


def test_refresh_makes_an_expiring_lease_active_again(settings):
    lease = settled(settings).lease
    selling.pass_time(lease.warns_at)
    lease.refresh_from_db()
    term = refresh(settings, lease, price="600")
    selling.offer(term, "lnsb1…")
    selling.hold(term, settings, timezone.now())
    assert states(term) == (TermState.HELD, LeaseState.EXPIRING)
    selling.decide_to_settle(term)
    selling.settle(term, timezone.now(), settings)
    assert states(term) == (TermState.SETTLED, LeaseState.ACTIVE)
    assert Lease.objects.get().warns_at > timezone.now()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nonce": "0" * 32}, "unknown_lease"),
        ({"pubkey": new_key_pair().public}, "key"),
        ({"price": "9"}, "price"),
        ({"price": "86401"}, "price"),
        ({"price": "none"}, "price"),
    ],
)
def test_refresh_that_is_refused(settings, change, reason):
    lease = settled(settings).lease
    body = {"nonce": lease.nonce, "price": "100", "pubkey": lease.wg_key} | change
    assert refusal(selling.refresh_received, received(bodies.REFRESH), body, settings) == reason
    assert lease.terms.count() == 1


def test_refresh_of_anothers_lease_or_of_one_that_does_not_run(settings):
    lease = settled(settings).lease
    body = {"nonce": lease.nonce, "price": "100", "pubkey": lease.wg_key}
    strangers = received(bodies.REFRESH, sender=OTHER)
    assert refusal(selling.refresh_received, strangers, body, settings) == "unknown_lease"
    Lease.objects.update(state=LeaseState.EXPIRED)
    assert refusal(selling.refresh_received, received(bodies.REFRESH), body, settings) == "unknown_lease"


def test_refresh_when_no_price_buys_an_allowed_time_any_more(settings):
    lease = settled(settings).lease
    changed = vpn_settings(min_seconds=1, max_seconds=1, price_sat=1)
    Lease.objects.update(price_sat=1)
    lease.refresh_from_db()
    assert refusal(refresh, changed, lease) == "price"


def test_no_lease_lasts_for_ever(settings):
    lease = settled(settings).lease
    Lease.objects.update(expires_at=timezone.now() + selling.FURTHEST_END)
    assert refusal(refresh, settings, lease) == "too_long"


def test_refreshes_that_wait_for_their_payment_are_counted(settings):
    lease = settled(settings).lease
    few = vpn_settings(quotes_per_minute=2)
    for _ in range(2):
        refresh(few, lease)
    assert refusal(refresh, few, lease) == "busy"


def test_refresh_that_is_paid_when_the_lease_is_over_is_given_back(settings):
    lease = settled(settings).lease
    term = refresh(settings, lease)
    selling.offer(term, "lnsb1…")
    Lease.objects.update(state=LeaseState.EXPIRED)
    term = Term.objects.select_related("lease").get(pk=term.pk)
    selling.hold(term, settings, timezone.now())
    assert states(term) == (TermState.CANCELING, LeaseState.EXPIRED)
    (message,), _ = selling.cancel(term, "given back")
    assert body_of(message)["text"] == "the lease is over; nothing was taken"
    assert states(term) == (TermState.CANCELED, LeaseState.EXPIRED)


# the lease told again


def lease_request(term: Term, settings, *, pubkey: str = BUYER):
    message = received(bodies.LEASE_REQUEST, sender=pubkey, id=term.contract_id)
    return selling.lease_requested(message, body_of(message), settings)


def test_lease_is_told_again_to_its_buyer_alone(settings):
    term = settled(settings)
    (answer,) = lease_request(term, settings).answers
    assert (body_of(answer)["type"], body_of(answer)["id"]) == ("lease", term.contract_id)
    assert Answered.objects.count() == 1
    assert refusal(lambda: lease_request(term, settings, pubkey=OTHER)) == "unknown_lease"
    few = vpn_settings(quotes_per_minute=1)
    assert refusal(lease_request, term, few) == "too_many"


def test_lease_that_is_not_paid_yet_or_over_is_not_told(settings):
    assert lease_request(held(settings), settings).dropped == "lease_not_paid"
    given_back = held(settings)
    selling.give_back(given_back, "no tunnel")
    assert refusal(lease_request, given_back, settings) == "canceled"
    over = settled(settings)
    Lease.objects.filter(pk=over.lease_id).update(state=LeaseState.QUARANTINED)
    assert refusal(lease_request, over, settings) == "unknown_lease"


def test_refusals_are_answered_until_there_are_too_many():
    settings, refused = vpn_settings(quotes_per_minute=2), Refused("price", "price is too low")
    message = received(bodies.CONTRACT)
    for _ in range(2):
        (answer,) = selling.refusal(message, refused, settings).answers
        assert body_of(answer) == {"type": "refusal", "reason": "price", "text": "price is too low"}
        assert (answer.pubkey, answer.reply_to) == (BUYER, message.message_id)
    assert selling.refusal(message, refused, settings).dropped == "flood"
    assert selling.refusal(received(bodies.CONTRACT, sender=OTHER), refused, settings).answers
    Answered.objects.update(created_at=timezone.now() - timedelta(minutes=2))
    assert selling.refusal(message, refused, settings).answers


# time


def test_lease_is_warned_ends_rests_and_is_freed(settings):
    term = settled(settings)
    lease = term.lease
    assert selling.next_due() == lease.warns_at
    assert selling.pass_time(lease.warns_at - SECOND) == ([], [])

    (message,), (event,) = selling.pass_time(lease.warns_at)
    assert states(term)[1] == LeaseState.EXPIRING
    assert body_of(message) == {
        "type": "expiring",
        "id": lease.contract_id,
        "expires_at": lease.expires_at.replace(microsecond=0),
    }
    assert told(event)["type"] == "expiring"
    assert selling.pass_time(lease.warns_at) == ([], [])
    assert selling.next_due() == lease.expires_at

    assert selling.pass_time(lease.expires_at) == ([], [])
    assert states(term)[1] == LeaseState.EXPIRED
    assert selling.desired_peers() == {}
    assert selling.leaving_keys() == [lease.wg_key]
    assert selling.peers_gone({lease.wg_key}, lease.expires_at, settings) == ([], [])
    assert states(term)[1] == LeaseState.EXPIRED

    messages, events = selling.peers_gone(set(), lease.expires_at, settings)
    assert (types_of(messages), types_of(events)) == (["ended"], ["ended"])
    assert states(term)[1] == LeaseState.QUARANTINED
    rests_until = lease.expires_at + timedelta(seconds=300)
    assert selling.next_due() == rests_until
    assert Address.objects.get().lease_id == lease.pk

    selling.pass_time(rests_until)
    assert states(term)[1] == LeaseState.FREED
    assert (Address.objects.get().lease_id, Lease.objects.get().holds_key) == (None, False)
    assert selling.next_due() is None
    assert [step.state for step in LeaseStep.objects.order_by("pk")] == [
        "contracted",
        "held",
        "provisioning",
        "active",
        "expiring",
        "expired",
        "quarantined",
        "freed",
    ]


def test_address_that_has_rested_goes_to_the_next_buyer():
    settings = vpn_settings(networks=(ipaddress.ip_network("10.77.0.0/30"),))
    lease = settled(settings).lease
    selling.pass_time(lease.expires_at)
    selling.peers_gone(set(), lease.expires_at, settings)
    assert refusal(contracted, settings) == "full"
    selling.pass_time(lease.expires_at + timedelta(seconds=settings.quarantine_seconds))
    assert held(settings).lease.addresses == "10.77.0.2/32"


def test_lease_that_ended_while_the_node_was_away_is_not_warned(settings):
    term = settled(settings)
    assert selling.pass_time(term.lease.expires_at + SECOND) == ([], [])
    assert states(term)[1] == LeaseState.EXPIRED


@pytest.mark.parametrize("decided", [False, True], ids=["held", "being taken"])
def test_lease_does_not_end_while_a_payment_for_it_is_held(settings, decided):
    lease = settled(settings).lease
    term = refresh(settings, lease)
    selling.offer(term, "lnsb1…")
    selling.hold(term, settings, timezone.now())
    if decided:
        selling.decide_to_settle(term)
    selling.pass_time(lease.warns_at)
    late = lease.expires_at + timedelta(hours=1)
    assert selling.next_due() is None
    selling.pass_time(late)
    assert states(term)[1] == LeaseState.EXPIRING
    selling.cancel(Term.objects.select_related("lease").get(pk=term.pk), "given back")
    assert selling.next_due() == lease.expires_at
    selling.pass_time(late)
    assert states(term)[1] == LeaseState.EXPIRED


def test_refresh_that_is_only_wanted_keeps_no_lease(settings):
    lease = settled(settings).lease
    term = refresh(settings, lease)
    selling.pass_time(lease.expires_at)
    assert states(term) == (TermState.WANTED, LeaseState.EXPIRED)


def test_key_of_a_canceled_lease_is_free_when_its_peer_is_gone(settings):
    term = held(settings)
    key = term.lease.wg_key
    selling.give_back(term, "no tunnel")
    assert selling.leaving_keys() == [key]
    selling.peers_gone({key}, timezone.now(), settings)
    assert selling.is_taken(key)
    assert selling.peers_gone(set(), timezone.now(), settings) == ([], [])
    assert not selling.is_taken(key)
    assert addresses.any_free(settings.pool)
    assert held(settings, wg_key=key).lease.state == LeaseState.PROVISIONING


# what the operator does


def test_operator_ends_a_lease(settings):
    lease = settled(settings).lease
    selling.end_now(lease, "ended by the operator")
    lease = Lease.objects.get()
    assert (lease.state, lease.cause) == (LeaseState.EXPIRED, "ended by the operator")
    assert lease.expires_at <= timezone.now()
    with pytest.raises(ValueError, match="does not run"):
        selling.end_now(lease, "again")


def test_operator_ends_no_lease_that_is_being_paid_for(settings):
    lease = settled(settings).lease
    term = refresh(settings, lease)
    selling.offer(term, "lnsb1…")
    selling.hold(term, settings, timezone.now())
    with pytest.raises(ValueError, match="a payment for it is held"):
        selling.end_now(lease, "ended by the operator")
    assert states(term)[1] == LeaseState.ACTIVE


def test_buyers_are_told_of_another_tunnel_once(settings):
    assert selling.tell_changes(settings) == []
    running = settled(settings)
    refresh(settings, running.lease)
    over = settled(settings)
    Lease.objects.filter(pk=over.lease_id).update(state=LeaseState.QUARANTINED)
    held(settings)
    assert selling.tell_changes(settings) == []
    moved = vpn_settings(server_ip="198.51.100.7")
    (message,) = selling.tell_changes(moved)
    assert body_of(message)["id"] == running.contract_id
    assert body_of(message)["endpoint"] == "198.51.100.7:51820"
    assert selling.tell_changes(moved) == []


def test_unknown_lease_id_is_refused(settings):
    request = received(bodies.LEASE_REQUEST, id=uuid4())
    assert refusal(selling.lease_requested, request, body_of(request), settings) == "unknown_lease"
