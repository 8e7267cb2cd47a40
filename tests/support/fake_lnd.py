"""An lnd in memory: LndClient as it is, on a channel that ends in the simulator's rules in this very process.

    buyer, seller = connected("buyer", "seller")
    added = await seller.add_invoice(lightning_pb2.Invoice(value=21))
    seller.refuse(Rpc.SETTLE_INVOICE, grpc.StatusCode.UNKNOWN, "no")
    seller.stop()

There is no process, port or file. All that happens in one event loop happens in the same order each time; nothing
waits but for what a test holds back.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import grpc

from lightning.client import LndClient
from lightning.rpcs import Rpc
from lightning.simulator.bakery import Bakery
from lightning.simulator.credentials import MACAROON_BYTES
from lightning.simulator.gates import Gate
from lightning.simulator.network import DOWN, LOCKED, RUNNING, STARTING, Node
from lightning.simulator.servicers import add_services
from lightning.simulator.services import Services, make_services
from lightning.simulator.store import Store
from protos.lnrpc import lightning_pb2
from tests.support.memory_channel import Aborted, MemoryChannel, MemoryServer, Metadata

HOST, PORT = "127.0.0.1", 10009
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@dataclass
class Fault:
    """The next `times` calls fail: before lnd does what they ask for or, if `done`, after it."""

    code: grpc.StatusCode
    details: str
    times: int
    done: bool


class FakeLndServer(MemoryServer):
    """One node's services; remembers what was called, and fails as it is told."""

    def __init__(self, node: Node, services: Services):
        self.macaroon = secrets.token_bytes(MACAROON_BYTES)
        self.bakery = Bakery(self.macaroon)
        super().__init__([Gate(node, self.bakery)])
        add_services(cast("grpc.aio.Server", self), node, services, self.bakery, f"{HOST}:{PORT}")
        # With which calls came.
        self.macaroons: list[str] = []
        self.calls: list[tuple[str, Any]] = []
        self.faults: dict[str, Fault] = {}
        self._node = node

    def channel(self, macaroon_hex: str = "") -> MemoryChannel:
        """Without a macaroon it is for a client that gives its own with each call."""
        return MemoryChannel(self, (("macaroon", macaroon_hex),) if macaroon_hex else ())

    async def _handler(self, path: str, metadata: Metadata) -> Any:
        self.macaroons += [value for name, value in metadata if name == "macaroon"]
        if self._node.state == DOWN:
            raise Aborted(UNAVAILABLE, "failed to connect to all addresses")
        return await super()._handler(path, metadata)

    async def refusal(self, path: str, request: Any) -> None:
        self.calls.append((path, request))
        self._fail(path, done=False)

    async def answered(self, path: str, request: Any) -> None:
        self._fail(path, done=True)

    def _fail(self, path: str, *, done: bool) -> None:
        fault = self.faults.get(path)
        if fault is None or fault.done != done:
            return
        fault.times -= 1
        if not fault.times:
            del self.faults[path]
        raise Aborted(fault.code, fault.details)


class FakeLnd(LndClient):
    """The client of one node of a network, and what a test does to that node. `connected` makes them."""

    def __init__(self, node: Node, services: Services):
        self.node, self.services = node, services
        self.server = FakeLndServer(node, services)
        super().__init__(
            host=HOST,
            port=PORT,
            tls_cert=None,
            macaroon_hex=self.server.macaroon.hex(),
            channel=cast("grpc.aio.Channel", self.server.channel()),
        )

    def with_credentials(self, *, tls_cert: bytes | None, macaroon_hex: str) -> LndClient:
        channel = cast("grpc.aio.Channel", self.server.channel())
        return LndClient(host=HOST, port=PORT, tls_cert=tls_cert, macaroon_hex=macaroon_hex, channel=channel)

    @property
    def pubkey(self) -> str:
        return self.node.pubkey.hex()

    def requests(self, rpc: Rpc) -> list[Any]:
        """What was asked with this call so far; also what was refused by a fault."""
        return [request for path, request in self.server.calls if path == rpc.path]

    # what goes wrong

    def refuse(self, rpc: Rpc, code: grpc.StatusCode, details: str = "refused", *, times: int = 1) -> None:
        """The next calls are answered with this, and lnd does nothing."""
        self.server.faults[rpc.path] = Fault(code, details, times, done=False)

    def lose_answer(self, rpc: Rpc, *, times: int = 1) -> None:
        """lnd does what the next calls ask for, and the connection breaks before the answer."""
        self.server.faults[rpc.path] = Fault(UNAVAILABLE, "connection reset", times, done=True)

    def recover(self) -> None:
        """Forgets the faults of calls."""
        self.server.faults.clear()

    def stop(self) -> None:
        """Nobody answers at its port; its streams break."""
        self.services.network.set_state(self.node, DOWN)

    def lock(self) -> None:
        self.services.network.set_state(self.node, LOCKED)

    def begin_to_start(self) -> None:
        self.services.network.set_state(self.node, STARTING)

    def break_streams(self) -> None:
        """Those that are open end with UNAVAILABLE, of payments too; the payments go on."""
        self.node.streams.drop()

    def start(self) -> None:
        self.services.network.set_state(self.node, RUNNING)

    # what happens on the network

    def fail_payments_to(self, reason: str, *, times: int = 1) -> None:
        """The next payments to this node fail with this reason (`NO_ROUTE`, `TIMEOUT` …)."""
        self.services.faults.fail_next(self.node.id, times, reason)

    def strand_payments_to(self, *, times: int = 1) -> None:
        """The next payments to this node are called in flight by their lnd for good, though no channel holds them."""
        self.services.faults.strand_next(self.node.id, times)

    def hold_payments_to(self) -> None:
        """Payments to this node stay on their way until `release_payments_to`."""
        self.services.faults.hold(self.node.id)

    def release_payments_to(self) -> None:
        self.services.faults.release(self.node.id)

    def expire(self, payment_hash: bytes) -> None:
        """The invoice's time is over: lnd cancels what nobody has paid."""
        invoice = self.invoice(payment_hash)
        assert invoice.state == lightning_pb2.Invoice.OPEN, "lnd lets only unpaid invoices expire"
        self.services.payments.cancel_invoice(self.node, payment_hash)

    def time_out(self, payment_hash: bytes) -> None:
        """The HTLC of a held payment is about to time out: lnd gives it back by itself."""
        invoice = self.invoice(payment_hash)
        assert invoice.state == lightning_pb2.Invoice.ACCEPTED, "no payment of this hash is held"
        self.services.payments.cancel_invoice(self.node, payment_hash)

    def invoice(self, payment_hash: bytes) -> lightning_pb2.Invoice:
        """As it is stored; no call of the client."""
        return self.services.invoices.lookup(self.node, payment_hash)

    def local_balance_msat(self) -> int:
        channels = self.services.network.graph.of(self.node.id)
        return sum(channel.balances[channel.side(self.node.id)] for channel in channels)


def connected(*names: str, topology: str = "chain", private: Collection[str] = ()) -> list[FakeLnd]:
    """The nodes of one network, in the order of their names; 10,000,000 sat in each channel, half on either side."""
    services = make_services(Store(":memory:"))
    services.network.ensure_nodes(list(names), topology, private)
    return [FakeLnd(services.network.node(name), services) for name in names]
