"""VPN leases between two nodes, over the same exchange by bare clients of both lnds and `wg` alone."""

import asyncio
import base64
import hashlib
import ipaddress
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.report import Row, Section
from bench.rest_client import RestClient
from bench.settings import Settings
from bench.streams import Stream
from bench.worlds import LATENCY_MS, lnd_on_path, running, simulated
from protos.invoicesrpc import invoices_pb2
from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2
from tests.support.lnd_rpc import BareClient
from tests.support.machines import LISTEN_PORT, Client, WireGuardServer
from tests.support.nodes import Node
from tests.support.real_lnd import RealNetwork
from vpn import keys, wgquick
from vpn.pool import Pool
from vpn.wgquick import Peering

SUBNET, SERVER_ADDRESS, SERVER_IP = "10.64.0.0/16", "10.64.0.1", "192.0.2.1"
PRICE_SAT = 3_600
CONNECTIONS = 8
POOL = Pool((ipaddress.ip_network(SUBNET),))
# None of a service: the nodes on the same lnds pass it over.
BARE_RECORD = 5_482_373_999
# What the messages of the exchange weigh, sealed and signed.
CONTRACT_BYTES, INVOICE_BYTES, LEASE_BYTES = 350, 700, 600
TITLES = {"simulator": f"a simulated lnd pair (payments take {LATENCY_MS} ms)", "lnd": "a real lnd pair"}


async def measure(directory: Path, settings: Settings) -> AsyncIterator[Section]:
    for kind, title in TITLES.items():
        section = Section(f"VPN: leases sold over {title}")
        if kind == "lnd" and not lnd_on_path():
            section.notes.append("not measured: lnd and btcd are not on PATH")
        else:
            async with AsyncExitStack() as stack:
                await _fill(section, await Market.opened(directory / kind, kind, stack), settings)
        yield section


