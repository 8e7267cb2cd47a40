"""Payments that lnd calls under way for good: when they are given up, and what is seen of them beside an lnd in memory."""

import asyncio
from dataclasses import replace

import grpc
import pytest

from lightning import keysend
from lightning.carrier import KeysendCarrier, Outcome, Shipment, Verdict
from lightning.client import LndError
from lightning.dead_payments import (
    SMALL_MSAT,
    ChannelView,
    DeadPayments,
    Facts,
    Finding,
    channel_view,
    expiry_height,
    judge,
)
from lightning.rpcs import Rpc
from protos.lnrpc import lightning_pb2
from tests.support.fake_lnd import connected
from tests.support.waiting import GUARD_SECONDS, until_in_loop

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
QUIET = 600.0
DEAD = Facts(
    may_be_repeated=True,
    amount_msat=1_000,
    held=False,
    unheld_seconds=QUIET,
    active_seconds=QUIET,
    restarted=True,
    block_height=100,
    expiry_height=180,
)


@pytest.mark.parametrize(
    ("facts", "finding"),
    [
        (DEAD, Finding.DEAD),
        (replace(DEAD, amount_msat=SMALL_MSAT), Finding.DEAD),
        # Each part of the rule by itself.
        (replace(DEAD, held=True), Finding.ALIVE),
        (replace(DEAD, restarted=False), Finding.ALIVE),
        (replace(DEAD, unheld_seconds=QUIET - 1), Finding.SUSPECT),
        (replace(DEAD, active_seconds=QUIET - 1), Finding.SUSPECT),
        (replace(DEAD, active_seconds=0), Finding.SUSPECT),
        # What might be paid twice waits until its route has expired, and so does what cannot have another hash.
        (replace(DEAD, amount_msat=SMALL_MSAT + 1), Finding.SUSPECT),
        (replace(DEAD, may_be_repeated=False), Finding.SUSPECT),
        (replace(DEAD, may_be_repeated=False, block_height=180), Finding.SUSPECT),
        (replace(DEAD, may_be_repeated=False, block_height=181), Finding.DEAD),
        (replace(DEAD, amount_msat=10**12, block_height=181), Finding.DEAD),
        # Beyond the expiry it does not matter whether lnd was restarted and what the channels are.
        (replace(DEAD, restarted=False, active_seconds=0, block_height=181), Finding.DEAD),
        (replace(DEAD, restarted=False, unheld_seconds=0, block_height=181), Finding.SUSPECT),
        (replace(DEAD, held=True, block_height=181), Finding.ALIVE),
        # lnd tells of no HTLC: nothing can have expired.
        (replace(DEAD, may_be_repeated=False, expiry_height=0, block_height=10**6), Finding.SUSPECT),
    ],
)
def test_rule(facts, finding):
    assert judge(facts, quiet_seconds=QUIET) is finding


HASH = b"\x01" * 32


def channel(*, active: bool = True, lifetime: int = 50, htlcs=()) -> lightning_pb2.Channel:
    return lightning_pb2.Channel(active=active, lifetime=lifetime, pending_htlcs=htlcs)


def view_of(*channels: lightning_pb2.Channel, **pending) -> ChannelView:
    return channel_view(
        lightning_pb2.ListChannelsResponse(channels=channels),
        lightning_pb2.PendingChannelsResponse(**pending),
        lightning_pb2.GetInfoResponse(block_height=100),
    )


def test_what_channels_hold():
    ours = lightning_pb2.HTLC(hash_lock=HASH)
    forwarded = lightning_pb2.HTLC(hash_lock=b"\x02" * 32, incoming=True)
    assert view_of(channel(htlcs=[forwarded, ours])).held == {HASH}
    assert view_of(channel(), channel()).all_active
    assert not view_of(channel(), channel(active=False)).all_active
    assert not view_of().all_active


@pytest.mark.parametrize("incoming", [True, False])
def test_channels_that_are_closed_may_hold_what_they_do_not_name(incoming):
    pending = lightning_pb2.PendingChannelsResponse
    closing = pending.ForceClosedChannel(pending_htlcs=[lightning_pb2.PendingHTLC(incoming=incoming)])
    assert view_of(channel(), pending_force_closing_channels=[closing]).may_hold_more is not incoming
    assert view_of(channel(), waiting_close_channels=[pending.WaitingCloseChannel()]).may_hold_more
    assert not view_of(channel(), pending_force_closing_channels=[pending.ForceClosedChannel()]).may_hold_more


@pytest.mark.parametrize(
    ("lifetimes", "age_seconds", "younger"),
    [
        ([50, 10], 60, True),
        # The other channel was opened later.
        ([500, 10], 60, False),
        ([59], 60, False),
        # lnd has watched none: an older one does not tell it.
        ([0], 60, False),
        ([], 60, False),
    ],
)
def test_restart_of_lnd_shows_in_how_long_it_has_watched_its_channels(lifetimes, age_seconds, younger):
    view = view_of(*(channel(lifetime=lifetime) for lifetime in lifetimes))
    assert view.is_younger_than(age_seconds) is younger


