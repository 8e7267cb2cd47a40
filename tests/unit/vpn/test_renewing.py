"""Bought leases that are renewed: only those in use, a little before their end, and within the budget."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from invoices.models import InvoicePayment
from messaging.outgoing import new_message
from tests.support.fake_lnd import connected
from tests.support.fake_wireguard import FakeWireGuard
from tests.support.vpn_deals import (
    GUARD_SECONDS,
    OTHER,
    SELLER,
    SERVER_KEY,
    SetClock,
    body_of,
    make_side,
    types_of,
    vpn_settings,
)
from vpn import buyer, buying, reliability, renewing
from vpn.buyer import Buyer
from vpn.keys import new_key_pair
from vpn.models import Purchase, PurchasedLease
from vpn.programs import ProgramMissing
from vpn.states import BoughtState, PurchaseState

pytestmark = pytest.mark.sql

NOW = timezone.now()
SETTINGS = vpn_settings(auto_renew=True, auto_renew_budget_sat=1_000, auto_renew_lead_seconds=600)
TUNNEL = "wg-quick0"


def cost_msat(size_bytes: int, amount_msat: int) -> int:
    """Of a message or a payment, with a fee of at most 10 sat."""
    return amount_msat + 10_000


def lease_of(left_seconds: float, **fields) -> PurchasedLease:
    values = {
        "seller": SELLER,
        "nonce": uuid4().hex,
        "price_sat": 3_600,
        "public_key": new_key_pair().public,
        "peering": {"server_pub_key": SERVER_KEY},
        "expires_at": NOW + timedelta(seconds=left_seconds),
    }
    return PurchasedLease.objects.create(**(values | fields))


def purchase_of(lease: PurchasedLease, *, age_seconds: float = 3_000, **fields) -> Purchase:
    values = {
        "id": uuid4(),
        "kind": "contract",
        "seller": lease.seller,
        "lease_id": lease.pk,
        "nonce": lease.nonce,
        "price_sat": 400,
        "hourly_price_sat": 3_600,
        "seconds": 86_400,
        "public_key": lease.public_key,
        "state": PurchaseState.DONE,
        "created_at": NOW - timedelta(seconds=age_seconds),
    }
    return Purchase.objects.create(**(values | fields))


@pytest.mark.parametrize(
    ("left_seconds", "is_due"), [(601, False), (600, True), (1, True), (0, False), (-5, False)]
)
def test_due_within_the_lead(tables, left_seconds, is_due):
    lease = lease_of(left_seconds)
    purchase_of(lease)
    assert renewing.due(NOW, SETTINGS) == ([lease] if is_due else [])


def test_short_time_is_renewed_in_its_second_half(tables):
    lease = lease_of(51)
    purchase_of(lease, seconds=100)
    assert renewing.due(NOW, SETTINGS) == []
    assert renewing.due(NOW + timedelta(seconds=1), SETTINGS) == [lease]


def test_lease_that_is_over_or_was_never_paid_here_is_not_due(tables):
    purchase_of(lease_of(60, state=BoughtState.ENDED))
    lease_of(60)
    assert renewing.due(NOW, SETTINGS) == []


@pytest.mark.parametrize(
    "state", [PurchaseState.ASKED, PurchaseState.INVOICED, PurchaseState.PAYING, PurchaseState.PAID]
)
def test_lease_that_is_being_prolonged_is_not_due(tables, state):
    lease = lease_of(60)
    purchase_of(lease)
    purchase_of(lease, kind="refresh", state=state, age_seconds=500)
    assert renewing.due(NOW, SETTINGS) == []


def test_refused_renewal_is_tried_again_a_little_later(tables):
    lease = lease_of(60)
    purchase_of(lease)
    refused = purchase_of(lease, state=PurchaseState.REFUSED, age_seconds=119)
    assert renewing.due(NOW, SETTINGS) == []
    Purchase.objects.filter(pk=refused.pk).update(created_at=NOW - renewing.AGAIN)
    assert renewing.due(NOW, SETTINGS) == [lease]


# whether the tunnel is in use


def tunnel(lease: PurchasedLease, *, age_seconds: float | None, server: str = SERVER_KEY) -> FakeWireGuard:
    """Up on this machine, its last handshake so old; None: it never had one."""
    wireguard = FakeWireGuard()
    wireguard.add_interface(TUNNEL, public_key=lease.public_key)
    interface = wireguard.wg.interfaces[TUNNEL]
    interface.set_peer(server, [])
    if age_seconds is not None:
        # `wg` tells whole seconds.
        moment = NOW.replace(microsecond=0) - timedelta(seconds=age_seconds)
        interface.peers[server].latest_handshake = moment
    return wireguard


@pytest.mark.parametrize(("age_seconds", "in_use"), [(0, True), (299, True), (301, False), (None, False)])
async def test_in_use_is_whose_last_handshake_is_fresh(age_seconds, in_use):
    lease = PurchasedLease(public_key=new_key_pair().public, peering={"server_pub_key": SERVER_KEY})
    assert await renewing.is_in_use(tunnel(lease, age_seconds=age_seconds), lease, NOW) is in_use


async def test_tunnel_that_cannot_be_seen_is_not_in_use():
    lease = PurchasedLease(public_key=new_key_pair().public, peering={"server_pub_key": SERVER_KEY})
    elsewhere = FakeWireGuard()
    to_another = tunnel(lease, age_seconds=0, server=new_key_pair().public)
    without_wg = tunnel(lease, age_seconds=0)
    without_wg.wg.trouble = ProgramMissing("/usr/bin/wg")
    for wireguard in (elsewhere, to_another, without_wg):
        assert await renewing.is_in_use(wireguard, lease, NOW) is False


# the refresh


def test_renewal_buys_what_was_bought_last(tables):
    lease = lease_of(60)
    purchase_of(lease, price_sat=999)
    purchase_of(lease, price_sat=400, age_seconds=500)
    (message,) = renewing.renew(lease, NOW, SETTINGS, cost_msat)
    assert message.pubkey == SELLER
    assert body_of(message) == {
        "type": "refresh",
        "nonce": lease.nonce,
        "price": "400",
        "pubkey": lease.public_key,
    }
    purchase = Purchase.objects.get(pk=message.message_id)
    assert (purchase.kind, purchase.automatic, purchase.state) == ("refresh", True, PurchaseState.ASKED)
    assert purchase.lease_id == lease.pk
    # Looked at again, it is under way.
    assert renewing.renew(lease, NOW, SETTINGS, cost_msat) == []
    assert Purchase.objects.filter(automatic=True).count() == 1


@pytest.mark.parametrize(
    ("before", "renews"),
    [
        # 400 and 10 for the lease, 1 and 10 for the message that asks for it.
        ({"price_sat": 569}, True),
        ({"price_sat": 570}, False),
        ({"price_sat": 570, "automatic": False}, True),
        ({"price_sat": 570, "state": PurchaseState.REFUSED}, True),
        ({"price_sat": 570, "age_seconds": 86_401}, True),
        ({"price_sat": 570, "state": PurchaseState.PAYING}, False),
    ],
)
def test_renewals_of_a_day_stay_within_their_budget(tables, before, renews):
    """With the fees that they may cost."""
    lease = lease_of(60)
    purchase_of(lease)
    purchase_of(lease_of(90_000), **({"automatic": True, "age_seconds": 86_000} | before))
    assert bool(renewing.renew(lease, NOW, SETTINGS, cost_msat)) is renews


def paid_for(purchase: Purchase, *, price_sat: int, fee_sat: int, state: str = "settled") -> None:
    payment_hash = purchase.pk.bytes * 2
    Purchase.objects.filter(pk=purchase.pk).update(payment_hash=payment_hash)
    InvoicePayment.objects.create(
        payee=SELLER,
        payment_hash=payment_hash,
        payment_request="lnsb1invoice",
        amount_msat=price_sat * 1000,
        fee_limit_msat=10_000,
        fee_msat=fee_sat * 1000,
        cost_msat=0 if state == "failed" else (price_sat + fee_sat) * 1000,
        state=state,
    )


def sent_for(message_id: UUID, *, cost_sat: int, age_seconds: float = 60) -> None:
    message = new_message(service="vpn", pubkey=SELLER, body=b"{}", message_id=message_id)
    message.cost_msat, message.created_at = cost_sat * 1000, NOW - timedelta(seconds=age_seconds)
    message.save()


@pytest.mark.parametrize("state", [PurchaseState.DONE, PurchaseState.PAID, PurchaseState.REFUSED])
def test_what_was_paid_is_spent_with_its_fee_whatever_became_of_it(tables, state):
    """The seller who was paid and never told of the lease is refused in the end; its money is gone."""
    purchase = purchase_of(lease_of(60), automatic=True, state=state)
    paid_for(purchase, price_sat=400, fee_sat=7)
    assert renewing.spent(NOW, cost_msat) == 407_000


def test_what_was_given_back_is_not_spent(tables):
    purchase = purchase_of(lease_of(60), automatic=True, state=PurchaseState.REFUSED)
    paid_for(purchase, price_sat=400, fee_sat=7, state="failed")
    assert renewing.spent(NOW, cost_msat) == 0


def test_messages_of_renewals_are_spent(tables):
    """Of one that was refused, and of those that ask again for a lease, however old it is, as far as they are of today."""
    refused = purchase_of(lease_of(60), automatic=True, state=PurchaseState.REFUSED)
    sent_for(refused.pk, cost_sat=3)
    asking = purchase_of(
        lease_of(60), automatic=True, state=PurchaseState.PAID, age_seconds=90_000, asked_again=30
    )
    sent_for(buying.ask_id(asking, 1), cost_sat=100, age_seconds=89_000)
    sent_for(buying.ask_id(asking, 29), cost_sat=5)
    sent_for(buying.ask_id(asking, 30), cost_sat=6)
    manual = purchase_of(lease_of(60), state=PurchaseState.PAID)
    sent_for(manual.pk, cost_sat=1_000)
    assert renewing.spent(NOW, cost_msat) == 14_000


def test_refusals_make_the_next_try_wait_longer_and_longer(tables):
    lease = lease_of(600)
    purchase_of(lease)
    for number, pause_seconds in enumerate((120, 240, 480, 960, 1_920, 3_840, 3_840)):
        purchase_of(lease, state=PurchaseState.REFUSED, age_seconds=-number)
        asked_at = NOW + timedelta(seconds=number)
        PurchasedLease.objects.update(expires_at=asked_at + timedelta(seconds=pause_seconds + 60))
        before, due = (asked_at + timedelta(seconds=pause_seconds + more) for more in (-1, 0))
        assert renewing.due(before, SETTINGS) == []
        assert renewing.due(due, SETTINGS) == [lease]


def test_no_renewal_of_a_lease_whose_end_has_not_moved_by_what_was_bought(tables):
    """Even where nobody has noticed before: its rows alone say so."""
    lease = lease_of(60)
    purchase_of(lease)
    renewal = purchase_of(lease, kind="refresh", automatic=True, seconds=100, age_seconds=500)
    for moved_seconds, is_due in ((0, False), (98, False), (99, True), (100, True), (10**6, True)):
        Purchase.objects.filter(pk=renewal.pk).update(
            ended_before=lease.expires_at - timedelta(seconds=moved_seconds)
        )
        assert renewing.due(NOW + timedelta(seconds=30), SETTINGS) == ([lease] if is_due else [])


def test_no_renewal_with_a_seller_that_did_not_keep_what_was_agreed(tables):
    lease, with_another = lease_of(60), lease_of(60, seller=OTHER)
    for one in (lease, with_another):
        purchase_of(one)
    reliability.distrust(SELLER, reliability.LESS_TIME, "half of it", lease_id=uuid4())
    assert renewing.due(NOW, SETTINGS) == [with_another]
    assert renewing.renew(lease, NOW, SETTINGS, cost_msat) == []
    reliability.trust(SELLER)
    assert renewing.due(NOW, SETTINGS) == [lease, with_another]


def test_lease_that_ended_since_it_was_found_due_is_not_renewed(tables):
    lease = lease_of(60)
    purchase_of(lease)
    PurchasedLease.objects.update(state=BoughtState.ENDED)
    assert renewing.renew(lease, NOW, SETTINGS, cost_msat) == []


async def test_worker_renews_what_is_in_use_once(database):
    def rows() -> tuple[PurchasedLease, PurchasedLease]:
        used, unused = lease_of(300), lease_of(300)
        for lease in (used, unused):
            purchase_of(lease)
        return used, unused

    used, _ = await database.write(rows)
    (lnd,) = connected("buyer")
    side = make_side(database, lnd, SETTINGS, SetClock(NOW.timestamp()))
    worker = Buyer(side.context, tunnel(used, age_seconds=0))
    await worker.renew()
    assert types_of(side.sent) == ["refresh"]
    assert body_of(side.sent[0])["pubkey"] == used.public_key
    await worker.renew()
    assert len(side.sent) == 1


async def test_running_worker_renews_after_a_look_that_failed(database, monkeypatch):
    monkeypatch.setattr(buyer, "RENEW_SECONDS", 0.0)

    def rows() -> PurchasedLease:
        lease = lease_of(300)
        purchase_of(lease)
        return lease

    used = await database.write(rows)
    (lnd,) = connected("buyer")
    side = make_side(database, lnd, SETTINGS, SetClock(NOW.timestamp()))
    worker = Buyer(side.context, tunnel(used, age_seconds=0))
    due, failures = renewing.due, iter([RuntimeError("a mistake")])

    def due_later(now, settings):
        if (error := next(failures, None)) is not None:
            raise error
        return due(now, settings)

    monkeypatch.setattr(renewing, "due", due_later)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(GUARD_SECONDS):
        while not side.sent:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert types_of(side.sent) == ["refresh"]
    assert next(failures, None) is None
