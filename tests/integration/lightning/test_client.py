"""LndClient over gRPC, on the simulator: the cases that unit tests run on the double."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from lightning.client import LndClient
from lightning.simulator.process import LndNode, SimulatedNetwork
from tests.support import lnd_cases
from tests.support.networks import new_network
from tests.support.waiting import GUARD_SECONDS

COMMANDS = {"down": "down", "locked": "lock", "starting": "starting", "up": "up"}


class Pair:
    """A Target."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self._network = network
        self.buyer, self.seller = (client_of(network.nodes[name]) for name in ("buyer", "seller"))

    async def put(self, state: str) -> None:
        await self._network.control.command(COMMANDS[state], node="seller")

    async def close(self) -> None:
        await self.buyer.close()
        await self.seller.close()


def client_of(node: LndNode) -> LndClient:
    return LndClient(
        host=node.host,
        port=node.port,
        tls_cert=node.tls_cert_path.read_bytes(),
        macaroon_hex=node.macaroon_path.read_bytes().hex(),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator:
    """Awaits a case on the network's own event loop."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def start() -> Pair:
            network = new_network(tmp_path_factory.mktemp("simulated"), ["buyer", "seller"])
            pair = Pair(await stack.enter_async_context(network))
            stack.push_async_callback(pair.close)
            return pair

        pair = runner.run(start())
        try:
            yield lambda case: runner.run(asyncio.wait_for(case(pair), GUARD_SECONDS))
        finally:
            runner.run(stack.aclose())


@pytest.mark.parametrize("case", lnd_cases.CASES, ids=lambda case: case.__name__)
def test_case(run, case):
    run(case)
