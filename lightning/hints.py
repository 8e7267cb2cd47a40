"""Hop hints: how a node that has only private channels is reached. They travel with what it sends, for the answers. Pure.

Measured on lnd: without a hint such a node is NO_ROUTE, with one it is paid. The hint names the channel by the alias that
the peer gave it, where there is one (option_scid_alias), else by its own id.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from lightning import signature
from protos.lnrpc import lightning_pb2

MAX_HINTS = 2
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


def usable_channels(channels: Iterable[lightning_pb2.Channel]) -> list[lightning_pb2.Channel]:
    """The channels that hints are to name: those that can receive most; none where a public channel shows the way."""
    channels = list(channels)
    if any(not channel.private for channel in channels):
        return []
    return sorted((channel for channel in channels if channel.active), key=lambda one: -one.remote_balance)[
        :MAX_HINTS
    ]


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