async def _fill(section: Section, market: "Market", settings: Settings) -> None:
    ways = {"node": market.by_nodes, "bare": market.by_hand}
    packets, rates = {name: [] for name in ways}, {name: [] for name in ways}
    for _ in range(settings.rounds):
        for name, way in ways.items():
            times = [await way.until_first_packet() for _ in range(settings.vpn_tunnels)]
            packets[name].append(sorted(times)[len(times) // 2] * 1000)
        for name, way in ways.items():
            prepared = await way.prepare(settings.vpn_sales)
            start = time.perf_counter()
            await way.buy_at_once(prepared)
            rates[name].append(settings.vpn_sales * 60 / (time.perf_counter() - start))
    section.rows.append(Row("contract → first packet, p50", "ms", packets["node"], packets["bare"]))
    section.rows.append(
        Row(f"leases sold, {settings.vpn_sales} at once", "1/min", rates["node"], rates["bare"])
    )
    section.notes.append(
        "peer: three keysends, a hold invoice paid and settled, `wg set` before it is, by clients of both lnds; the "
        "client's interface and its first datagram are in both"
    )


@dataclass
class Market:
    by_nodes: "ByNodes"
    by_hand: "ByHand"

    @classmethod
    async def opened(cls, directory: Path, kind: str, stack: AsyncExitStack) -> "Market":
        directory.mkdir()
        lnds = (
            simulated(directory / "net", latency_ms=LATENCY_MS)
            if kind == "simulator"
            else RealNetwork(directory / "net", ["alice", "bob"])
        )
        network = await stack.enter_async_context(lnds)
        buying, selling = network.nodes["alice"], network.nodes["bob"]
        doors = [_door(directory, stack) for _ in range(2)]
        seller = Node(selling, directory / "seller", extra={"vpn": _config(doors[0])})
        buyer = Node(buying, directory / "buyer")
        await stack.enter_async_context(running([seller, buyer]))
        by_nodes = ByNodes(doors[0], seller, buyer, await stack.enter_async_context(Told(buyer.http)))
        by_hand = ByHand(
            doors[1], *[await stack.enter_async_context(BareClient(lnd)) for lnd in (buying, selling)]
        )
        return cls(by_nodes, by_hand)


class Door:
    """An interface that is sold on, and the machine of a client before it."""

    def __init__(self, server: WireGuardServer, client: Client):
        self.server, self._client = server, client
        self._up = ""

    async def until_a_packet(self, file: str) -> None:
        """Brings the tunnel of this file up, and sends through it."""
        self._up = await asyncio.to_thread(self._client.bring_up, file)
        assert await asyncio.to_thread(self._client.reaches, "udp", SERVER_ADDRESS)

    async def down(self) -> None:
        await asyncio.to_thread(self._client.remove_interface, self._up)


def _door(directory: Path, stack: AsyncExitStack) -> Door:
    server = stack.enter_context(WireGuardServer(directory, f"{SERVER_ADDRESS}/16"))
    client = stack.enter_context(Client(directory))
    server.cable(client, f"{SERVER_IP}/30", "192.0.2.2/30")
    server.serve(SERVER_ADDRESS)
    return Door(server, client)


def _config(door: Door) -> dict:
    return {
        "price": PRICE_SAT,
        "server_ip": SERVER_IP,
        "server_port": LISTEN_PORT,
        "subnet": SUBNET,
        "server_pub_key": door.server.pair.public,
        "allowed_ips": SUBNET,
        "binary_path": str(door.server.wg),
        "min_seconds": 10,
        "quotes_per_minute": 100_000,
        "quote_seconds": 3_600,
    }


class Told(Stream):
    """Keeps what is told, by the call that it answers."""

    def __init__(self, address: str):
        super().__init__(address)
        self._data: dict[str, dict] = {}

    def read(self, event: dict) -> None:
        if event["serviceType"] == "vpn":
            self._data[event["id"]] = json.loads(base64.b64decode(event["data"]))

    async def answer(self, call_id: str) -> dict:
        await self.seen(call_id)
        return self._data.pop(call_id)


class ByNodes:
    def __init__(self, door: Door, seller: Node, buyer: Node, stream: Told):
        self._door, self._seller, self._buyer, self._stream = door, seller, buyer, stream

    async def until_first_packet(self) -> float:
        """Seconds from the contract on."""
        (quote,) = await self._quotes(1)
        async with RestClient(self._buyer.http) as rest:
            start = time.perf_counter()
            lease = await self._stream.answer(await self._contract(rest, quote))
            file = await rest.get(f"/v1/vpn/leases/{lease['id']}/config")
            await self._door.until_a_packet(file.decode())
            seconds = time.perf_counter() - start
        await self._door.down()
        return seconds

    async def prepare(self, count: int) -> list[dict]:
        return await self._quotes(count)

    async def buy_at_once(self, quotes: list[dict]) -> None:
        shares = [quotes[number::CONNECTIONS] for number in range(CONNECTIONS)]
        await asyncio.gather(*map(self._buy, shares))

    async def _buy(self, quotes: list[dict]) -> None:
        # The node ends connections that say nothing for a while: none is kept from one round to the next.
        async with RestClient(self._buyer.http) as rest:
            contracts = [await self._contract(rest, quote) for quote in quotes]
        for contract_id in contracts:
            told = await self._stream.answer(contract_id)
            assert told["type"] == "lease", told

    async def _quotes(self, count: int) -> list[dict]:
        async with RestClient(self._buyer.http) as rest:
            asked = [await self._post(rest, "quote") for _ in range(count)]
        return [await self._stream.answer(call_id) for call_id in asked]

    async def _contract(self, rest: RestClient, quote: dict) -> str:
        return await self._post(rest, "contract", nonce=quote["nonce"], price=str(PRICE_SAT))

    async def _post(self, rest: RestClient, call: str, **fields: str) -> str:
        body = json.dumps({"pubkey": self._seller.pubkey, **fields}).encode()
        return json.loads(await rest.post(f"/v1/vpn/{call}", body))["id"]


class ByHand:
    """The exchange without a node: what lnd and `wg` take for it."""

    def __init__(self, door: Door, buyer: BareClient, seller: BareClient):
        self._door, self._buyer, self._seller = door, buyer, seller
        self._clients = iter(POOL.clients)

    async def until_first_packet(self) -> float:
        """Seconds from the contract on."""
        pair = keys.new_key_pair()
        start = time.perf_counter()
        client = await self._buy(pair.public)
        await self._door.until_a_packet(wgquick.render(self._peering(client), pair.private))
        seconds = time.perf_counter() - start
        await self._door.down()
        return seconds

    async def prepare(self, count: int) -> list[str]:
        return [keys.new_key_pair().public for _ in range(count)]

    async def buy_at_once(self, public_keys: list[str]) -> None:
        await asyncio.gather(*map(self._buy, public_keys))

    async def _buy(self, public_key: str) -> int:
        client, preimage = next(self._clients), os.urandom(32)
        await self._tell(self._buyer, self._seller, CONTRACT_BYTES)
        asked = invoices_pb2.AddHoldInvoiceRequest(
            hash=hashlib.sha256(preimage).digest(), value=PRICE_SAT, expiry=120, cltv_expiry=80, private=True
        )
        invoice = await self._seller.invoices.AddHoldInvoice(asked)
        await self._tell(self._seller, self._buyer, INVOICE_BYTES)
        watched = self._seller.invoices.SubscribeSingleInvoice(
            invoices_pb2.SubscribeSingleInvoiceRequest(r_hash=asked.hash)
        )
        payment = router_pb2.SendPaymentRequest(
            payment_request=invoice.payment_request,
            timeout_seconds=60,
            fee_limit_sat=100,
            no_inflight_updates=True,
        )
        paying = asyncio.create_task(self._buyer.pay(payment))
        async for told in watched:
            if told.state == lightning_pb2.Invoice.ACCEPTED:
                break
        watched.cancel()
        await self._let_in(public_key, client)
        await self._seller.invoices.SettleInvoice(invoices_pb2.SettleInvoiceMsg(preimage=preimage))
        await self._tell(self._seller, self._buyer, LEASE_BYTES)
        assert (await paying).status == lightning_pb2.Payment.SUCCEEDED
        return client

    async def _tell(self, sender: BareClient, recipient: BareClient, size: int) -> None:
        payment = await sender.keysend(recipient.node.pubkey, {BARE_RECORD: os.urandom(size)})
        assert payment.status == lightning_pb2.Payment.SUCCEEDED

    async def _let_in(self, public_key: str, client: int) -> None:
        (network,) = POOL.peer_networks(client)
        process = await asyncio.create_subprocess_exec(
            str(self._door.server.wg),
            "set",
            self._door.server.interface,
            "peer",
            public_key,
            "allowed-ips",
            str(network),
        )
        assert await process.wait() == 0

    def _peering(self, client: int) -> Peering:
        return Peering(
            addresses=POOL.addresses(client),
            endpoint_host=ipaddress.ip_address(SERVER_IP),
            endpoint_port=LISTEN_PORT,
            server_pub_key=self._door.server.pair.public,
            allowed_ips=POOL.networks,
            keepalive_seconds=25,
        )
