"""What this node knows of its lnd: reachable, synced, balances; kept fresh while the node runs."""

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any

from lightning.client import LndClient, LndError, Trouble, too_weak
from lightning.hints import HopHint, hint_for, only_private_receive, total_receivable_sat, usable_channels
from lightning.keysend import KEYSEND_FEATURE_BIT
from lightning.rpcs import Rpc
from protos.lnrpc import lightning_pb2

logger = logging.getLogger("nodeapi.lnd_status")

REFRESH_SECONDS = 10.0
AWAY_SECONDS = 2.0
LOW_SAT = 1_000
ONLY_PRIVATE_RECEIVE = (
    "the public channels receive nothing, or hardly anything: their peers are offline, or at their reserve; this node is reached only by the "
    "hints over private channels that its messages and invoices bring"
)
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 10.0


def spendable_sat(channels: lightning_pb2.ListChannelsResponse) -> int:
    """What active channels can send, after this side's reserves."""
    return sum(
        max(0, channel.local_balance - channel.local_constraints.chan_reserve_sat)
        for channel in channels.channels
        if channel.active
    )


def receivable_sat(channels: lightning_pb2.ListChannelsResponse) -> int:
    """What active channels can receive, after the peers' reserves."""
    return sum(total_receivable_sat(channels.channels, private=private) for private in (False, True))


async def check_macaroon(client: LndClient, calls: Collection[Rpc]) -> None:
    """LndError when it does not permit these calls."""
    # To ask is not worth ending for: that call is only for this.
    if missing := await client.not_permitted(rpc for rpc in calls if rpc is not Rpc.CHECK_MACAROON):
        raise too_weak(client.address, missing)


