"""The pump as a process: started, heard, started again when it dies, ended."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from messaging.required import required
from nodeapi.relay.ports import Pair

logger = logging.getLogger("nodeapi.relay.process")

PROGRAM = Path(__file__).with_name("pump.py")
AGAIN_SECONDS = 0.5
END_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class PumpState:
    """What a pump knows, as in pump.Pump: of each side its address, and what it sent that was passed on."""

    peers: list = field(default_factory=lambda: [None, None])
    datagrams: list[int] = field(default_factory=lambda: [0, 0])
    passed_bytes: list[int] = field(default_factory=lambda: [0, 0])
    dropped: int = 0


class PumpProcess:
    """Owns the sockets. `state` is what the pump told last, `on_told` is called when it tells. Once `ended_idle`, it
    passes nothing more.
    """

    def __init__(
        self, sockets: Pair, *, settings: dict[str, Any], state: PumpState, on_told: Callable[[], None]
    ):
        self._sockets = sockets
        self._settings = settings
        self._on_told = on_told
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task | None = None
        self._ending = False
        self.state = state
        self.ended_idle = False

    @property
    def ports(self) -> tuple[int, int]:
        first, second = (one.getsockname()[1] for one in self._sockets)
        return first, second

    def start(self) -> None:
        """Datagrams wait in the sockets until the process is there."""
        self._watching = asyncio.create_task(self._keep_alive())

    async def _keep_alive(self) -> None:
        while True:
            try:
                process = await self._spawn()
                async for line in required(process.stdout):
                    self._hear(line)
                trouble = f"it ended with {await process.wait()}"
            except OSError as error:
                trouble = str(error)
            if self._ending or self.ended_idle:
                return
            logger.error("the relay's process: %s; starting it again", trouble)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _spawn(self) -> asyncio.subprocess.Process:
        descriptors = [one.fileno() for one in self._sockets]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(PROGRAM),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=descriptors,
            # Ctrl-C is for the node, which then ends its pump.
            start_new_session=True,
        )
        settings = {"descriptors": descriptors, **self._settings, **asdict(self.state)}
        self._process, stdin = process, required(process.stdin)
        stdin.write(json.dumps(settings).encode() + b"\n")
        if self._ending:
            stdin.close()
        return process

    def _hear(self, line: bytes) -> None:
        told = json.loads(line)
        self.ended_idle = told.pop("ended", None) is not None
        self.state = PumpState(**told)
        self._on_told()

    async def end(self) -> None:
        """Frees the ports; `state` is the last one afterwards."""
        self._ending = True
        if self._process:
            required(self._process.stdin).close()
        watching = required(self._watching)
        _, late = await asyncio.wait({watching}, timeout=END_SECONDS)
        if late:
            if self._process and self._process.returncode is None:
                self._process.kill()
            watching.cancel()
            await asyncio.wait(late)
        for one in self._sockets:
            one.close()
