"""Simulated networks, for tests that are not asynchronous."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.simulator.control import SimulatorControl
from lightning.simulator.process import SimulatedNetwork
from tests.support.ports import free_port

NAMES = ["alice", "bob", "carol"]


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


def new_network(directory: Path, names: list[str], **options) -> SimulatedNetwork:
    """On ports that nobody takes while its nodes are away. The options are those of SimulatedNetwork."""
    return SimulatedNetwork(directory, names, ports={name: free_port() for name in names}, **options)


async def start_simulated(simulated: SimulatedNetwork) -> None:
    await simulated.start()
    await simulated.control.close()


@contextmanager
def simulated_network(directory: Path) -> Iterator[Network]:
    """A network of its own, for tests whose nodes answer by themselves: two nodes on one lnd would both answer."""
    simulated = new_network(directory, NAMES)
    asyncio.run(start_simulated(simulated))
    try:
        yield Network(simulated)
    finally:
        asyncio.run(simulated.stop())
