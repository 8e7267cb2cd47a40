"""LndClient over gRPC, on the simulator: the cases that unit tests run on the double."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import grpc
import pytest

from lightning.client import LndClient, LndError, Trouble
from lightning.simulator.process import LndNode, SimulatedNetwork
from nodeapi.certificates import make_pair
from protos.lnrpc import lightning_pb2, lightning_pb2_grpc
from tests.support import lnd_cases
from tests.support.networks import new_network
from tests.support.waiting import GUARD_SECONDS

COMMANDS = {"down": "down", "locked": "lock", "starting": "starting", "up": "up"}


class Pem(NamedTuple):
    certificate: bytes
    key: bytes


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


class GetInfo(lightning_pb2_grpc.LightningServicer):
    """An lnd that tells its key."""

    async def GetInfo(self, request, context) -> lightning_pb2.GetInfoResponse:  # noqa: N802
        return lightning_pb2.GetInfoResponse(identity_pubkey="02aa")

    async def SubscribeInvoices(self, request, context):  # noqa: N802
        yield lightning_pb2.Invoice(memo="the stream is open")
        await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def serving(pair: Pem, port: int) -> AsyncIterator[int]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    lightning_pb2_grpc.add_LightningServicer_to_server(GetInfo(), server)
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    bound = server.add_secure_port(f"localhost:{port}", credentials)
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)


async def test_certificate_that_lnd_has_renewed():
    """What is under way on the connection of before goes on."""
    before, after = (Pem(*make_pair(["localhost"], days=30)) for _ in range(2))
    async with serving(before, 0) as port, serving(after, 0) as renewed_port:
        client = LndClient(host="localhost", port=port, tls_cert=before.certificate, macaroon_hex="00")
        stream = client.subscribe_invoices()
        assert (await anext(stream)).memo == "the stream is open"
        following = asyncio.ensure_future(anext(stream))
        renewed = client.with_credentials(tls_cert=after.certificate, macaroon_hex="00")
        with pytest.raises(LndError) as error:
            await renewed.get_info()
        assert error.value.trouble is Trouble.CERTIFICATE
        # The same lnd, started again with another certificate.
        client.address = f"localhost:{renewed_port}"
        client.renew(tls_cert=after.certificate, macaroon_hex="00")
        assert (await client.get_info()).identity_pubkey == "02aa"
        await asyncio.sleep(0)
        assert not following.done()
        following.cancel()
        await client.close()
        await renewed.close()
