"""Bought leases that are renewed: only those in use, a little before their end, and within the budget."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from tests.support.fake_lnd import connected
from tests.support.fake_wireguard import FakeWireGuard
from tests.support.vpn_deals import (
    GUARD_SECONDS,
    SELLER,
    SERVER_KEY,
    SetClock,
    body_of,
    make_side,
    types_of,
    vpn_settings,
)
from vpn import buyer, renewing
from vpn.buyer import Buyer
from vpn.keys import new_key_pair
from vpn.models import Purchase, PurchasedLease
from vpn.programs import ProgramMissing
from vpn.states import BoughtState, PurchaseState

pytestmark = pytest.mark.sql

NOW = timezone.now()
SETTINGS = vpn_settings(auto_renew=True, auto_renew_budget_sat=1_000, auto_renew_lead_seconds=600)
TUNNEL = "wg-quick0"


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
    (message,) = renewing.renew(lease, NOW, SETTINGS)
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
    assert renewing.renew(lease, NOW, SETTINGS) == []
    assert Purchase.objects.filter(automatic=True).count() == 1


@pytest.mark.parametrize(
    ("before", "renews"),
    [
        ({"price_sat": 600}, True),
        ({"price_sat": 601}, False),
        ({"price_sat": 601, "automatic": False}, True),
        ({"price_sat": 601, "state": PurchaseState.REFUSED}, True),
        ({"price_sat": 601, "age_seconds": 86_401}, True),
        ({"price_sat": 601, "state": PurchaseState.PAYING}, False),
    ],
)
def test_renewals_of_a_day_stay_within_their_budget(tables, before, renews):
    lease = lease_of(60)
    purchase_of(lease)
    purchase_of(lease_of(90_000), **({"automatic": True, "age_seconds": 86_000} | before))
    assert bool(renewing.renew(lease, NOW, SETTINGS)) is renews


def test_lease_that_ended_since_it_was_found_due_is_not_renewed(tables):
    lease = lease_of(60)
    purchase_of(lease)
    PurchasedLease.objects.update(state=BoughtState.ENDED)
    assert renewing.renew(lease, NOW, SETTINGS) == []


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
