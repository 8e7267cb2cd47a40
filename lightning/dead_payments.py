"""Payments that lnd calls under way for good, although no channel holds an HTLC of theirs.

kill -9 of the paying lnd at the wrong instant leaves such payments: it records an HTLC that no channel has, and waits
for its end after each restart. When one of them is dead is decided by `judge`, which is pure; DeadPayments collects the
facts.

lnd tells neither when it was started nor that it was started again. What it does tell is for how long it has watched
each channel (Channel.lifetime), which begins anew at each start. Where even the longest of these is shorter than the age
of a payment, lnd was started after the payment began: this needs no memory of ours, and holds after a restart of this
node too. Clocks may lie, for example after the machine was suspended. Therefore the connection must have ended as well
since the payment began; for what an earlier process of this node began, it surely has.
"""

import asyncio
import enum
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from lightning.client import LndClient, LndError
from protos.lnrpc import lightning_pb2

logger = logging.getLogger("lightning.dead_payments")

# How long no channel may hold the payment before it is given up.
QUIET_SECONDS = 600.0
LOOK_SECONDS = 30.0
# lnd looks for a route for so long; until then a payment without an HTLC is nothing unusual.
YOUNG_SECONDS = 60.0
# What is paid again before its route has expired may, at the worst, be paid twice. Packets of messages cost less than this:
# some twenty items of 1 sat each, and the fee. It is less than the time of the operator who would look at it is worth.
SMALL_MSAT = 100_000
# lnd rounds the lifetime of a channel down to whole seconds.
ROUNDING_SECONDS = 1.0

Answer = TypeVar("Answer")
IN_FLIGHT = (lightning_pb2.Payment.IN_FLIGHT, lightning_pb2.Payment.INITIATED)


