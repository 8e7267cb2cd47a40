"""Custom messages between connected peers: free of charge, no receipt, no replay."""

import asyncio

from lightning.simulator.errors import CallError, not_found
from lightning.simulator.network import Network, Node
from protos.lnrpc import lightning_pb2

FIRST_CUSTOM_TYPE = 32768
MAX_BYTES = 65_533
RECONNECT_SECONDS = 1.0


class Messages:
    def __init__(self, network: Network):
        self._network = network

    def send(self, sender: Node, peer: bytes, number: int, data: bytes) -> None:
        receiver = self._network.by_pubkey.get(peer)
        if receiver is None or receiver.id not in self._network.graph.peers(sender.id):
            raise not_found("peer is not connected")
        if not FIRST_CUSTOM_TYPE <= number <= 65535:
            raise CallError(f"msg type: {number} not in custom range: {FIRST_CUSTOM_TYPE}")
        if len(data) > MAX_BYTES:
            self.disconnect(sender, receiver)
            raise CallError(
                f"message payload is too large - encoded {len(data)} bytes, but maximum message payload is 65533 bytes"
            )
        message = lightning_pb2.CustomMessage(peer=sender.pubkey, type=number, data=data)
        receiver.streams.publish("messages", message)

    def disconnect(self, a: Node, b: Node, seconds: float = RECONNECT_SECONDS) -> None:
        """Their connection breaks and comes back, as after a message that is too large."""
        broken, pair = self._network.graph.broken, frozenset((a.id, b.id))
        broken.add(pair)
        asyncio.get_running_loop().call_later(seconds, broken.discard, pair)
