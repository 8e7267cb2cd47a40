"""The processes of the scale test: runimpd without HTTP, two daphnes, PostgreSQL and Redis, a simulated network, clients."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from psycopg import sql

from bench.machine import cpu_seconds, rss_kb
from bench.processes import Program
from bench.soak.world import Process
from bench.worlds import simulated
from tests.support.lnd_rpc import BareClient
from tests.support.nodes import Node
from tests.support.ports import free_port

DAPHNES = 2


@dataclass
class World:
    node: Node
    daphnes: list[Process]
    clients: list[Program]
    payer: BareClient
    database_url: str

    def restart(self, index: int) -> None:
        """Ends one daphne as an operator would, and starts it again."""
        self.daphnes[index].process.send_signal(signal.SIGTERM)
        self.daphnes[index].process.wait()
        self.daphnes[index].launch()

    def message_events(self) -> list[int]:
        """What every client must have had: the log's own order."""
        with psycopg.connect(self.database_url) as connection:
            rows = connection.execute(
                "SELECT seq FROM messaging_event WHERE service_type = 'message' ORDER BY seq"
            )
            return [row[0] for row in rows]

    def processes(self) -> dict[str, list[int]]:
        """Process ids by what is told of them."""
        return {
            "runimpd": [self.node.process.pid],
            "daphnes": [daphne.process.pid for daphne in self.daphnes if daphne.running],
            "PostgreSQL": _pids_of("postgres"),
            "Redis": _pids_of("redis-server"),
            "clients": [program.pid for program in self.clients],
        }


def cpu_by_part(world: World) -> dict[str, float]:
    return {name: sum(_of(cpu_seconds, pid) for pid in pids) for name, pids in world.processes().items()}


def memory_mb_by_part(world: World) -> dict[str, float]:
    return {name: sum(_of(rss_kb, pid) for pid in pids) / 1000 for name, pids in world.processes().items()}


def _of(measure, pid: int) -> float:
    try:
        return measure(pid)
    except (OSError, StopIteration):
        return 0.0


def _pids_of(name: str) -> list[int]:
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/comm") if _text(path) == name]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[World]:
    """Needs the servers that the environment names: TEST_POSTGRES_URL and TEST_REDIS_URL."""
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(simulated(directory / "net"))
        database_url = stack.enter_context(_Database(os.environ["TEST_POSTGRES_URL"]))
        extra = {"redis": {"url": os.environ["TEST_REDIS_URL"]}}
        node = Node(
            network.nodes["bob"],
            directory / "node",
            extra=extra,
            arguments=("--no-http",),
            database_url=database_url,
        )
        stack.callback(lambda: node.process and node.kill())
        await asyncio.to_thread(node.start)
        daphnes = [_daphne(directory, node, index) for index in range(DAPHNES)]
        for daphne in daphnes:
            stack.callback(daphne.kill)
            daphne.launch()
        for daphne in daphnes:
            await daphne.ready()
        clients = [
            await stack.enter_async_context(
                Program("bench.scale.clients", directory / f"clients-{index}.log")
            )
            for index in range(DAPHNES)
        ]
        payer = await stack.enter_async_context(BareClient(network.nodes["alice"]))
        yield World(node, daphnes, clients, payer, database_url)


def _daphne(directory: Path, node: Node, index: int) -> Process:
    port, log = free_port(), directory / f"daphne-{index}.log"
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
    command += ["--access-log", "/dev/null", "impervious_site.asgi:application"]
    return Process(f"daphne {index + 1}", command, log, port=port, IMPD_CONFIG=str(node.config_path))


class _Database:
    """A database of its own on the server, whose commits reach the disk."""

    def __init__(self, server_url: str):
        self._server_url = server_url
        self._name = f"scale_{uuid4().hex}"

    def __enter__(self) -> str:
        self._run(sql.SQL("ALTER SYSTEM SET fsync = on"))
        self._run(sql.SQL("SELECT pg_reload_conf()"))
        self._run(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._name)))
        return urlunsplit(urlsplit(self._server_url)._replace(path=f"/{self._name}"))

    def __exit__(self, *_) -> None:
        self._run(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self._name)))
        self._run(sql.SQL("ALTER SYSTEM RESET fsync"))
        self._run(sql.SQL("SELECT pg_reload_conf()"))

    def _run(self, statement: sql.Composable) -> None:
        with psycopg.connect(self._server_url, autocommit=True) as connection:
            connection.execute(statement)
