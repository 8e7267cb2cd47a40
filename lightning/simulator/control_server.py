"""Commands to a running simulator: faults, channels, hostile payments. gRPC on loopback with a token of its own.

One method takes and gives JSON: {"command": NAME, …arguments}. Node names are the network's; null is any node.
"""

import asyncio
import hashlib
import inspect
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import grpc

from lightning.simulator import credentials, server
from lightning.simulator.control import PORT_FILE, TOKEN_FILE
from lightning.simulator.errors import CallError
from lightning.simulator.invoices import KEYSEND_RECORD
from lightning.simulator.network import DOWN, LOCKED, RUNNING, STARTING, Node
from lightning.simulator.payments import ENDED
from lightning.simulator.server import NodeServer
from lightning.simulator.services import Services
from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2

SERVICE, METHOD = "simulator.Control", "Run"


class ControlServer:
    def __init__(self, directory: Path, services: Services, servers: dict[str, NodeServer]):
        self._directory = directory
        self._commands = Commands(services, servers)
        self._token = credentials.ensure_secret(directory / TOKEN_FILE, 32).hex()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler = grpc.unary_unary_rpc_method_handler(self._run, json.loads, _to_json)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
        )
        port = server.bind(self._server, 0)
        await self._server.start()
        credentials.write_secret(self._directory / PORT_FILE, str(port).encode())

    async def stop(self) -> None:
        if self._server is not None:
            (self._directory / PORT_FILE).unlink(missing_ok=True)
            await self._server.stop(0)

    async def _run(self, request: dict[str, Any], context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        metadata = dict(context.invocation_metadata() or ())
        if not credentials.same_macaroon(str(metadata.get("macaroon", "")), self._token):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token in control.macaroon is wanted")
        try:
            return await self._commands.run(request)
        except CallError as error:
            await context.abort(error.code, error.text)
        except (KeyError, TypeError, ValueError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error.args[0] if error.args else error))


