"""Peers and clients as processes, which end with the block that started them."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.nodes import node_environ
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 30


class PeerError(Exception):
    """A peer did not start or did not answer."""


@asynccontextmanager
async def daphne(
    application: str, log: Path, python: str = sys.executable, **environ: str
) -> AsyncIterator[tuple[str, int]]:
    """An ASGI application under Daphne, with websocket pings like the node's; its address and process id."""
    port = free_port()
    command = [
        python,
        "-m",
        "daphne",
        "-b",
        "127.0.0.1",
        "-p",
        str(port),
        "-v",
        "0",
        "--access-log",
        "/dev/null",
    ]
    with open(log, "a") as output:
        process = subprocess.Popen(
            [*command, "--websocket_timeout", "-1", application],
            cwd=ROOT,
            env=node_environ() | environ,
            stdout=output,
            stderr=output,
        )
    try:
        await _until_listening(process, port, log)
        yield f"127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()


async def _until_listening(process: subprocess.Popen, port: int, log: Path) -> None:
    for _ in range(START_SECONDS * 50):
        if process.poll() is not None:
            raise PeerError(f"a peer ended: {log.read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        await asyncio.sleep(0.02)
    raise PeerError(f"a peer does not listen: {log.read_text()[-2000:]}")


class Program:
    """A module of ours as a process that is spoken to in lines."""

    def __init__(self, module: str, log: Path, **environ: str):
        self._module, self._log, self._environ = module, log, environ

    async def __aenter__(self) -> "Program":
        with open(self._log, "a") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                cwd=ROOT,
                env=os.environ | self._environ,
                stderr=log,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        return self

    async def __aexit__(self, *_) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def read(self) -> str:
        line = await self._process.stdout.readline()
        if not line:
            raise PeerError(f"{self._module} ended: {self._log.read_text()[-2000:]}")
        return line.decode().strip()

    async def write(self, line: str) -> None:
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def ask(self, **question) -> dict:
        await self.write(json.dumps(question))
        return await self.result()

    async def result(self) -> dict:
        return json.loads(await self.read())
