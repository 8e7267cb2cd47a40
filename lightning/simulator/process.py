"""For tests and benchmarks: a simulated network as a process of its own, on free ports."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from lightning.simulator.control import PORT_FILE, SimulatorControl

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 600


@dataclass(frozen=True)
class LndNode:
    """One running lnd, simulated or real, as a client sees it. `pubkey` is hex."""

    name: str
    host: str
    port: int
    tls_cert_path: Path
    macaroon_path: Path
    pubkey: str
    directory: Path


class SimulatedNetwork:
    """`async with SimulatedNetwork(directory, ["alice", "bob"]) as network: network.nodes["alice"]`.

    `private` nodes only get private channels. start() after kill() or stop() brings the same nodes back on the same ports:
    those of `ports`, by name, or those that the system chose at first, which others may have taken meanwhile.
    """

    def __init__(
        self,
        directory: Path,
        names: list[str],
        *,
        topology: str = "chain",
        private: tuple[str, ...] = (),
        ports: Mapping[str, int] | None = None,
    ):
        self.directory = Path(directory).resolve()
        self.names = list(names)
        self.nodes: dict[str, LndNode] = {}
        self.control = SimulatorControl(self.directory)
        self._topology = topology
        self._private = private
        self._ports = dict(ports or {})
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> "SimulatedNetwork":
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()
        await self.control.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        if self._process is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / PORT_FILE).unlink(missing_ok=True)
        command = [sys.executable, "-m", "lightning.simulator", "--dir", str(self.directory)]
        command += ["--topology", self._topology]
        for name in self._private:
            command += ["--private", name]
        for name in self.names:
            # 0: the system chooses.
            command += ["--port", f"{name}={self._ports.get(name, 0)}"]
        with open(self.directory / "simulator.log", "ab") as log:
            self._process = subprocess.Popen([*command, *self.names], cwd=ROOT, stdout=log, stderr=log)
        await self._wait_until_ready(self._process)

    async def stop(self) -> None:
        """Ends it as SIGTERM does."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """kill -9: nothing is cleaned up."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            await asyncio.to_thread(process.wait)

    async def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._process = None
                raise RuntimeError(f"the simulator ended: {self._log_tail()}")
            try:
                self.nodes = {entry["name"]: self._node(entry) for entry in await self.control.info()}
                if all((node.directory / "config.yml").exists() for node in self.nodes.values()):
                    self._ports = {name: node.port for name, node in self.nodes.items()}
                    return
            except (OSError, grpc.aio.AioRpcError):
                pass
            await asyncio.sleep(0.02)
        await self.kill()
        raise TimeoutError(f"the simulator was not ready within {START_SECONDS} s: {self._log_tail()}")

    def _node(self, entry: dict[str, Any]) -> LndNode:
        home = self.directory / entry["name"]
        return LndNode(
            name=entry["name"],
            host="127.0.0.1",
            port=entry["port"],
            tls_cert_path=home / "tls.cert",
            macaroon_path=home / "admin.macaroon",
            pubkey=entry["pubkey"],
            directory=home,
        )

    def _log_tail(self) -> str:
        return (self.directory / "simulator.log").read_text()[-2000:]
