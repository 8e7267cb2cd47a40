"""One process that hosts all nodes of a simulated Lightning network in one directory."""

import asyncio
import fcntl
import gc
import os
import shlex
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lightning.simulator.config_file import BASE_PORT, service_ports, write_config
from lightning.simulator.control_server import ControlServer
from lightning.simulator.errors import StartError
from lightning.simulator.server import HOST, NodeServer, check_port
from lightning.simulator.services import Services, make_services
from lightning.simulator.store import Store

DATABASE = "simulator.sqlite3"
GRACE_SECONDS = 1


def say(line: str) -> None:
    print(line, flush=True)


async def run(
    directory: Path,
    names: list[str],
    *,
    base_port: int = BASE_PORT,
    topology: str = "chain",
    stop: asyncio.Event | None = None,
    ready: Callable[[], None] | None = None,
    node_ports: Mapping[str, int] | None = None,
    private: Collection[str] = (),
    announce: Callable[[str], None] | None = say,
    configured: Callable[[], None] | None = None,
) -> None:
    """Runs until `stop`, SIGINT or SIGTERM. Raises StartError (a ValueError) when it cannot start.

    Nodes that were there before come back, also when they are not in `names`. `announce` gets a line for each node.
    `configured` is called when the configurations are written and before anything is announced. `private`: nodes that only get private channels, when they are new.
    """
    directory = Path(directory).resolve()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    stop = stop or asyncio.Event()
    with _locked(directory), _stopped_by_signals(stop):
        # It holds the nodes' keys; SQLite gives its side files the same mode.
        os.close(os.open(directory / DATABASE, os.O_RDWR | os.O_CREAT, 0o600))
        store = Store(directory / DATABASE)
        try:
            services = make_services(store)
            services.network.ensure_nodes(names, topology, private)
            servers = _make_servers(directory, services, base_port, node_ports or {})
            await _serve(directory, services, servers, base_port, stop, ready, announce, configured)
        finally:
            store.close()


async def _serve(
    directory: Path,
    services: Services,
    servers: list[NodeServer],
    base_port: int,
    stop: asyncio.Event,
    ready: Callable[[], None] | None,
    announce: Callable[[str], None] | None,
    configured: Callable[[], None] | None,
) -> None:
    control = ControlServer(directory, services, {server.node.name: server for server in servers})
    try:
        services.invoices.start()
        services.payments.resume()
        for server in servers:
            await server.start()
        await control.start()
        _write_configs(servers, base_port)
        if configured:
            configured()
        if announce:
            for line in map(describe, servers):
                announce(line)
        # What is there now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        if ready:
            ready()
        await stop.wait()
    finally:
        await control.stop()
        for server in servers:
            server.node.streams.drop()
        await asyncio.gather(*(server.stop(GRACE_SECONDS) for server in servers))
        await services.payments.stop()


def describe(server: NodeServer) -> str:
    config = server.directory / "config.yml"
    return f"{server.node.name}  {server.node.pubkey.hex()}  {HOST}:{server.port}  ./impervious --config {shlex.quote(str(config))}"


def _make_servers(
    directory: Path, services: Services, base_port: int, node_ports: Mapping[str, int]
) -> list[NodeServer]:
    servers = []
    for index, node in enumerate(services.network.nodes):
        port = node_ports.get(node.name, base_port + index)
        check_port(port, f"the node {node.name}")
        home = directory / node.name
        home.mkdir(exist_ok=True)
        servers.append(NodeServer(node, services, directory=home, port=port))
    return servers


def _write_configs(servers: list[NodeServer], base_port: int) -> None:
    """Last of all: who waits for a config.yml finds a network that answers."""
    for index, server in enumerate(servers):
        write_config(
            server.directory,
            name=server.node.name,
            pubkey=server.node.pubkey.hex(),
            lnd_port=server.port,
            ports=service_ports(index, base_port - BASE_PORT),
        )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two simulators on one directory would each have half of the truth."""
    descriptor = os.open(directory / "simulator.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take_lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartError(f"a simulator is already running in {directory}") from None


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    loop, handled = asyncio.get_running_loop(), []
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
            handled.append(number)
        except (ValueError, RuntimeError, NotImplementedError):
            pass  # not in the main thread: the caller stops us
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
