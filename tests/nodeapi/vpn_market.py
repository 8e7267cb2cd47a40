"""A seller with a real WireGuard interface and a buyer, each a whole node, and what tests ask and wait for."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.nodeapi.streams import WebsocketStream, data_of
from tests.support.databases import execute
from tests.support.nodes import Node
from tests.vpn.machines import LISTEN_PORT, WireGuardServer, why_no_machines

QUOTE, CONTRACT, REFRESH, LEASES = "/v1/vpn/quote", "/v1/vpn/contract", "/v1/vpn/refresh", "/v1/vpn/leases"
SERVER_IP = "192.0.2.1"
PRICE_SAT = 3_600


class Shop:
    """The interface that leases are sold on. While the `gate` is shut every call of `wg` waits."""

    def __init__(self, server: WireGuardServer, directory: Path):
        self.server = server
        self.gate = directory / "gate"
        self.wg = directory / "wg"
        self.wg.write_text(f'#!/bin/sh\nwhile [ -e {self.gate} ]; do sleep 0.02; done\nexec {server.wg} "$@"\n')
        self.wg.chmod(0o755)

    def config(self, **values) -> dict:
        """The seller's section: a sat a second, leases of 10 seconds and more."""
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


def post(node: Node, path: str, **fields) -> str:
    reply = node.post(path, fields)
    assert reply.status == 200, reply.body
    return reply.json["id"]


def ask_quote(buyer: Node, seller: Node) -> dict:
    with WebsocketStream(buyer) as stream:
        request_id = post(buyer, QUOTE, pubkey=seller.pubkey)
        event = stream.until(lambda event: of_type("quote")(event) or of_type("refusal")(event))[-1]
    assert event["id"] == request_id
    return told(event)


def begin(buyer: Node, seller: Node, price_sat: int) -> str:
    """A quote, and a contract over so much; its id."""
    quote = ask_quote(buyer, seller)
    return post(buyer, CONTRACT, pubkey=seller.pubkey, nonce=quote["nonce"], price=str(price_sat))


def buy(buyer: Node, seller: Node, price_sat: int) -> dict:
    """What the stream tells of the lease."""
    quote = ask_quote(buyer, seller)
    with WebsocketStream(buyer) as stream:
        post(buyer, CONTRACT, pubkey=seller.pubkey, nonce=quote["nonce"], price=str(price_sat))
        return told(stream.until(of_type("lease"))[-1])


def leases(buyer: Node, query: str = "") -> list[dict]:
    return buyer.get(LEASES + query).json["leases"]


def file_of(buyer: Node, lease_id: str, query: str = ""):
    return buyer.get(f"{LEASES}/{lease_id}/config{query}")


def one(node: Node, statement: str):
    """The first column of the only row."""
    rows = execute(node.database_url, statement)
    return rows[0][0] if rows else None


def lease_state(seller: Node) -> str:
    return one(seller, "SELECT state FROM vpn_lease ORDER BY id DESC LIMIT 1") or ""


def wait_for_shop(seller: Node) -> None:
    seller.wait_until(lambda: one(seller, "SELECT interface FROM vpn_shop"))


