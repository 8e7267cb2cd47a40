"""One simulated network and two nodes for the whole run: alice and bob. Carol's lnd is free for tests with nodes of their own.

The channels are alice – bob – carol. Nothing may depend on the order of the tests: whoever changes a shared part puts it back.
"""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from lightning.simulator.control import SimulatorControl
from lightning.simulator.process import SimulatedNetwork
from tests.support.databases import drop_databases
from tests.support.nodes import Node, launched

NAMES = ["alice", "bob", "carol"]

# A machine that is busy with something else has found no fault, and two runs share no file.
settings.register_profile(
    "tests", deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

# A script's background job ignores Ctrl-C, and so would all that is started here, which tests end with it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup() -> None:
    launched[:] = [node for node in launched if node.running]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """With a failure stands what the nodes of the test said last."""
    report = yield
    if report.failed:
        for node in dict.fromkeys(launched):
            report.sections.append((f"log of {node.directory.name}", node.log_tail))
    return report


class Network:
    """A running simulated network, for tests that are not asynchronous."""

    def __init__(self, simulated: SimulatedNetwork):
        self.directory = simulated.directory
        self.nodes = simulated.nodes

    def command(self, name: str, **arguments):
        """One of the simulator's commands (lightning/simulator/control_server.py)."""
        return asyncio.run(self._command(name, arguments))

    async def _command(self, name: str, arguments: dict):
        control = SimulatorControl(self.directory)
        try:
            return await control.command(name, **arguments)
        finally:
            await control.close()

    def pay(self, sender: str, dest: str, records: dict[int, bytes], **arguments) -> dict:
        """A raw keysend with any records; its end."""
        values = {str(number): value.hex() for number, value in records.items()}
        return self.command("pay", node=sender, dest=dest, records=values, **arguments)


async def start_simulated(simulated: SimulatedNetwork) -> None:
    await simulated.start()
    await simulated.control.close()


@pytest.fixture(scope="session", autouse=True)
def databases() -> Iterator[None]:
    yield
    drop_databases()


@contextmanager
def simulated_network(directory: Path) -> Iterator[Network]:
    """A network of its own, for tests whose nodes answer by themselves: two nodes on one lnd would both answer."""
    simulated = SimulatedNetwork(directory, NAMES)
    asyncio.run(start_simulated(simulated))
    try:
        yield Network(simulated)
    finally:
        asyncio.run(simulated.stop())


@pytest.fixture(autouse=True)
def shared_nodes_run(request) -> Iterator[None]:
    """A test that leaves one dead, because it failed or found a fault, takes no other with it."""
    yield
    shared = {name: request.node.funcargs.get(name) for name in ("alice", "bob")}
    dead = {name: node for name, node in shared.items() if isinstance(node, Node) and not node.running}
    for node in dead.values():
        node.start()
    assert not dead, f"after this test there ran no more: {', '.join(dead)}"


@pytest.fixture(scope="session")
def network(tmp_path_factory) -> Iterator[Network]:
    with simulated_network(tmp_path_factory.mktemp("network")) as running:
        yield running


@pytest.fixture(scope="session")
def alice(network, tmp_path_factory) -> Iterator[Node]:
    with Node(network.nodes["alice"], tmp_path_factory.mktemp("alice")) as node:
        yield node


@pytest.fixture(scope="session")
def bob(network, tmp_path_factory) -> Iterator[Node]:
    with Node(network.nodes["bob"], tmp_path_factory.mktemp("bob")) as node:
        yield node
