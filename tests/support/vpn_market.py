"""A seller with a real WireGuard interface and a buyer, each a whole node, and what tests ask and wait for."""

import asyncio
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from coincurve import PrivateKey

from lightning.simulator.process import SimulatedNetwork
from protos import envelope_pb2
from protos.invoicesrpc import invoices_pb2
from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2
from tests.support.databases import execute
from tests.support.lnd_rpc import BareClient
from tests.support.machines import LISTEN_PORT, WireGuardServer, why_no_machines
from tests.support.networks import new_network, start_simulated
from tests.support.nodes import SERVICES, Node
from tests.support.records import item
from tests.support.strangers import StrangeNode
from tests.support.streams import WebsocketStream, data_of
from vpn.keys import new_key_pair

QUOTE, CONTRACT, REFRESH, LEASES = "/v1/vpn/quote", "/v1/vpn/contract", "/v1/vpn/refresh", "/v1/vpn/leases"
RECORD_NUMBER = SERVICES["vpn"]
GUARD_SECONDS = 600
SERVER_IP = "192.0.2.1"
PRICE_SAT = 3_600
# What a message of a stranger carries, which pays for an invoice and a refusal over two hops.
POSTAGE_SAT = 6


class Shop:
    """The interface that leases are sold on. While the `gate` is shut every call of `wg` waits."""

    def __init__(self, server: WireGuardServer, directory: Path):
        self.server = server
        self.gate = directory / "gate"
        self.wg = directory / "wg"
        self.wg.write_text(
            f'#!/bin/sh\nwhile [ -e {self.gate} ]; do sleep 0.02; done\nexec {server.wg} "$@"\n'
        )
        self.wg.chmod(0o755)

    def config(self, **values) -> dict:
        """The seller's section: a sat a second, leases of 10 seconds and more, quotes for more than a minute of tests."""
        return {
            "vpn": {
                "price": PRICE_SAT,
                "server_ip": SERVER_IP,
                "server_port": LISTEN_PORT,
                "subnet": "10.77.0.0/24",
                "server_pub_key": self.server.pair.public,
                "allowed_ips": "10.77.0.0/24",
                "binary_path": str(self.wg),
                "min_seconds": 10,
                "max_seconds": 86_400,
                "quarantine_seconds": 1,
                "quotes_per_minute": 1_000,
                **values,
            }
        }

    def peers(self) -> dict[str, str]:
        rows = self.server.run("wg", "show", self.server.interface, "allowed-ips").splitlines()
        return dict(row.split("\t") for row in rows)

    @contextmanager
    def shut(self) -> Iterator[None]:
        self.gate.touch()
        try:
            yield
        finally:
            self.gate.unlink(missing_ok=True)


@contextmanager
def open_shop(directory: Path) -> Iterator[Shop]:
    if reason := why_no_machines():
        pytest.skip(f"not run: {reason}")
    with WireGuardServer(directory, "10.77.0.1/24") as server:
        yield Shop(server, directory)


def told(event: dict) -> dict:
    return json.loads(data_of(event))


def of_type(type: str):
    return lambda event: event["serviceType"] == "vpn" and told(event)["type"] == type


def of_lease(type: str, lease_id: str):
    """Leases of other tests may end at the same time."""
    return lambda event: of_type(type)(event) and told(event)["id"] == lease_id


def post(node: Node, path: str, **fields) -> str:
    reply = node.post(path, fields)
    assert reply.status == 200, reply.body
    return reply.json["id"]


def answer(stream: WebsocketStream, call_id: str, type: str = "") -> dict:
    """The first event of a call of ours, whatever else the stream tells; of this type, where one is named."""

    def wanted(event: dict) -> bool:
        return event["serviceType"] == "vpn" and event["id"] == call_id and type in ("", told(event)["type"])

    return stream.until(wanted)[-1]


def ask_quote(buyer: Node, seller: Node) -> dict:
    with WebsocketStream(buyer) as stream:
        return told(answer(stream, post(buyer, QUOTE, pubkey=seller.pubkey)))


