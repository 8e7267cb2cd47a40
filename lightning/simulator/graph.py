"""Channels, their balances and the routes over them. Pure: no input, no output. Amounts in msat unless named _sat."""

import heapq
from collections.abc import Collection
from dataclasses import dataclass, field

from lightning.simulator import onion

BASE_FEE_MSAT = 1000
FEE_RATE_PPM = 1
TIME_LOCK_DELTA = 80
RESERVE_PERCENT = 1
MAX_HTLCS = 483
MIN_HTLC_MSAT = 1000
ALIAS_HEIGHT = 16_000_000


def forwarding_fee(amount: int) -> int:
    """What a node takes for passing `amount` on."""
    return BASE_FEE_MSAT + amount * FEE_RATE_PPM // 1_000_000


@dataclass(slots=True, eq=False)
class Channel:
    """Between nodes[0] and nodes[1] (store ids). Every list has one entry a side.

    Invariant: balances plus what is in flight make the capacity.
    """

    id: int
    nodes: tuple[int, int]
    capacity_sat: int
    private: bool
    balances: list[int]
    htlc_indices: list[int] = field(default_factory=lambda: [0, 0])
    in_flight: list[int] = field(default_factory=lambda: [0, 0])

    def side(self, node: int) -> int:
        return self.nodes.index(node)

    def other(self, node: int) -> int:
        return self.nodes[1 - self.side(node)]

    @property
    def alias(self) -> int:
        """The id that a private channel has in hop hints (lnd's aliases begin at block 16,000,000)."""
        return ALIAS_HEIGHT << 40 | self.id & (1 << 40) - 1

    @property
    def reserve_sat(self) -> int:
        return self.capacity_sat * RESERVE_PERCENT // 100

    def spendable(self, node: int) -> int:
        """What this side can send now: nothing while 483 HTLCs are in flight in its direction."""
        side = self.side(node)
        if self.in_flight[side] >= MAX_HTLCS:
            return 0
        return max(0, self.balances[side] - self.reserve_sat * 1000)

    def lock(self, node: int, amount: int) -> int:
        """Puts an HTLC in flight from this side. Returns its index in this direction."""
        side = self.side(node)
        self.balances[side] -= amount
        self.in_flight[side] += 1
        self.htlc_indices[side] += 1
        return self.htlc_indices[side] - 1

    def resolve(self, node: int, amount: int, *, settled: bool) -> None:
        """Ends an HTLC that `node` sent."""
        side = self.side(node)
        self.in_flight[side] -= 1
        self.balances[1 - side if settled else side] += amount


@dataclass(frozen=True, slots=True, order=True)
class Hop:
    """`amount` arrives at the far end of the channel that `sender` owns one side of. Of routes that are alike otherwise,
    as over two channels between the same nodes, the order of hops decides.
    """

    channel: int
    sender: int
    amount: int


@dataclass(frozen=True, slots=True)
class Search:
    """One question for a route. `hints`: (node, channel id or alias) pairs that make private channels known."""

    source: int
    target: int
    amount: int
    fee_limit: int
    final_size: int
    hints: Collection[tuple[int, int]] = ()
    # Whether channels of others must have the balance (a payment), or only the capacity (a question about routes).
    need_balance: bool = True


class Graph:
    def __init__(self) -> None:
        self.channels: dict[int, Channel] = {}
        self._by_node: dict[int, list[Channel]] = {}
        self.offline: set[int] = set()
        # Pairs of nodes whose connection is broken for now.
        self.broken: set[frozenset[int]] = set()

    def add(self, channel: Channel) -> None:
        self.channels[channel.id] = channel
        for node in channel.nodes:
            self._by_node.setdefault(node, []).append(channel)

    def of(self, node: int) -> list[Channel]:
        return self._by_node.get(node, [])

    def active(self, channel: Channel) -> bool:
        a, b = channel.nodes
        return a not in self.offline and b not in self.offline and frozenset(channel.nodes) not in self.broken

    def public(self, node: int) -> bool:
        return any(not channel.private for channel in self.of(node))

    def knows(self, viewer: int, node: int) -> bool:
        """Whether `node` is in the viewer's graph: announced, itself, or at the other end of a private channel."""
        return (
            viewer == node
            or self.public(node)
            or any(channel.other(viewer) == node for channel in self.of(viewer))
        )

    def peers(self, node: int) -> set[int]:
        return {channel.other(node) for channel in self.of(node) if self.active(channel)}

    def outgoing(self, node: int) -> tuple[int, int]:
        """The most that one channel can send now, and all of them together."""
        amounts = [channel.spendable(node) for channel in self.of(node) if self.active(channel)]
        return max(amounts, default=0), sum(amounts)

    def find_route(self, search: Search) -> list[Hop] | None:
        """The cheapest route, searched from the target back as lnd does. None when there is none.

        A route that is too long for the payload or too dear is dropped silently, as lnd drops it.
        """
        heap: list[tuple[int, int, int, int, int, tuple[Hop, ...]]] = [
            (0, 0, search.target, search.amount, search.final_size, ())
        ]
        done: set[int] = set()
        while heap:
            _, hops, node, amount, size, route = heapq.heappop(heap)
            if node == search.source:
                return list(route)
            if node in done:
                continue
            done.add(node)
            for channel in self.of(node):
                sender = channel.other(node)
                if sender in done or not self._usable(channel, sender, amount, search):
                    continue
                step = self._extend(search, sender, amount, size)
                if step is None:
                    continue
                longer = (Hop(channel.id, sender, amount), *route)
                heapq.heappush(heap, (step[0], hops + 1, sender, *step, longer))
        return None

    def _extend(self, search: Search, sender: int, amount: int, size: int) -> tuple[int, int] | None:
        """What must arrive at the sender, and the payload so far."""
        if sender == search.source:
            return (amount, size) if size <= onion.MAX_BYTES else None
        arriving = amount + forwarding_fee(amount)
        size += onion.forwarding_size(amount)
        if arriving - search.amount > search.fee_limit or size > onion.MAX_BYTES:
            return None
        return arriving, size

    def _usable(self, channel: Channel, sender: int, amount: int, search: Search) -> bool:
        if not self.active(channel) or amount < MIN_HTLC_MSAT:
            return False
        if sender == search.source:
            return channel.spendable(sender) >= amount
        hinted = (sender, channel.id) in search.hints or (sender, channel.alias) in search.hints
        if channel.private and not hinted:
            return False
        return (channel.spendable(sender) if search.need_balance else channel.capacity_sat * 1000) >= amount
