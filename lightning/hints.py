"""Hop hints: how a node is reached over private channels where its public ones, if it has any, can receive nothing. They
travel with what it sends, for the answers, and stand in its invoices. Pure.

Measured on lnd: without a hint such a node is NO_ROUTE, with one it is paid. The hint names the channel by the alias that
the peer gave it, where there is one (option_scid_alias), else by its own id.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from lightning import signature
from protos.lnrpc import lightning_pb2

MAX_HINTS = 2
# A public channel that receives less than this does not count for answers: most pay 1 sat, but many may come.
ANSWER_SAT = 1_000
# lnd as the opener of a channel sends nothing that would leave it less than the commitment's fee at twice its rate.
FEE_BUFFER = 2
_MAX_UINT32 = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class HopHint:
    """The last hop: over channel `chan_id` of node `node_id`, for its fee, with its delta in blocks."""

    node_id: bytes
    chan_id: int
    fee_base_msat: int
    fee_ppm: int
    cltv_delta: int

    @property
    def is_sane(self) -> bool:
        return (
            len(self.node_id) == signature.PUBKEY_BYTES
            and signature.is_pubkey(self.node_id)
            and 0 < self.chan_id < 2**64
            and all(0 <= value <= _MAX_UINT32 for value in (self.fee_base_msat, self.fee_ppm))
            and 0 <= self.cltv_delta < 2**16
        )

    def as_route_hint(self) -> lightning_pb2.RouteHint:
        hop = lightning_pb2.HopHint(
            node_id=self.node_id.hex(),
            chan_id=self.chan_id,
            fee_base_msat=self.fee_base_msat,
            fee_proportional_millionths=self.fee_ppm,
            cltv_expiry_delta=self.cltv_delta,
        )
        return lightning_pb2.RouteHint(hop_hints=[hop])


def receivable_sat(channel: lightning_pb2.Channel) -> int:
    """What a channel can receive now, after the peer's reserve; nothing while the peer is offline. A peer that opened the
    channel pays for its commitment transaction, and keeps as much for a higher fee and for one HTLC more.
    """
    if not channel.active:
        return 0
    fee_buffer_sat = 0 if channel.initiator else FEE_BUFFER * channel.commit_fee
    return max(0, channel.remote_balance - channel.remote_constraints.chan_reserve_sat - fee_buffer_sat)


def total_receivable_sat(channels: Iterable[lightning_pb2.Channel], *, private: bool) -> int:
    """What all public, or all private, channels can receive now."""
    return sum(receivable_sat(channel) for channel in channels if channel.private == private)


def only_private_receive(channels: Collection[lightning_pb2.Channel]) -> bool:
    """Whether there are public channels, but only the private ones receive more than hardly anything."""
    has_public = any(not channel.private for channel in channels)
    return (
        has_public
        and total_receivable_sat(channels, private=False) < ANSWER_SAT
        and total_receivable_sat(channels, private=True) >= ANSWER_SAT
    )


def invoice_needs_hints(channels: Collection[lightning_pb2.Channel], amount_sat: int) -> bool:
    """Whether an invoice over this amount (0: the payer chooses) is to name private channels. Payers may divide the amount,
    so that all public channels count together. An invoice over any amount names private channels that can receive more
    than the public ones.
    """
    public_sat = total_receivable_sat(channels, private=False)
    if amount_sat:
        return public_sat < amount_sat
    return public_sat == 0 or public_sat < total_receivable_sat(channels, private=True)


def usable_channels(channels: Iterable[lightning_pb2.Channel]) -> list[lightning_pb2.Channel]:
    """The private channels that hints for answers are to name: those that can receive most; none where a public channel
    can receive an answer, which is one payment over one channel.
    """
    channels = list(channels)
    if any(not channel.private and receivable_sat(channel) >= ANSWER_SAT for channel in channels):
        return []
    usable = [channel for channel in channels if channel.private and channel.active]
    return sorted(usable, key=receivable_sat, reverse=True)[:MAX_HINTS]


def hint_for(channel: lightning_pb2.Channel, edge: lightning_pb2.ChannelEdge) -> HopHint | None:
    """The hint that leads through this channel; None while the peer's policy is not known."""
    policy = edge.node1_policy if edge.node1_pub == channel.remote_pubkey else edge.node2_policy
    hint = HopHint(
        node_id=bytes.fromhex(channel.remote_pubkey),
        chan_id=channel.peer_scid_alias or channel.chan_id,
        fee_base_msat=policy.fee_base_msat,
        fee_ppm=policy.fee_rate_milli_msat,
        cltv_delta=policy.time_lock_delta,
    )
    return hint if hint.is_sane else None
