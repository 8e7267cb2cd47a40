"""Tells a running simulator what shall go wrong.

python -m lightning.simulator.control --dir DIR COMMAND [argument=value …], for example
    latency ms=72 node=bob          fail count=3 reason=NO_ROUTE node=bob      hold node=bob     release node=bob
    rate per_second=140             hang_streams node=bob                      drop_streams node=bob
    down node=bob                   up node=bob            lock node=bob       starting node=bob
    strand count=1 node=bob         mine blocks=200
    keysend node=bob on=false       synced node=bob on=false                   disconnect a=alice b=bob seconds=2
    open_channel a=bob b=dave capacity_sat=1000000 remote_sat=0 private=true   info
    pay node=alice dest=bob records='{"400000": "c0ffee"}' preimage=HEX amount_msat=1000
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc

METHOD_PATH = "/simulator.Control/Run"
PORT_FILE, TOKEN_FILE = "control.port", "control.macaroon"


class SimulatorControl:
    """Commands to the simulator that runs in a directory. Failures are grpc.aio.AioRpcError. Nodes go by name."""

    def __init__(self, directory: Path):
        self._directory = Path(directory)
        self._channel: grpc.aio.Channel | None = None
        self._port = ""

    async def command(self, name: str, **arguments: Any) -> Any:
        """Any command of control_server.Commands."""
        call = self._connect().unary_unary(
            METHOD_PATH, request_serializer=_to_json, response_deserializer=json.loads
        )
        token = (self._directory / TOKEN_FILE).read_bytes().hex()
        return await call({"command": name, **arguments}, metadata=(("macaroon", token),))

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def info(self) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = await self.command("info")
        return nodes

    async def set_latency(self, ms: float, node: str | None = None) -> None:
        await self.command("latency", ms=ms, node=node)

    async def set_rate(self, per_second: float) -> None:
        await self.command("rate", per_second=per_second)

    async def fail_next(self, count: int, reason: str, node: str | None = None) -> None:
        """`reason` as in FAILURE_REASON_…, with or without the prefix."""
        await self.command("fail", count=count, reason=reason, node=node)

    async def strand_next(self, count: int, node: str | None = None) -> None:
        """The next payments (to a node) stay in flight for good, without an HTLC in any channel."""
        await self.command("strand", count=count, node=node)

    async def mine(self, blocks: int = 1) -> int:
        return int(await self.command("mine", blocks=blocks))

    async def hold(self, node: str | None = None) -> None:
        await self.command("hold", node=node)

    async def release(self, node: str | None = None) -> None:
        await self.command("release", node=node)

    async def hang_streams(self, node: str) -> int:
        return int(await self.command("hang_streams", node=node))

    async def drop_streams(self, node: str) -> int:
        return int(await self.command("drop_streams", node=node))

    async def disconnect(self, a: str, b: str, seconds: float = 1.0) -> None:
        await self.command("disconnect", a=a, b=b, seconds=seconds)

    async def down(self, node: str, *, drop_in_flight: bool = False) -> None:
        await self.command("down", node=node, drop_in_flight=drop_in_flight)

    async def up(self, node: str) -> None:
        await self.command("up", node=node)

    async def lock(self, node: str) -> None:
        await self.command("lock", node=node)

    async def starting(self, node: str) -> None:
        await self.command("starting", node=node)

    async def set_keysend(self, node: str, on: bool) -> None:
        await self.command("keysend", node=node, on=on)

    async def set_synced(self, node: str, on: bool) -> None:
        await self.command("synced", node=node, on=on)

    async def open_channel(
        self,
        a: str,
        b: str,
        *,
        capacity_sat: int = 10_000_000,
        remote_sat: int | None = None,
        private: bool = False,
    ) -> dict[str, Any]:
        opened: dict[str, Any] = await self.command(
            "open_channel", a=a, b=b, capacity_sat=capacity_sat, remote_sat=remote_sat, private=private
        )
        return opened

    async def pay(
        self,
        node: str,
        dest: str,
        *,
        records: dict[int, bytes] | None = None,
        amount_msat: int = 1000,
        preimage: bytes | None = None,
        payment_hash: bytes | None = None,
        fee_limit_msat: int = 100_000,
        keysend: bool = True,
    ) -> dict[str, Any]:
        """Pays what lnd's own API would refuse: any record number, a preimage that is known. Waits for the end."""
        ended: dict[str, Any] = await self.command(
            "pay",
            node=node,
            dest=dest,
            records={str(number): value.hex() for number, value in (records or {}).items()},
            amount_msat=amount_msat,
            preimage=preimage.hex() if preimage else None,
            payment_hash=payment_hash.hex() if payment_hash else None,
            fee_limit_msat=fee_limit_msat,
            keysend=keysend,
        )
        return ended

    def _connect(self) -> grpc.aio.Channel:
        """A channel to where the simulator is now: it may have been started again on another port."""
        try:
            port = (self._directory / PORT_FILE).read_text()
        except FileNotFoundError:
            raise FileNotFoundError(f"no simulator is running in {self._directory}") from None
        if self._channel is None or port != self._port:
            self._channel, self._port = grpc.aio.insecure_channel(f"127.0.0.1:{port}"), port
        return self._channel


def _to_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _argument(text: str) -> tuple[str, Any]:
    """NAME=VALUE; a value that is no JSON is taken as text, as is one for a text argument."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    if name in ("preimage", "payment_hash", "node", "a", "b", "dest", "reason"):
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


async def _run(directory: Path, command: str, arguments: dict[str, Any]) -> None:
    control = SimulatorControl(directory)
    try:
        result = await control.command(command, **arguments)
    finally:
        await control.close()
    if result is not None:
        print(json.dumps(result, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lightning.simulator.control",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--dir", required=True, type=Path)
    parser.add_argument("command")
    parser.add_argument("arguments", nargs="*", type=_argument, metavar="NAME=VALUE")
    options = parser.parse_args()
    try:
        asyncio.run(_run(options.dir, options.command, dict(options.arguments)))
    except grpc.aio.AioRpcError as error:
        sys.exit(error.details())
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