class Commands:
    """Each public coroutine is a command."""

    def __init__(self, services: Services, servers: dict[str, NodeServer]):
        self._services = services
        self._network = services.network
        self._faults = services.faults
        self._servers = servers

    async def run(self, request: dict[str, Any]) -> Any:
        arguments = dict(request)
        name = arguments.pop("command", "")
        command = None if name.startswith("_") or name == "run" else getattr(self, name, None)
        if command is None:
            raise ValueError(f"there is no command {name!r}")
        inspect.signature(command).bind(**arguments)
        return await command(**arguments)

    async def info(self) -> list[dict[str, Any]]:
        """What the nodes are and how they are."""
        return [
            {
                "name": node.name,
                "pubkey": node.pubkey.hex(),
                "port": self._servers[node.name].port,
                "state": node.state,
                "keysend": node.accepts_keysend,
                "invoices": node.add_index,
                "settled": node.settle_index,
                "payments": node.payment_index,
            }
            for node in self._network.nodes
        ]

    async def latency(self, ms: float, node: str | None = None) -> None:
        """Time a payment (to a node) is on its way."""
        self._faults.latency[self._id(node)] = ms / 1000

    async def rate(self, per_second: float) -> None:
        """Payments the network carries a second; 0: no cap."""
        self._faults.payments_per_second = per_second

    async def fail(self, count: int, reason: str, node: str | None = None) -> None:
        """The next payments (to a node) fail with this reason."""
        self._faults.fail_next(self._id(node), count, reason)

    async def strand(self, count: int, node: str | None = None) -> None:
        """The next payments (to a node) are called in flight by their lnd for good, though no channel holds them."""
        self._faults.strand_next(self._id(node), count)

    async def mine(self, blocks: int = 1) -> int:
        """Returns the new block height."""
        self._network.block_height += blocks
        return self._network.block_height

    async def hold(self, node: str | None = None) -> None:
        """Payments (to a node) stay in flight until released."""
        self._faults.hold(self._id(node))

    async def release(self, node: str | None = None) -> None:
        self._faults.release(self._id(node))

    async def hang_streams(self, node: str) -> int:
        return self._network.node(node).streams.hang()

    async def drop_streams(self, node: str) -> int:
        return self._network.node(node).streams.drop()

    async def disconnect(self, a: str, b: str, seconds: float = 1.0) -> None:
        """Two peers lose each other for a while."""
        self._services.messages.disconnect(self._network.node(a), self._network.node(b), seconds)

    async def down(self, node: str, drop_in_flight: bool = False) -> None:
        """Closes the node's port. What is in flight to it waits, or fails with ERROR."""
        stopped = self._network.node(node)
        if drop_in_flight:
            self._services.payments.drop_in_flight(stopped)
        self._network.set_state(stopped, DOWN)
        await self._servers[node].stop()

    async def up(self, node: str) -> None:
        """The node runs again, wherever it was."""
        await self._servers[self._network.node(node).name].start()
        self._network.set_state(self._network.node(node), RUNNING)

    async def lock(self, node: str) -> None:
        """The node's port answers, but its wallet is locked."""
        await self._servers[self._network.node(node).name].start()
        self._network.set_state(self._network.node(node), LOCKED)

    async def starting(self, node: str) -> None:
        await self._servers[self._network.node(node).name].start()
        self._network.set_state(self._network.node(node), STARTING)

    async def keysend(self, node: str, on: bool) -> None:
        self._network.node(node).accepts_keysend = on

    async def synced(self, node: str, on: bool) -> None:
        self._network.node(node).synced = on

    async def open_channel(
        self,
        a: str,
        b: str,
        capacity_sat: int = 10_000_000,
        remote_sat: int | None = None,
        private: bool = False,
    ) -> dict[str, int]:
        """remote_sat is b's side. Returns the channel's id and alias."""
        nodes = self._network.node(a), self._network.node(b)
        channel = self._network.open_channel(
            *nodes, capacity_sat=capacity_sat, remote_sat=remote_sat, private=private
        )
        return {"chan_id": channel.id, "alias": channel.alias}

    async def pay(
        self,
        node: str,
        dest: str,
        records: dict[str, str] | None = None,
        amount_msat: int = 1000,
        preimage: str | None = None,
        payment_hash: str | None = None,
        fee_limit_msat: int = 100_000,
        keysend: bool = True,
        any_size: bool = False,
    ) -> dict[str, Any]:
        """Pays whatever is asked for, also what lnd's own API refuses: any record number, a preimage known before.

        `records`: number to hex. `dest`: a node's name or its key. `any_size`: records that no onion has room for.
        Returns how the payment ended.
        """
        secret = bytes.fromhex(preimage) if preimage else os.urandom(32)
        values = {int(number): bytes.fromhex(value) for number, value in (records or {}).items()}
        if keysend:
            values.setdefault(KEYSEND_RECORD, secret)
        request = router_pb2.SendPaymentRequest(
            dest=self._network.by_name[dest].pubkey if dest in self._network.by_name else bytes.fromhex(dest),
            amt_msat=amount_msat,
            payment_hash=bytes.fromhex(payment_hash) if payment_hash else hashlib.sha256(secret).digest(),
            dest_custom_records=values,
            dest_features=[lightning_pb2.TLV_ONION_OPT],
            fee_limit_msat=fee_limit_msat,
        )
        return await self._pay(self._network.node(node), request, secret, any_size)

    async def pay_many(self, node: str, dest: str, payments: list[dict[str, Any]]) -> Counter[str]:
        """All at once, each with the arguments of `pay`. How many ended in which way."""
        ends = await asyncio.gather(
            *(self.pay(node, dest, **asked) for asked in payments), return_exceptions=True
        )
        statuses: Counter[str] = Counter()
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, CallError):
                raise end
            statuses["REFUSED" if isinstance(end, CallError) else end["status"]] += 1
        return statuses

    async def _pay(
        self, sender: Node, request: router_pb2.SendPaymentRequest, secret: bytes, any_size: bool
    ) -> dict[str, Any]:
        _, stream = self._services.payments.send(sender, request, raw=True, any_size=any_size)
        try:
            async for payment in stream:
                if payment.status in ENDED:
                    break
        finally:
            stream.close()
        return {
            "status": lightning_pb2.Payment.PaymentStatus.Name(payment.status),
            "failure_reason": lightning_pb2.PaymentFailureReason.Name(payment.failure_reason),
            "payment_hash": payment.payment_hash,
            "preimage": secret.hex(),
            "fee_msat": payment.fee_msat,
        }

    def _id(self, name: str | None) -> int | None:
        return None if name is None else self._network.node(name).id


def _to_json(value: Any) -> bytes:
    return json.dumps(value).encode()
