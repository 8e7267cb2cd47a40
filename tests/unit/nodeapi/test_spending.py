"""What a key has spent, added up from the rows of its calls, and of what they led to."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from invoices.models import InvoicePayment
from messaging.models import Direction, Message, State
from nodeapi.models import AuditEntry
from nodeapi.spending import expenses_of, reserved_by, spent_by
from vpn.models import Purchase
from vpn.states import PurchaseState

PUBKEY = "02" + "aa" * 32
SINCE = timedelta(hours=24)


@pytest.fixture(autouse=True, scope="module")
def migrated():
    call_command("migrate", verbosity=0)
    yield
    connection.close()


@pytest.fixture(autouse=True)
def clear():
    yield
    for model in (AuditEntry, Message, InvoicePayment, Purchase):
        model.objects.all().delete()


def fee_limit_msat(amount_msat: int) -> int:
    return amount_msat // 10


def spent(caller: str = "app") -> int:
    since = timezone.now() - SINCE
    total = spent_by(caller, fee_limit_msat, since)
    certain = sum(cost for _, cost in expenses_of(caller, since))
    assert total == certain + reserved_by(caller, fee_limit_msat, since)
    return total


def note(item_id, caller: str = "app", *, hours_ago: float = 0, spends: bool = True) -> None:
    moment = timezone.now() - timedelta(hours=hours_ago)
    AuditEntry.objects.create(
        caller=caller, operation="x", outcome="accepted", message_id=item_id, spends=spends, created_at=moment
    )


def message(cost_msat: int, direction=Direction.OUT, item_id=None):
    return Message.objects.create(
        message_id=item_id or uuid4(),
        direction=direction,
        pubkey=PUBKEY,
        service="message",
        body=b"",
        amount_msat=1000,
        cost_msat=cost_msat,
        state=State.SETTLED,
    ).message_id


def payment(cost_msat: int, payment_hash: bytes = b"\1" * 32):
    return InvoicePayment.objects.create(
        payer=PUBKEY,
        payee=PUBKEY,
        payment_hash=payment_hash,
        payment_request="x",
        amount_msat=cost_msat,
        fee_limit_msat=0,
        cost_msat=cost_msat,
    ).pk


def purchase(price_sat: int, state: PurchaseState, payment_hash: bytes | None = None):
    return Purchase.objects.create(
        id=uuid4(),
        kind="contract",
        seller=PUBKEY,
        lease_id=uuid4(),
        nonce=uuid4().hex,
        price_sat=price_sat,
        hourly_price_sat=1,
        seconds=1,
        public_key="x",
        state=state,
        payment_hash=payment_hash,
    ).pk


def test_messages_of_this_key_in_the_last_day():
    note(message(5_000))
    note(message(7_000), hours_ago=23)
    note(message(11_000), hours_ago=25)
    note(message(13_000), "other")
    message(17_000)
    # The same call again, and what another node sent under the same id.
    again = message(19_000)
    note(again)
    note(again, spends=False)
    message(23_000, Direction.IN, again)
    assert (spent(), spent("other"), spent("nobody")) == (31_000, 13_000, 0)


def test_a_payment_is_on_account_of_who_began_it_last():
    begun = payment(20_000)
    note(begun, "first")
    assert (spent("first"), spent("second")) == (20_000, 0)
    note(begun, "second")
    note(begun, "first", spends=False)
    assert (spent("first"), spent("second")) == (0, 20_000)


@pytest.mark.parametrize(
    ("state", "reserved_msat"),
    [("asked", 110_000), ("invoiced", 110_000), ("paying", 110_000), ("refused", 0), ("done", 0)],
)
def test_a_lease_that_is_not_paid_yet(state, reserved_msat):
    note(purchase(100, PurchaseState(state)))
    assert spent() == reserved_msat


@pytest.mark.parametrize("state", ["paying", "paid", "done"])
def test_a_lease_costs_what_its_payment_costs(state):
    payment(103_000, b"\2" * 32)
    note(purchase(100, PurchaseState(state), b"\2" * 32))
    assert spent() == 103_000
    since = datetime.now(UTC) - SINCE
    assert (expenses_of("app", since), reserved_by("app", fee_limit_msat, since)) == ([], 103_000)
    InvoicePayment.objects.update(state=InvoicePayment.State.SETTLED)
    assert [cost for _, cost in expenses_of("app", since)] == [103_000]
    assert spent() == 103_000