def begin(buyer: Node, seller: Node, price_sat: int) -> str:
    """A quote, and a contract over so much; its id."""
    quote = ask_quote(buyer, seller)
    return post(buyer, CONTRACT, pubkey=seller.pubkey, nonce=quote["nonce"], price=str(price_sat))


def buy(buyer: Node, seller: Node, price_sat: int) -> dict:
    """What the stream tells of the lease."""
    with WebsocketStream(buyer) as stream:
        lease = told(answer(stream, begin(buyer, seller, price_sat)))
    assert lease["type"] == "lease", lease
    return lease


def leases(buyer: Node, query: str = "") -> list[dict]:
    return buyer.get(LEASES + query).json["leases"]


def bought(buyer: Node, lease_id: str) -> dict:
    """What the node lists of a lease that it bought, whether it runs or is over."""
    return next(row for row in leases(buyer, "?state=all") if row["id"] == lease_id)


def file_of(buyer: Node, lease_id: str, query: str = ""):
    return buyer.get(f"{LEASES}/{lease_id}/config{query}")


def one(node: Node, statement: str):
    """The first column of the only row."""
    rows = execute(node.database_url, statement)
    return rows[0][0] if rows else None


def as_stored(node: Node, identity: str) -> str:
    """A UUID as the node's database writes it."""
    return identity.replace("-", "") if node.database_url.startswith("sqlite") else identity


def moment(node: Node, seconds_from_now: float) -> str:
    """A time as SQL text for the node's database."""
    text = (datetime.now(UTC) + timedelta(seconds=seconds_from_now)).strftime("%Y-%m-%d %H:%M:%S")
    return text if node.database_url.startswith("sqlite") else f"{text}+00:00"


def lease_state(seller: Node, lease_id: str) -> str:
    return (
        one(seller, f"SELECT state FROM vpn_lease WHERE contract_id = '{as_stored(seller, lease_id)}'") or ""
    )


def make_due(seller: Node, lease_id: str, *columns: str) -> None:
    """The time of its warning (`warns_at`) or end (`expires_at`) has come. So no test has to hurry before it does."""
    past = ", ".join(f"{column} = '{moment(seller, -1)}'" for column in columns)
    execute(
        seller.database_url,
        f"UPDATE vpn_lease SET {past} WHERE contract_id = '{as_stored(seller, lease_id)}'",
    )


def wait_until_freed(seller: Node, lease_id: str) -> None:
    seller.wait_until(lambda: lease_state(seller, lease_id) == "freed")


def wait_for_shop(seller: Node) -> None:
    seller.wait_until(lambda: one(seller, "SELECT interface FROM vpn_shop WHERE problem = ''"))


@contextmanager
def running_network(directory: Path, names: list[str]) -> Iterator[SimulatedNetwork]:
    simulated = new_network(directory, names)
    asyncio.run(start_simulated(simulated))
    try:
        yield simulated
    finally:
        asyncio.run(simulated.stop())