class LndStatus:
    """The last answers of lnd. Amounts are what can be used: after each channel's reserve."""

    def __init__(
        self,
        client: LndClient,
        *,
        on_return: Callable[[], None] = lambda: None,
        on_wait: Callable[[str], None] = lambda _: None,
    ):
        self._client = client
        self.on_return = on_return
        # Told what `connect` waits for, when that changes.
        self._on_wait = on_wait
        self.info = lightning_pb2.GetInfoResponse()
        self.reachable = False
        self.trouble = ""
        self.problem: Trouble | None = None
        self._wanted = asyncio.Event()
        self.spendable_sat: int | None = None
        self.receivable_sat: int | None = None
        self.only_private_receive = False
        # How this node is reached when no public channel can receive; travels with what it sends.
        self.reply_hints: tuple[HopHint, ...] = ()

    @property
    def was_asked(self) -> bool:
        """Whether it has answered, or failed to."""
        return self.reachable or self.problem is not None

    async def connect(self, *, expected_pubkey: str, calls: Collection[Rpc]) -> None:
        """Waits, with backoff, until lnd answers and is in sync. LndError for what waiting does not mend, such as a
        macaroon that does not permit these calls.
        """
        wait_seconds, told, logged = FIRST_WAIT_SECONDS, "", ""
        while True:
            try:
                await check_macaroon(self._client, calls)
                await self.refresh()
                self._check(expected_pubkey)
                if self.info.synced_to_chain:
                    return
                trouble = self.trouble = "lnd is not in sync with the chain yet"
            except LndError as error:
                self._note(error)
                if not error.trouble.passes:
                    raise
                trouble = str(error)
            if trouble != told:
                self._on_wait(f"{trouble}; the node waits for it")
                told = trouble
            # A short wait is no news: lnd and this node often start together.
            if trouble != logged and wait_seconds > 1.0:
                logger.warning("%s; waiting for it", trouble)
                logged = trouble
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(LONGEST_WAIT_SECONDS, wait_seconds * 1.5)

    async def renew(self, *, tls_cert: bytes | None, macaroon_hex: str, calls: Collection[Rpc]) -> None:
        """Uses these credentials from now on. LndError if lnd refuses them for these calls: then those of before stay. While
        lnd is away they cannot be tried.
        """
        trial = self._client.with_credentials(tls_cert=tls_cert, macaroon_hex=macaroon_hex)
        try:
            await check_macaroon(trial, calls)
        except LndError as error:
            if not error.trouble.passes:
                raise
        finally:
            await trial.close()
        self._client.renew(tls_cert=tls_cert, macaroon_hex=macaroon_hex)
        self.look_soon()

    def _check(self, expected_pubkey: str) -> None:
        pubkey = self.info.identity_pubkey
        if expected_pubkey and pubkey != expected_pubkey.lower():
            raise LndError(
                Trouble.WRONG_NODE,
                f"lightning.lnd_node.pub_key is {expected_pubkey}, but the lnd at {self._client.address} is {pubkey}: "
                "correct the key, or the address",
            )
        if not self.takes_keysend:
            raise LndError(
                Trouble.NO_KEYSEND,
                "keysend is switched off in lnd: set accept-keysend=true in lnd.conf and start lnd again",
            )

    @property
    def takes_keysend(self) -> bool:
        return KEYSEND_FEATURE_BIT in self.info.features

    @property
    def network(self) -> str:
        return self.info.chains[0].network if self.info.chains else ""

    async def refresh(self) -> None:
        """Asks lnd. Raises LndError, having noted the trouble."""
        try:
            self._take(await self._client.get_info())
            channels = await self._client.list_channels()
        except LndError as error:
            self._note(error)
            raise
        self._count(channels)
        self.reply_hints = await self._hints(channels)
        self.trouble, self.problem = "", None
        if not self.reachable:
            self.reachable = True
            self.on_return()

    def _note(self, error: LndError) -> None:
        if self.reachable:
            logger.warning("%s", error)
        self.reachable, self.trouble, self.problem = False, str(error), error.trouble

    def _take(self, info: lightning_pb2.GetInfoResponse) -> None:
        known = self.info.identity_pubkey
        if known and info.identity_pubkey != known:
            raise LndError(
                Trouble.WRONG_NODE,
                f"the lnd at {self._client.address} was {known} and is {info.identity_pubkey} now: start this node again, "
                "with the lnd that it belongs to",
            )
        self.info = info

    def _count(self, channels: lightning_pb2.ListChannelsResponse) -> None:
        self.spendable_sat, self.receivable_sat = spendable_sat(channels), receivable_sat(channels)
        self.only_private_receive = only_private_receive(channels.channels)

    async def _hints(self, channels: lightning_pb2.ListChannelsResponse) -> tuple[HopHint, ...]:
        hints = []
        for channel in usable_channels(channels.channels):
            try:
                hints.append(hint_for(channel, await self._client.channel_info(channel.chan_id)))
            except LndError as error:
                logger.debug("no policy of a private channel: %s", error)
        return tuple(hint for hint in hints if hint)

    async def run(self) -> None:
        """Keeps the status fresh until cancelled."""
        while True:
            await self._pause()
            try:
                await self.refresh()
            except LndError as error:
                if error.trouble is Trouble.WRONG_NODE:
                    raise
            except Exception:
                logger.exception("lnd's status could not be read")

    def look_soon(self) -> None:
        """Something was seen to go wrong, or to go well again: the status may be old."""
        self._wanted.set()

    async def _pause(self) -> None:
        try:
            well = self.reachable and self.info.synced_to_chain
            async with asyncio.timeout(REFRESH_SECONDS if well else AWAY_SECONDS):
                await self._wanted.wait()
        except TimeoutError:
            pass
        self._wanted.clear()

    def describe(self) -> dict[str, Any]:
        return {
            "alias": self.info.alias,
            "network": self.network,
            "lnd_version": self.info.version,
            "lnd_reachable": self.reachable,
            "synced": self.info.synced_to_chain,
            "keysend": self.takes_keysend,
            "spendable_sat": self.spendable_sat or 0,
            "receivable_sat": self.receivable_sat or 0,
            "warnings": self._warnings(),
        }

    def _warnings(self) -> list[str]:
        if not self.reachable:
            return [self.trouble]
        warnings = []
        if not self.info.synced_to_chain:
            warnings.append("lnd is not in sync with the chain")
        if not self.takes_keysend:
            warnings.append("keysend is switched off in lnd: nothing can be received")
        if (self.spendable_sat or 0) < LOW_SAT:
            warnings.append("hardly anything can be sent: the channels' own side is at its reserve")
        if (self.receivable_sat or 0) < LOW_SAT:
            warnings.append(
                "hardly anything can be received: the peers' side of the channels is at its reserve "
                "(a node that funded its only channel receives nothing until its peer is above the reserve)"
            )
        if self.only_private_receive:
            warnings.append(ONLY_PRIVATE_RECEIVE)
        return warnings
