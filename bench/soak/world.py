"""The processes of a soak: a simulated network, its nodes, a Redis and a daphne. Any of them may die at any instant."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lightning.simulator.process import SimulatedNetwork
from tests.support.networks import new_network
from tests.support.nodes import ROOT, Node
from tests.support.ports import free_port

READY_SECONDS = 240
WATCH_SECONDS = 0.2


class Unhealed(Exception):
    """A process did not come back."""


class Process:
    """Something that is killed and started again. `launch` does not wait until it is ready."""

    def __init__(
        self, name: str, command: list[str], log: Path, *, port: int, cwd: Path = ROOT, **environ: str
    ):
        self.name, self.log_path, self.port = name, log, port
        self._command, self._cwd, self._environ = command, cwd, environ
        self.process: subprocess.Popen | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        if self.running:
            return
        with open(self.log_path, "a") as log:
            environ = os.environ | self._environ
            self.process = subprocess.Popen(self._command, cwd=self._cwd, env=environ, stdout=log, stderr=log)

    def kill(self) -> None:
        if self.running:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    async def ready(self) -> None:
        await until(lambda: _listens(self.port), f"{self.name} does not listen: {self.log_path}")


@dataclass
class Member:
    """One node of the soak. `wanted`: it shall be running; `ends` are its ends that nobody had asked for."""

    name: str
    node: Node
    doors: list[str]
    wanted: bool = True
    paused: bool = False
    cramped: bool = False
    ends: list[str] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return self.node.process is not None and self.node.process.poll() is None

    def launch(self) -> None:
        self.wanted = True
        if not self.running:
            self.node.launch()
            self.paused = self.cramped = False

    def kill(self) -> None:
        self.wanted = False
        if self.running:
            self.node.kill()

    async def ready(self, seconds: float = READY_SECONDS) -> None:
        failure = f"{self.name} does not answer: {self.node.log_path}"
        await until(lambda: _answers(self.node.http), failure, seconds=seconds)


@dataclass
class World:
    directory: Path
    network: SimulatedNetwork
    members: dict[str, Member]
    redis: Process | None
    daphne: Process | None

    async def watch(self) -> None:
        """Starts again what ended of its own accord, and writes down that it did."""
        while True:
            for member in self.members.values():
                if member.wanted and not member.running:
                    why = "on a full disk" if member.cramped else "with room on its disk"
                    member.ends.append(f"{member.name} ended with {member.node.process.returncode} {why}")
                    member.launch()
            await asyncio.sleep(WATCH_SECONDS)

    def kill(self) -> None:
        for part in (*self.members.values(), self.daphne, self.redis):
            if part:
                part.kill()


@asynccontextmanager
async def running(
    directory: Path, names: list[str], *, with_redis: bool = True, lnds: tuple[str, ...] = ()
) -> AsyncIterator[World]:
    """Everything runs and answers. `lnds` are further nodes of the network without a node of ours beside them."""
    directory.mkdir(parents=True, exist_ok=True)
    redis = _redis(directory) if with_redis and shutil.which("redis-server") else None
    extra = {"redis": {"url": f"redis://127.0.0.1:{redis.port}/0"}} if redis else {}
    if redis:
        redis.launch()
        await redis.ready()
    async with new_network(directory / "net", [*names, *lnds]) as network:
        members = {}
        for name in names:
            node = Node(network.nodes[name], directory / name, extra=extra)
            members[name] = Member(name, node, [node.http])
        daphne = _daphne(directory, members[names[-1]]) if redis else None
        world = World(directory, network, members, redis, daphne)
        try:
            await _start(world)
            yield world
        finally:
            world.kill()


async def _start(world: World) -> None:
    for member in world.members.values():
        member.launch()
    for member in world.members.values():
        await member.ready()
    if world.daphne:
        world.daphne.launch()
        await world.daphne.ready()


def _redis(directory: Path) -> Process:
    port, home = free_port(), directory / "redis"
    home.mkdir(exist_ok=True)
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(home)]
    return Process("redis", [*command, "--save", "", "--appendonly", "no"], home / "redis.log", port=port)


def _daphne(directory: Path, member: Member) -> Process:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "daphne",
        "-b",
        "127.0.0.1",
        "-p",
        str(port),
        "--websocket_timeout",
        "-1",
    ]
    log = directory / f"daphne-{member.name}.log"
    member.doors.append(f"127.0.0.1:{port}")
    application = "impervious_site.asgi:application"
    return Process(
        "daphne", [*command, application], log, port=port, IMPD_CONFIG=str(member.node.config_path)
    )


async def until(condition, failure: str, *, seconds: float = READY_SECONDS, pause: float = 0.05) -> None:
    """Waits until `condition` (a function, or one that gives an awaitable) is true. Raises Unhealed."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        if asyncio.get_running_loop().time() > end:
            raise Unhealed(failure)
        await asyncio.sleep(pause)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def _answers(address: str) -> bool:
    with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
        status, _ = await request(address, "GET", "/v1/node", seconds=5)
        return status == 200
    return False


async def request(
    address: str,
    method: str,
    path: str,
    body: dict | None = None,
    *,
    headers: dict | None = None,
    seconds: float = 30,
) -> tuple[int, dict]:
    """One HTTP request on a connection of its own: its status and answer. OSError, ValueError, TimeoutError or
    asyncio.IncompleteReadError when there was no whole answer.
    """
    async with asyncio.timeout(seconds):
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            raw = json.dumps(body).encode() if body is not None else b""
            fields = {
                "Host": address,
                "Connection": "close",
                "Content-Type": "application/json",
                **(headers or {}),
            }
            fields["Content-Length"] = str(len(raw))
            lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode() + raw)
            head = await reader.readuntil(b"\r\n\r\n")
            answer = await reader.readexactly(_length(head))
            return int(head.split(b" ", 2)[1]), json.loads(answer)
        finally:
            writer.close()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise ValueError(f"an answer without a length: {head!r}")