class Finding(enum.Enum):
    ALIVE = "alive"
    SUSPECT = "suspect"  # all speaks for a dead payment, but it might still come to life
    DEAD = "dead"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a payment that lnd calls under way.

    `held`: a channel holds its HTLC, or may hold it. `unheld_seconds`: for how long none has, without a gap in what was
    seen. `active_seconds`: the same of every channel being active. `restarted`: lnd was started after the payment began.
    `expiry_height`: of the latest HTLC that lnd records for it; 0 if it records none.
    """

    may_be_repeated: bool
    amount_msat: int
    held: bool
    unheld_seconds: float
    active_seconds: float
    restarted: bool
    block_height: int
    expiry_height: int

    @property
    def has_expired(self) -> bool:
        return 0 < self.expiry_height < self.block_height


def judge(facts: Facts, *, quiet_seconds: float = QUIET_SECONDS) -> Finding:
    """Whether the payment is dead.

    Small payments that can be made again with another hash are given up once lnd was restarted, and no channel has held
    them while all channels were active, for `quiet_seconds`. All others are given up once their route has expired and no
    channel has held them for `quiet_seconds`; restarts, and whether channels are active, do not matter then.
    """
    if facts.held or not (facts.restarted or facts.has_expired):
        return Finding.ALIVE
    if facts.unheld_seconds < quiet_seconds:
        return Finding.SUSPECT
    if facts.has_expired:
        return Finding.DEAD
    is_small = facts.may_be_repeated and facts.amount_msat <= SMALL_MSAT
    return Finding.DEAD if is_small and facts.active_seconds >= quiet_seconds else Finding.SUSPECT


@dataclass(frozen=True, kw_only=True)
class ChannelView:
    """What lnd says of its channels at one moment. `may_hold_more`: a channel that is being closed may hold HTLCs whose
    hashes lnd does not tell. `watched_seconds`: for how long lnd has watched a channel, at least as long as any other.
    """

    held: frozenset[bytes]
    may_hold_more: bool
    all_active: bool
    watched_seconds: int
    block_height: int

    def is_younger_than(self, age_seconds: float) -> bool:
        """Whether this run of lnd surely is. One without channels cannot be told."""
        return 0 < self.watched_seconds < age_seconds - ROUNDING_SECONDS


def channel_view(
    listed: lightning_pb2.ListChannelsResponse,
    pending: lightning_pb2.PendingChannelsResponse,
    info: lightning_pb2.GetInfoResponse,
) -> ChannelView:
    closing = any(
        not htlc.incoming
        for channel in pending.pending_force_closing_channels
        for htlc in channel.pending_htlcs
    )
    return ChannelView(
        held=frozenset(
            htlc.hash_lock
            for channel in listed.channels
            for htlc in channel.pending_htlcs
            if not htlc.incoming
        ),
        may_hold_more=closing or bool(pending.waiting_close_channels),
        all_active=bool(listed.channels) and all(channel.active for channel in listed.channels),
        watched_seconds=max((channel.lifetime for channel in listed.channels), default=0),
        block_height=info.block_height,
    )


def expiry_height(payment: lightning_pb2.Payment) -> int:
    """Of the latest HTLC that lnd has recorded for it, whatever it says has become of that; 0 if there is none."""
    return max((htlc.route.total_time_lock for htlc in payment.htlcs), default=0)


class DeadPaymentError(Exception):
    """lnd will never tell the end of this payment. The text is fit for a cause."""


@dataclass(eq=False, kw_only=True)
class Watched:
    """A payment whose end is waited for.

    `began_at` in Unix seconds. `interrupted`: it may be older than the present connection to lnd. `may_be_repeated`:
    with another hash. The rest is what the looks have found.
    """

    payment_hash: bytes
    amount_msat: int
    began_at: float
    interrupted: bool
    may_be_repeated: bool
    suspicion: str = ""
    unheld_since: float | None = None
    bound: asyncio.Timeout | None = field(default=None, repr=False)
    verdict: str = ""


class DeadPayments:
    """Looks at payments that are under way for long, while `run` runs. Use from one event loop."""

    def __init__(
        self,
        client: LndClient,
        *,
        quiet_seconds: float = QUIET_SECONDS,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ):
        self._client = client
        self._quiet_seconds = quiet_seconds
        self._young_seconds = min(YOUNG_SECONDS, quiet_seconds)
        self._look_seconds = min(LOOK_SECONDS, quiet_seconds / 4)
        self._wall, self._steady = wall, steady
        self._watched: set[Watched] = set()
        self._active_since: float | None = None
        self._looked_at: float | None = None

    @property
    def suspected(self) -> Mapping[bytes, str]:
        """Payments that lnd seems to hold dead, with a text that says so, by payment hash."""
        return {one.payment_hash: one.suspicion for one in self._watched if one.suspicion}

    async def end_of(self, watched: Watched, call: Awaitable[Answer]) -> Answer:
        """What the call that waits for the payment's end answers, or raises. DeadPaymentError if there is no end."""
        self._watched.add(watched)
        try:
            async with asyncio.timeout(None) as watched.bound:
                return await call
        except TimeoutError:
            if watched.verdict:
                raise DeadPaymentError(watched.verdict) from None
            raise
        finally:
            self._watched.discard(watched)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._look_seconds)
            try:
                await self.look()
            except LndError as error:
                logger.debug("lnd's channels could not be looked at: %s", error)
                self._forget()
            except Exception:
                logger.exception("payments under way could not be looked at; trying again")
                self._forget()

    async def look(self) -> None:
        """Once. Raises LndError."""
        old = [one for one in self._watched if self._age_seconds(one) >= self._young_seconds]
        if not old:
            self._forget()
            return
        # Between two looks that are far apart, anything may have happened.
        if self._looked_at is not None and self._steady() - self._looked_at > 4 * self._look_seconds + 10:
            self._forget()
        listed = await self._client.list_channels()
        view = channel_view(listed, await self._client.pending_channels(), await self._client.get_info())
        now = self._looked_at = self._steady()
        self._active_since = (self._active_since or now) if view.all_active else None
        for one in old:
            if one.payment_hash in view.held or view.may_hold_more:
                self._acquit(one)
            else:
                await self._examine(one, view, now)

    async def _examine(self, one: Watched, view: ChannelView, now: float) -> None:
        """No channel holds it: what does lnd say of it after that?"""
        payment = await self._client.payment_now(one.payment_hash)
        if payment.status not in IN_FLIGHT or one not in self._watched:
            # Who waits for its end is told by lnd.
            self._acquit(one)
            return
        if one.unheld_since is None:
            one.unheld_since = now
        facts = Facts(
            may_be_repeated=one.may_be_repeated,
            amount_msat=one.amount_msat,
            held=False,
            unheld_seconds=now - one.unheld_since,
            active_seconds=now - self._active_since if self._active_since is not None else 0.0,
            restarted=one.interrupted and view.is_younger_than(self._age_seconds(one)),
            block_height=view.block_height,
            expiry_height=expiry_height(payment),
        )
        self._note(one, facts, judge(facts, quiet_seconds=self._quiet_seconds))

    def _note(self, one: Watched, facts: Facts, finding: Finding) -> None:
        if finding is Finding.ALIVE:
            one.suspicion = ""
            return
        if not one.suspicion:
            logger.warning(
                "lnd holds a dead payment: it is called under way, but no channel holds it",
                extra={"payment": one.payment_hash.hex()},
            )
        one.suspicion = _suspicion(one, facts)
        if finding is Finding.DEAD and one.bound:
            one.verdict = _verdict(facts)
            logger.warning(
                "a dead payment of lnd's is given up",
                extra={"payment": one.payment_hash.hex(), "expired": facts.has_expired},
            )
            one.bound.reschedule(asyncio.get_running_loop().time())

    def _acquit(self, one: Watched) -> None:
        one.unheld_since, one.suspicion = None, ""

    def _forget(self) -> None:
        """Nothing is known to have been so since then."""
        self._active_since = self._looked_at = None
        for one in self._watched:
            one.unheld_since = None

    def _age_seconds(self, one: Watched) -> float:
        return self._wall() - one.began_at


def _suspicion(one: Watched, facts: Facts) -> str:
    text = "lnd holds a dead payment: it is called under way, but no channel holds it"
    if one.may_be_repeated and facts.amount_msat <= SMALL_MSAT:
        return f"{text}; it is made again once all channels have been active for a while without it"
    if not facts.expiry_height:
        return f"{text}; lnd tells no block height at which it expires"
    return f"{text}; it is given up after block {facts.expiry_height}, when its route has expired"


def _verdict(facts: Facts) -> str:
    why = (
        f"its route expired at block {facts.expiry_height}"
        if facts.has_expired
        else "lnd was restarted since it began"
    )
    return f"lnd held a dead payment: it was called under way, but no channel held it, and {why}"
