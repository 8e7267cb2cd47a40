"""The nodes and channels of one simulated network, in memory and in the store."""

import asyncio
import itertools
import re
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from coincurve import PrivateKey

from lightning.simulator import onion
from lightning.simulator.errors import StartError
from lightning.simulator.graph import Channel, Graph
from lightning.simulator.store import Store
from lightning.simulator.streams import Streams

CHANNEL_SAT = 10_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")

RUNNING, LOCKED, STARTING, DOWN = "running", "locked", "starting", "down"


@dataclass(eq=False)
class Node:
    """One lnd. `add_index`, `settle_index` and `payment_index` are the newest in use."""

    id: int
    name: str
    key: PrivateKey
    pubkey: bytes
    streams: Streams = field(default_factory=Streams)
    state: str = RUNNING
    accepts_keysend: bool = True
    synced: bool = True
    add_index: int = 0
    settle_index: int = 0
    payment_index: int = 0
    online: asyncio.Event = field(default_factory=asyncio.Event)
    started_at: float = field(default_factory=time.monotonic)

    @property
    def uptime_seconds(self) -> int:
        return int(time.monotonic() - self.started_at)


class Network:
    def __init__(self, store: Store):
        self.store = store
        self.graph = Graph()
        self.block_height = onion.BLOCK_HEIGHT
        self.by_id: dict[int, Node] = {}
        self.by_name: dict[str, Node] = {}
        self.by_pubkey: dict[bytes, Node] = {}
        for row in store.nodes():
            self._load_node(*row)
        for row in store.channels():
            self._load_channel(row)

    @property
    def nodes(self) -> list[Node]:
        return list(self.by_id.values())

    def node(self, name: str) -> Node:
        if name not in self.by_name:
            raise KeyError(f"there is no node {name!r}; the nodes are {', '.join(self.by_name)}")
        return self.by_name[name]

    def ensure_nodes(self, names: list[str], topology: str, private: Collection[str] = ()) -> None:
        """Adds the nodes that are not there yet, each with its channels; the channels of `private` ones are private."""
        for name in names:
            if not _NAME.fullmatch(name):
                raise StartError(f"{name!r} is no name for a node: letters, digits, - and _, at most 32")
        with self.store.transaction():
            new = [self._add_node(name) for name in dict.fromkeys(names) if name not in self.by_name]
            for a, b in edges(self.nodes, topology):
                if a in new or b in new:
                    self.open_channel(a, b, private=a.name in private or b.name in private)

    def open_channel(
        self,
        a: Node,
        b: Node,
        *,
        capacity_sat: int = CHANNEL_SAT,
        remote_sat: int | None = None,
        private: bool = False,
    ) -> Channel:
        """`remote_sat` is b's side; half of the capacity unless told."""
        remote_sat = capacity_sat // 2 if remote_sat is None else remote_sat
        if a is b or capacity_sat <= 0 or not 0 <= remote_sat <= capacity_sat:
            raise ValueError("a channel needs two nodes and balances within its capacity")
        number = len(self.graph.channels) + 1
        channel = Channel(
            id=(onion.BLOCK_HEIGHT - 100) << 40 | number << 16,
            nodes=(a.id, b.id),
            capacity_sat=capacity_sat,
            private=private,
            balances=[(capacity_sat - remote_sat) * 1000, remote_sat * 1000],
        )
        with self.store.transaction():
            self.store.add_channel(
                (channel.id, *channel.nodes, capacity_sat, private, *channel.balances, *channel.htlc_indices)
            )
        self.graph.add(channel)
        return channel

    def save(self, channel: Channel) -> None:
        self.store.set_balances(channel.id, channel.balances, channel.htlc_indices)

    def set_state(self, node: Node, state: str) -> None:
        """A node that is down, locked or starting is away from the network, and its clients' streams end."""
        if state == RUNNING and node.state != RUNNING:
            node.started_at = time.monotonic()
        node.state = state
        if state == RUNNING:
            self.graph.offline.discard(node.id)
            node.online.set()
            return
        self.graph.offline.add(node.id)
        node.online.clear()
        node.streams.drop()

    def _add_node(self, name: str) -> Node:
        key = PrivateKey()
        return self._load_node(self.store.add_node(name, key.secret), name, key.secret)

    def _load_node(self, node_id: int, name: str, secret: bytes) -> Node:
        key = PrivateKey(secret)
        node = Node(id=node_id, name=name, key=key, pubkey=key.public_key.format())
        node.add_index, node.settle_index, node.payment_index = self.store.last_indices(node_id)
        node.online.set()
        self.by_id[node_id] = self.by_name[name] = self.by_pubkey[node.pubkey] = node
        return node

    def _load_channel(self, row: tuple[Any, ...]) -> None:
        channel_id, node_a, node_b, capacity_sat, private, *sides = row
        self.graph.add(
            Channel(
                id=channel_id,
                nodes=(node_a, node_b),
                capacity_sat=capacity_sat,
                private=bool(private),
                balances=list(sides[:2]),
                htlc_indices=list(sides[2:]),
            )
        )


def edges(nodes: list[Node], topology: str) -> list[tuple[Node, Node]]:
    """Which nodes share a channel. star: the first one is the centre."""
    if topology == "none":
        return []
    if topology == "chain":
        return list(itertools.pairwise(nodes))
    if topology == "star":
        return [(nodes[0], node) for node in nodes[1:]]
    if topology == "full":
        return [(a, b) for index, a in enumerate(nodes) for b in nodes[index + 1 :]]
    raise StartError(f"{topology!r} is no topology: chain, star, full or none")