class Stranger(StrangeNode):
    """One that speaks of VPN leases, and makes and pays invoices."""

    def say(self, to: Node, reply_to: str = "", **body) -> str:
        """A vpn message; its id."""
        message_id = uuid4()
        fields = {"reply_to": UUID(reply_to).bytes} if reply_to else {}
        text = json.dumps(body).encode()
        made = item(text, id=message_id.bytes, amount_msat=POSTAGE_SAT * 1000, **fields)
        self.send(to.pubkey, RECORD_NUMBER, made, amount_sat=POSTAGE_SAT)
        return str(message_id)

    def invoice(self, amount_sat: int, final_cltv_blocks: int = 0) -> str:
        """With a bound of its own it is a hold invoice that nobody will settle."""
        return asyncio.run(self._invoice(amount_sat, final_cltv_blocks))

    async def _invoice(self, amount_sat: int, final_cltv_blocks: int) -> str:
        async with BareClient(self.lnd) as client:
            if not final_cltv_blocks:
                asked = lightning_pb2.Invoice(value=amount_sat, expiry=120)
                return (await client.lightning.AddInvoice(asked)).payment_request
            asked = invoices_pb2.AddHoldInvoiceRequest(
                hash=os.urandom(32), value=amount_sat, expiry=120, cltv_expiry=final_cltv_blocks
            )
            return (await client.invoices.AddHoldInvoice(asked)).payment_request

    def pays(self, payment_request: str) -> bool:
        """Whether the payment was taken, once it has ended."""
        return asyncio.run(self._pay(payment_request)).status == lightning_pb2.Payment.SUCCEEDED

    async def _pay(self, payment_request: str) -> lightning_pb2.Payment:
        async with BareClient(self.lnd) as client:
            return await client.pay(
                router_pb2.SendPaymentRequest(
                    payment_request=payment_request,
                    timeout_seconds=60,
                    fee_limit_sat=10,
                    no_inflight_updates=True,
                )
            )

    def paid_sat(self) -> int:
        """By invoices that are no keysends."""
        return sum(
            invoice.amt_paid_sat for invoice in asyncio.run(self._invoices()) if not invoice.is_keysend
        )

    def heard(self, wanted: Callable[[dict], bool]) -> tuple[str, dict]:
        """The first vpn message that is wanted, with its id; waits for it."""
        for _ in range(GUARD_SECONDS * 10):
            for message_id, reply_to, body in asyncio.run(self._messages()):
                if wanted(body | {"reply_to": reply_to}):
                    return message_id, body
            time.sleep(0.1)
        raise AssertionError("no such message came")

    def answer_to(self, message_id: str) -> dict:
        return self.heard(lambda body: body["reply_to"] == message_id)[1]

    async def _messages(self) -> list[tuple[str, str, dict]]:
        found = []
        for invoice in await self._invoices():
            for htlc in invoice.htlcs:
                record = htlc.custom_records.get(RECORD_NUMBER, b"")
                for part in envelope_pb2.Packet.FromString(record[101:]).items if record else ():
                    reply_to = str(UUID(bytes=part.reply_to)) if part.reply_to else ""
                    body = zlib.decompress(part.body, -15) if part.compression else part.body
                    found.append((str(UUID(bytes=part.id)), reply_to, json.loads(body)))
        return found

    async def _invoices(self) -> list[lightning_pb2.Invoice]:
        async with BareClient(self.lnd) as client:
            request = lightning_pb2.ListInvoiceRequest(num_max_invoices=10_000)
            return list((await client.lightning.ListInvoices(request)).invoices)


def quote_for(stranger: Stranger, seller: Node) -> dict:
    return stranger.answer_to(stranger.say(seller, type="quote_request"))


def contract_of(stranger: Stranger, seller: Node, **wrong) -> dict:
    """The answer to a contract that is right but for this."""
    quote = quote_for(stranger, seller)
    fields = {"nonce": quote["nonce"], "price": "60", "pubkey": new_key_pair().public} | wrong
    return stranger.answer_to(stranger.say(seller, type="contract", **fields))


def contract_with(mallory: Stranger, buyer: Node, price_sat: int = 60) -> tuple[str, str]:
    """A contract with mallory, who sells a second for a sat, that waits for her invoice: its id and key."""
    with WebsocketStream(buyer) as stream:
        request_id = post(buyer, QUOTE, pubkey=mallory.pubkey)
        nonce, until = PrivateKey().to_hex()[:32], datetime.now(UTC) + timedelta(minutes=5)
        mallory.say(
            buyer,
            request_id,
            type="quote",
            nonce=nonce,
            price="3600",
            min_price="1",
            max_price="9999",
            expires_at=until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        answer(stream, request_id)
    contract_id = post(buyer, CONTRACT, pubkey=mallory.pubkey, nonce=nonce, price=str(price_sat))
    _, body = mallory.heard(lambda body: body["type"] == "contract" and body["nonce"] == nonce)
    return contract_id, body["pubkey"]


def lease_body(contract_id: str, payment_hash: str, seconds: int, key: str) -> dict:
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    return {
        "type": "lease",
        "id": contract_id,
        "address": "10.9.0.2/32",
        "endpoint": f"{SERVER_IP}:51820",
        "server_pub_key": key,
        "dns": "",
        "allowed_ips": "10.9.0.0/24",
        "keepalive": 25,
        "expires_at": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": seconds,
        "payment_hash": payment_hash,
    }