def test_expiry_is_that_of_the_latest_part():
    locks = [(300, lightning_pb2.HTLCAttempt.IN_FLIGHT), (310, lightning_pb2.HTLCAttempt.FAILED)]
    htlcs = [
        lightning_pb2.HTLCAttempt(status=status, route=lightning_pb2.Route(total_time_lock=lock))
        for lock, status in locks
    ]
    assert expiry_height(lightning_pb2.Payment(htlcs=htlcs)) == 310
    assert expiry_height(lightning_pb2.Payment()) == 0


# beside an lnd in memory


class Pair:
    """alice, whose carrier is watched, and bob, with a clock that tests move."""

    def __init__(self) -> None:
        self.alice, self.bob = connected("alice", "bob")
        self.now = 1_000_000.0
        self.alice.node.started_at = self.bob.node.started_at = 0.0
        self.begin()

    def begin(self) -> None:
        """As after a start of this process."""
        self.dead_payments = DeadPayments(
            self.alice, quiet_seconds=QUIET, wall=lambda: self.now, steady=lambda: self.now
        )
        self.carrier = KeysendCarrier(
            self.alice, max_fee_sat=10, max_fee_percent=5, dead_payments=self.dead_payments
        )

    def shipment(self, amount_msat: int = 1_000) -> Shipment:
        return Shipment(
            destination=self.bob.node.pubkey,
            record_number=400_000,
            record=b"hello",
            amount_msat=amount_msat,
            secret=keysend.new_preimage(),
            began_at=self.now,
        )

    def track(self, shipment: Shipment) -> asyncio.Task[Outcome]:
        return asyncio.create_task(self.carrier.outcome(shipment))

    async def stranded(self, amount_msat: int = 1_000) -> Shipment:
        """Its lnd was killed, and has just been started again."""
        self.bob.strand_payments_to()
        shipment = self.shipment(amount_msat)
        sending = asyncio.create_task(self.carrier.send(shipment))
        await until_in_loop(lambda: self.carrier.name_of(shipment.secret) in self._stranded())
        # It takes a while to start.
        self.now += 10
        self.restart_lnd()
        assert (await sending).verdict is Verdict.UNKNOWN
        return shipment

    def restart_lnd(self) -> None:
        self.alice.stop()
        self.alice.start()

    def _stranded(self) -> set[bytes]:
        in_flight = self.alice.services.network.store.open_payments()
        return {bytes.fromhex(payment.payment_hash) for _, payment, _, route, _ in in_flight if not route}

    async def pass_seconds(self, seconds: float, *, step: float = 30.0) -> None:
        """Looks all the while, as `run` does."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            # Time that lnd has run.
            self.alice.node.started_at -= step
            await self.dead_payments.look()
            await asyncio.sleep(0)


@pytest.fixture
def pair() -> Pair:
    return Pair()


async def ended(task: asyncio.Task[Outcome]) -> Outcome:
    async with asyncio.timeout(GUARD_SECONDS):
        return await task


async def test_dead_payment_is_given_up(pair):
    tracking = pair.track(shipment := await pair.stranded())
    await pair.pass_seconds(QUIET)
    name = pair.carrier.name_of(shipment.secret)
    assert not tracking.done()
    assert pair.carrier.suspected[name].startswith("lnd holds a dead payment")
    await pair.pass_seconds(120)
    outcome = await ended(tracking)
    assert outcome.verdict is Verdict.DEAD
    assert "no channel held it" in outcome.cause
    assert not pair.carrier.suspected
    assert (await pair.alice.payment_now(name)).status == lightning_pb2.Payment.IN_FLIGHT


async def test_it_is_given_up_after_a_restart_of_this_process_too(pair):
    shipment = await pair.stranded()
    pair.begin()
    tracking = pair.track(shipment)
    await pair.pass_seconds(QUIET + 120)
    assert (await ended(tracking)).verdict is Verdict.DEAD


async def test_payment_that_a_channel_holds_is_waited_for(pair):
    pair.bob.hold_payments_to()
    shipment = pair.shipment()
    sending = asyncio.create_task(pair.carrier.send(shipment))
    await until_in_loop(lambda: pair.alice.services.payments.htlcs_of(pair.alice.node))
    pair.restart_lnd()
    await ended(sending)
    tracking = pair.track(shipment)
    await pair.pass_seconds(3 * QUIET)
    pair.alice.services.network.block_height += 10_000
    await pair.pass_seconds(3 * QUIET)
    assert not pair.carrier.suspected
    pair.bob.release_payments_to()
    assert (await ended(tracking)).verdict is Verdict.SETTLED


async def test_without_a_restart_of_lnd_it_is_waited_for(pair):
    """A connection that broke is none."""
    pair.bob.strand_payments_to()
    shipment = pair.shipment()
    sending = asyncio.create_task(pair.carrier.send(shipment))
    await until_in_loop(lambda: pair.alice.requests(Rpc.SEND_PAYMENT))
    pair.alice.node.started_at = -1_000_000
    pair.alice.break_streams()
    await ended(sending)
    tracking = pair.track(shipment)
    await pair.pass_seconds(3 * QUIET)
    assert not tracking.done()
    assert not pair.carrier.suspected
    tracking.cancel()


async def test_without_a_break_of_the_connection_it_is_waited_for(pair):
    """A clock that is wrong makes a payment look older than it is."""
    pair.bob.strand_payments_to()
    sending = asyncio.create_task(pair.carrier.send(pair.shipment()))
    await until_in_loop(lambda: pair.alice.requests(Rpc.SEND_PAYMENT))
    pair.alice.node.started_at = pair.alice.node.started_at + 1
    pair.now += 10 * QUIET
    await pair.pass_seconds(3 * QUIET)
    assert not sending.done()
    sending.cancel()


async def test_time_counts_while_all_channels_are_active(pair):
    tracking = pair.track(await pair.stranded())
    await pair.pass_seconds(QUIET)
    pair.bob.stop()
    await pair.pass_seconds(QUIET)
    assert not tracking.done()
    pair.bob.start()
    await pair.pass_seconds(QUIET)
    assert not tracking.done()
    await pair.pass_seconds(120)
    assert (await ended(tracking)).verdict is Verdict.DEAD


async def test_time_does_not_count_while_lnd_is_not_seen(pair):
    tracking = pair.track(await pair.stranded())
    await pair.pass_seconds(QUIET)
    pair.alice.refuse(Rpc.LIST_CHANNELS, UNAVAILABLE)
    with pytest.raises(LndError):
        await pair.dead_payments.look()
    # Nobody has looked since.
    pair.now += 10 * QUIET
    await pair.pass_seconds(QUIET)
    assert not tracking.done()
    await pair.pass_seconds(120)
    assert (await ended(tracking)).verdict is Verdict.DEAD


async def test_large_amount_is_given_up_once_its_route_has_expired(pair):
    shipment = await pair.stranded(SMALL_MSAT + 1_000)
    tracking = pair.track(shipment)
    await pair.pass_seconds(3 * QUIET)
    payment = await pair.alice.payment_now(pair.carrier.name_of(shipment.secret))
    (suspicion,) = pair.carrier.suspected.values()
    assert f"block {expiry_height(payment)}" in suspicion
    pair.alice.services.network.block_height = expiry_height(payment)
    await pair.pass_seconds(QUIET)
    assert not tracking.done()
    pair.alice.services.network.block_height += 1
    await pair.pass_seconds(60)
    outcome = await ended(tracking)
    assert outcome.verdict is Verdict.DEAD
    assert f"expired at block {expiry_height(payment)}" in outcome.cause


async def test_lnd_is_asked_nothing_while_no_payment_is_old(pair):
    await pair.carrier.send(pair.shipment())
    pair.bob.hold_payments_to()
    sending = asyncio.create_task(pair.carrier.send(pair.shipment()))
    await until_in_loop(lambda: len(pair.alice.requests(Rpc.SEND_PAYMENT)) == 2)
    before = len(pair.alice.server.calls)
    await pair.dead_payments.look()
    assert len(pair.alice.server.calls) == before
    pair.bob.release_payments_to()
    assert (await ended(sending)).verdict is Verdict.SETTLED


async def test_end_that_lnd_tells_at_the_last_moment_counts(pair):
    """No channel holds it any more, because it has just been paid."""
    tracking = pair.track(shipment := await pair.stranded())
    await pair.pass_seconds(QUIET)
    store, name = pair.alice.services.network.store, pair.carrier.name_of(shipment.secret)
    payment = store.payment(pair.alice.node.id, name)
    payment.status = lightning_pb2.Payment.SUCCEEDED
    store.put_payment(pair.alice.node.id, payment, None, None)
    await pair.pass_seconds(QUIET)
    assert not tracking.done()
    pair.alice.node.streams.publish(("payment", name), payment)
    assert (await ended(tracking)).verdict is Verdict.SETTLED


async def test_run_looks_again_and_again(pair, caplog):
    pair.dead_payments = DeadPayments(pair.alice, quiet_seconds=0.2, wall=lambda: pair.now + 100)
    pair.carrier = KeysendCarrier(
        pair.alice, max_fee_sat=10, max_fee_percent=5, dead_payments=pair.dead_payments
    )
    shipment = await pair.stranded()
    pair.alice.node.started_at -= 1
    pair.alice.refuse(Rpc.LIST_CHANNELS, UNAVAILABLE)
    running = asyncio.create_task(pair.dead_payments.run())
    assert (await ended(pair.track(shipment))).verdict is Verdict.DEAD
    running.cancel()
    assert "a dead payment of lnd's is given up" in caplog.messages
