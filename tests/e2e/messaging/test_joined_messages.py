"""What waits for the same node shares payments: longer records where the way is short, none lost where it becomes longer."""

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor

from lightning.keysend import SAFE_ROOM_BYTES
from lightning.simulator.process import SimulatedNetwork
from protos.lnrpc import lightning_pb2
from tests.support.lnd_rpc import BareClient
from tests.support.networks import new_network, start_simulated
from tests.support.nodes import Node
from tests.support.streams import send

MESSAGE_RECORD = 400_000
MESSAGES = 600
NAMES = ["alice", "bob", "carol", "dave", "erin", "frank"]
# Gone while messages of 1 sat still wait: then five hops are left, with too little room for what is joined for one.
# The payments that are under way at first carry up to four each; 200 sat are the reserve of that channel.
DIRECT_SAT = 600
IN_FLIGHT = 64


def command(simulated: SimulatedNetwork, name: str, **arguments):
    async def run():
        try:
            return await simulated.control.command(name, **arguments)
        finally:
            await simulated.control.close()

    return asyncio.run(run())


def record_sizes(lnd) -> list[int]:
    async def read():
        async with BareClient(lnd) as client:
            request = lightning_pb2.ListInvoiceRequest(num_max_invoices=10_000)
            return (await client.lightning.ListInvoices(request)).invoices

    return [
        len(htlc.custom_records[MESSAGE_RECORD]) for invoice in asyncio.run(read()) for htlc in invoice.htlcs
    ]


def all_messages(node: Node) -> list[dict]:
    return node.get("/v1/messages?limit=1000").json["messages"]


def test_a_way_that_becomes_longer_while_messages_wait(tmp_path):
    simulated = new_network(tmp_path / "network", NAMES)
    asyncio.run(start_simulated(simulated))
    try:
        command(
            simulated,
            "open_channel",
            a="alice",
            b="frank",
            capacity_sat=20_000,
            remote_sat=20_000 - DIRECT_SAT,
        )
        limits = {
            "message": {"in_flight_per_peer": IN_FLIGHT},
            "logging": {"parts": {"messaging.outbox": "debug"}},
        }
        alice, frank = (
            Node(simulated.nodes[name], tmp_path / name, extra=limits) for name in ("alice", "frank")
        )
        with alice, frank:
            command(simulated, "hold", node="frank")
            with ThreadPoolExecutor(24) as pool:
                ids = list(pool.map(lambda _: send(alice, frank, os.urandom(100)), range(MESSAGES)))
            command(simulated, "release", node="frank")
            alice.wait_until(lambda: all(message["state"] == "settled" for message in all_messages(alice)))
            frank.wait_until(lambda: len(all_messages(frank)) >= MESSAGES)
            assert sorted(message["id"] for message in all_messages(frank)) == sorted(ids)
        sizes = record_sizes(simulated.nodes["frank"])
        ended = [json.loads(line) for line in alice.log.splitlines() if "attempt ended" in line]
        assert max(sizes) > SAFE_ROOM_BYTES
        assert len(sizes) < MESSAGES
        assert any(line["verdict"] == "too_large" and len(line["messages"]) > 1 for line in ended)
    finally:
        asyncio.run(simulated.stop())
