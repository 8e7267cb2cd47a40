"""Records beside the nodes' own answers: lnd's invoices and balances, the attempts in a node's database file."""

import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from google.protobuf.message import DecodeError

from protos import envelope_pb2
from protos.lnrpc import lightning_pb2
from tests.support.lnd_rpc import BareClient

RECORD_NUMBER = 400_000
HEADER_BYTES = 101
PAGE = 1_000
Part = tuple[str, int]


@dataclass
class Paid:
    """What one lnd was paid. `parts` counts the settled HTLCs of each (message id, part index), `hashes` those of each
    payment hash; `split` has the number of parts of each message that came in parts; `joined` is how many packets held
    more than one item.
    """

    parts: Counter[Part] = field(default_factory=Counter)
    hashes: Counter[bytes] = field(default_factory=Counter)
    split: dict[str, int] = field(default_factory=dict)
    joined: int = 0
    msat: int = 0


async def paid(lnd) -> Paid:
    """All that this lnd was ever paid by keysend."""
    found, offset = Paid(), 0
    async with BareClient(lnd) as client:
        while True:
            request = lightning_pb2.ListInvoiceRequest(index_offset=offset, num_max_invoices=PAGE)
            page = await client.lightning.ListInvoices(request)
            if not page.invoices:
                return found
            for invoice in page.invoices:
                for htlc in invoice.htlcs:
                    if htlc.state == lightning_pb2.SETTLED:
                        _count(found, invoice.r_hash, htlc)
            offset = page.last_index_offset


def _count(found: Paid, payment_hash: bytes, htlc: lightning_pb2.InvoiceHTLC) -> None:
    found.hashes[payment_hash] += 1
    found.msat += htlc.amt_msat
    try:
        packet = envelope_pb2.Packet.FromString(htlc.custom_records[RECORD_NUMBER][HEADER_BYTES:])
    except DecodeError:
        return
    found.joined += len(packet.items) > 1
    for item in packet.items:
        message_id = str(UUID(bytes=item.id))
        found.parts[message_id, item.part.index] += 1
        if item.part.count > 1:
            found.split[message_id] = item.part.count


async def balance_msat(lnd) -> int:
    async with BareClient(lnd) as client:
        return (
            await client.lightning.ChannelBalance(lightning_pb2.ChannelBalanceRequest())
        ).local_balance.msat


def settled_attempts(database: Path) -> list[bytes]:
    """The payment hashes of all attempts that this node holds for settled."""
    return _column(database, "SELECT name FROM messaging_attempt WHERE state = 'settled'")


def open_attempts(database: Path) -> list[bytes]:
    return _column(database, "SELECT name FROM messaging_attempt WHERE state = 'in_flight'")


def unfinished(database: Path) -> int:
    """Messages that this node still has to bring to an end."""
    states = "state IN ('queued', 'in_flight', 'retrying')"
    return _column(database, f"SELECT count(*) FROM messaging_message WHERE direction = 'out' AND {states}")[
        0
    ]


def undelivered(sender: Path, receiver: Path) -> set[str]:
    """Messages that the sender holds for settled and the receiver has not stored, by the ids in their databases."""
    settled = "SELECT message_id FROM messaging_message WHERE direction = 'out' AND state = 'settled'"
    received = "SELECT message_id FROM messaging_message WHERE direction = 'in'"
    return set(_column(sender, settled)) - set(_column(receiver, received))


def _column(database: Path, query: str) -> list:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
    try:
        return [row[0] for row in connection.execute(query)]
    finally:
        connection.close()
