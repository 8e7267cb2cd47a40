"""What comes from other nodes is read once, and reaches the step of its kind; trouble is answered or counted."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from messaging.models import Message, Peer
from tests.support.vpn_deals import (
    BUYER,
    SELLER,
    body_of,
    forwarded,
    open_shop,
    received,
    told,
    vpn_settings,
)
from vpn import bodies, buying, handlers
from vpn.keys import new_key_pair
from vpn.models import Answered, Lease, Purchase, Quote, ReceivedQuote, Term
from vpn.services import NoFile, lease_file
from vpn.states import PurchaseState

pytestmark = [pytest.mark.usefixtures("tables"), pytest.mark.sql]


def handle(message: Message, settings=None):
    return handlers.handle(message, settings=settings or vpn_settings())


def out(type: str, **fields) -> Message:
    return forwarded(received(type, sender=SELLER, **fields), SELLER)


def test_quote_and_contract_pass_between_both_sides():
    """Each message as the other side has sent it."""
    open_shop()
    request = out(bodies.QUOTE_REQUEST)
    buying.ask_quote(request)
    (quote,) = handle(forwarded(request, BUYER)).answers
    (event,) = handle(forwarded(quote, SELLER)).events
    assert told(event)["type"] == "quote"
    nonce = ReceivedQuote.objects.get().nonce
    assert nonce == Quote.objects.get().nonce

    keys = new_key_pair()
    contract = out(bodies.CONTRACT, nonce=nonce, price="600", pubkey=keys.public)
    buying.send_contract(contract, nonce, "600", keys)
    reaction = handle(forwarded(contract, BUYER))
    assert (reaction.answers, reaction.dropped) == ([], "")
    assert Term.objects.get().contract_id == Lease.objects.get().contract_id == contract.message_id


def test_refusal_is_an_answer_that_the_other_side_understands():
    Peer.objects.create(pubkey=BUYER, marked=True)
    request = out(bodies.QUOTE_REQUEST)
    buying.ask_quote(request)
    (refusal,) = handle(forwarded(request, BUYER)).answers
    assert (refusal.pubkey, body_of(refusal)["reason"]) == (BUYER, "closed")
    assert Answered.objects.count() == 1
    (event,) = handle(forwarded(refusal, SELLER)).events
    assert (told(event)["reason"], event.message_id) == ("closed", request.message_id)


@pytest.mark.parametrize("type", [bodies.QUOTE_REQUEST, bodies.CONTRACT])
def test_closed_shop_answers_no_stranger(type):
    """Whatever a stranger asks for, and however often, makes no answer and no row."""
    fields = {"nonce": "n", "price": "600", "pubkey": new_key_pair().public}
    for _ in range(3):
        reaction = handle(received(type, **(fields if type == bodies.CONTRACT else {})))
        assert (reaction.answers, reaction.events, reaction.dropped) == ([], [], "closed")
    assert not Answered.objects.exists()


@pytest.mark.parametrize(
    "type", [bodies.QUOTE_REQUEST, bodies.CONTRACT, bodies.REFRESH, bodies.LEASE_REQUEST]
)
def test_whatever_buyers_ask_for_is_refused_until_there_are_too_many(type):
    fields = {
        bodies.QUOTE_REQUEST: {},
        bodies.LEASE_REQUEST: {"id": uuid4()},
    }.get(type, {"nonce": "unknown", "price": "600", "pubkey": new_key_pair().public})
    Peer.objects.create(pubkey=BUYER, marked=True)
    settings = vpn_settings(quotes_per_minute=1)
    assert handle(received(type, **fields), settings).answers
    reaction = handle(received(type, **fields), settings)
    assert (reaction.answers, reaction.dropped) == ([], "flood")


@pytest.mark.parametrize(
    ("type", "fields", "reason"),
    [
        (
            bodies.QUOTE,
            {
                "nonce": "n",
                "price": "1",
                "min_price": "1",
                "max_price": "1",
                "expires_at": timezone.now(),
            },
            "quote_unasked",
        ),
        (bodies.INVOICE, {"payment_request": "lnsb1"}, "invoice_unasked"),
        (
            bodies.LEASE,
            {
                "id": uuid4(),
                "address": "10.0.0.2/32",
                "endpoint": "192.0.2.1:1",
                "server_pub_key": "x",
                "allowed_ips": "0.0.0.0/0",
                "keepalive": 0,
                "expires_at": timezone.now(),
                "seconds": 1,
                "payment_hash": "00" * 32,
            },
            "lease_unasked",
        ),
        (bodies.REFUSAL, {"reason": "full"}, "refusal_unasked"),
        (bodies.EXPIRING, {"id": uuid4(), "expires_at": timezone.now()}, "no_such_lease"),
        (bodies.ENDED, {"id": uuid4(), "expires_at": timezone.now()}, "no_such_lease"),
    ],
)
def test_what_sellers_say_unasked_is_counted_and_not_answered(type, fields, reason):
    reaction = handle(received(type, sender=SELLER, **fields))
    assert (reaction.answers, reaction.events, reaction.dropped) == ([], [], reason)


ASKING = {
    bodies.QUOTE_REQUEST: {},
    bodies.CONTRACT: {"nonce": "n", "price": "600", "pubkey": "x"},
    bodies.LEASE_REQUEST: {"id": uuid4()},
    bodies.REFUSAL: {"reason": "full"},
    bodies.ENDED: {"id": uuid4(), "expires_at": timezone.now()},
}


@pytest.mark.parametrize(
    ("asked", "body", "is_one"),
    [
        (bodies.QUOTE_REQUEST, bodies.REFUSAL, True),
        (bodies.QUOTE_REQUEST, None, True),
        (bodies.CONTRACT, bodies.REFUSAL, True),
        (bodies.LEASE_REQUEST, bodies.REFUSAL, True),
        (bodies.QUOTE_REQUEST, bodies.CONTRACT, False),
        (bodies.CONTRACT, bodies.QUOTE_REQUEST, False),
        (bodies.CONTRACT, bodies.ENDED, False),
        (bodies.REFUSAL, bodies.REFUSAL, False),
        (bodies.ENDED, None, False),
    ],
)
def test_only_what_asks_has_answers_and_only_those_of_its_type(asked, body, is_one):
    answer = bodies.encode(body, **ASKING[body]) if body else None
    assert handlers.is_answer(bodies.encode(asked, **ASKING[asked]), answer) == is_one


@pytest.mark.parametrize(
    "body", [b"", b"no json", b'{"type": "unknown"}', b'{"type": "contract", "nonce": "a b"}']
)
def test_what_cannot_be_read_is_dropped(body):
    message = received(bodies.QUOTE_REQUEST)
    message.body = body
    reaction = handle(message)
    assert (reaction.answers, reaction.events) == ([], [])
    assert reaction.dropped
    assert not Answered.objects.exists()


def test_message_that_cannot_be_delivered_ends_its_contract():
    quote, keys = ReceivedQuote(request_id=uuid4(), seller=SELLER, nonce="n", price_sat=3_600), new_key_pair()
    quote.min_price_sat, quote.max_price_sat = 1, 86_400
    quote.expires_at = timezone.now() + timedelta(seconds=600)
    quote.save()
    contract = out(bodies.CONTRACT, nonce="n", price="600", pubkey=keys.public)
    buying.send_contract(contract, "n", "600", keys)
    assert handlers.failed(contract, "no route") == []
    assert Purchase.objects.get().state == PurchaseState.REFUSED
    with pytest.raises(NoFile):
        lease_file(lease_id=contract.message_id)
