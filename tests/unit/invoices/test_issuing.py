"""Invoices made beside an lnd in memory: stored before they are answered, and each payment told exactly once."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from django.db import OperationalError

from invoices.issuing import DEFAULT_EXPIRES_SECONDS, Issued, Issuer
from invoices.models import Invoice
from lightning.client import LndError, Trouble
from lightning.keysend import KeysendPayment, new_preimage, send_request
from lightning.rpcs import Rpc
from messaging.database import Database
from messaging.idempotency import Claim, Claims, KeyReused
from messaging.models import Event
from protos.lnrpc import lightning_pb2
from tests.support import lnd_cases
from tests.support.fake_lnd import FakeLnd, connected
from tests.support.waiting import GUARD_SECONDS

pytestmark = pytest.mark.sql


class Desk:
    """An issuer, and the lnd of somebody who pays."""

    def __init__(self, database: Database):
        self.payer, self.lnd = connected("payer", "payee")
        self.database = database
        self.told: list[Event] = []
        self.issuer = Issuer(
            database=database,
            client=self.lnd,
            own_pubkey=self.lnd.pubkey,
            published=self.told.extend,
            claims=Claims(database),
        )

    async def issue(self, **fields) -> Issued:
        arguments = {"amount_sat": 21, "memo": "tea", "expires_seconds": None, "private": False} | fields
        return await self.issuer.issue(**arguments)

    async def pay(self, issued: Issued) -> None:
        await self.payer.send_payment(lnd_cases.send_request(issued.payment_request))

    async def row(self, issued: Issued) -> Invoice:
        return await self.database.read(lambda: Invoice.objects.get(pk=issued.id))


@pytest.fixture
async def desk(database: Database) -> AsyncIterator[Desk]:
    async with asyncio.timeout(GUARD_SECONDS):
        yield Desk(database)


async def test_same_key_gives_the_same_invoice(desk):
    fields = {"amount_sat": 21, "memo": "tea", "expires_seconds": None, "private": False}
    claim = Claim(caller="shop", key="order 1", request_hash=bytes(32))
    assert await desk.issuer.issued(claim) is None
    first, second = await asyncio.gather(*(desk.issuer.issue_once(claim, **fields) for _ in range(2)))
    assert first == second == await desk.issuer.issued(claim)
    assert len(desk.lnd.requests(Rpc.ADD_INVOICE)) == 1
    # After a restart the table knows it.
    again = Issuer(
        database=desk.database,
        client=desk.lnd,
        own_pubkey=desk.lnd.pubkey,
        published=desk.told.extend,
        claims=Claims(desk.database),
    )
    assert (await again.issue_once(claim, **fields)).id == first.id
    with pytest.raises(KeyReused):
        await again.issued(Claim(caller="shop", key="order 1", request_hash=b"\1" * 32))
    assert (await again.issue_once(None, **fields)).id != first.id


async def test_invoice_is_stored_as_lnd_made_it(desk):
    before = datetime.now(UTC).replace(microsecond=0)
    issued = await desk.issue(expires_seconds=600)
    row = await desk.row(issued)
    made = desk.lnd.invoice(issued.payment_hash)
    assert (made.value, made.memo, made.expiry, made.private) == (21, "tea", 600, False)
    assert made.payment_request == issued.payment_request == row.payment_request
    assert (row.payee, row.memo, row.amount_msat, row.state) == (desk.lnd.pubkey, "tea", 21_000, "open")
    assert bytes(row.payment_hash) == issued.payment_hash
    assert row.expires_at == issued.expires_at >= before + timedelta(seconds=600)


async def test_expiry_that_nobody_chose_is_lnds_own(desk):
    issued = await desk.issue()
    assert desk.lnd.invoice(issued.payment_hash).expiry == DEFAULT_EXPIRES_SECONDS


async def is_named(database, lnd, amount_sat: int, *, private: bool = False) -> bool:
    """Whether an invoice over this amount names private channels."""
    issuer = Issuer(
        database=database,
        client=lnd,
        own_pubkey=lnd.pubkey,
        published=lambda events: None,
        claims=Claims(database),
    )
    issued = await issuer.issue(amount_sat=amount_sat, memo="", expires_seconds=None, private=private)
    return lnd.invoice(issued.payment_hash).private


async def test_node_with_private_channels_only_names_them(database):
    _, lnd = connected("public", "hidden", private=["hidden"])
    assert await is_named(database, lnd, 1)
    assert await is_named(database, lnd, 0)


async def test_private_channels_are_named_where_the_public_ones_cannot_receive(database):
    other, lnd = connected("other", "own")
    network = lnd.services.network
    network.open_channel(other.node, lnd.node, private=True, remote_sat=1_000_000)
    public = network.graph.of(lnd.node.id)[0]
    assert not await is_named(database, lnd, 4_900_000)
    assert await is_named(database, lnd, 4_900_001)
    assert await is_named(database, lnd, 21, private=True)
    # It was paid out; what is left is the reserve.
    public.balances = [100_000_000, 9_900_000_000]
    assert await is_named(database, lnd, 1)
    assert await is_named(database, lnd, 0)
    public.balances = [5_000_000_000, 5_000_000_000]
    assert not await is_named(database, lnd, 1)
    # Its peer is offline.
    network.graph.offline.add(other.node.id)
    assert await is_named(database, lnd, 1)


async def test_invoice_that_lnd_does_not_make_is_not_stored(desk):
    desk.lnd.refuse(Rpc.ADD_INVOICE, grpc.StatusCode.UNKNOWN, "memo too large")
    with pytest.raises(LndError):
        await desk.issue()
    assert not await desk.database.read(Invoice.objects.exists)


async def test_invoice_that_cannot_be_stored_is_not_answered(desk, monkeypatch):
    async def away(job):
        raise OperationalError("the disk is full")

    monkeypatch.setattr(desk.database, "write", away)
    with pytest.raises(OperationalError):
        await desk.issue()


async def test_payment_is_told_once_by_stream_and_look(desk):
    issued = await desk.issue()
    assert await desk.issuer.take(desk.lnd.invoice(issued.payment_hash)) is False
    await desk.pay(issued)
    paid = desk.lnd.invoice(issued.payment_hash)
    assert await desk.issuer.take(paid) is True
    assert await desk.issuer.take(paid) is False
    assert await desk.issuer.look() == 0
    (event,) = desk.told
    assert (event.message_id, event.amount_sat) == (issued.id, 21)
    assert (await desk.row(issued)).paid_msat == 21_000


async def test_payments_that_the_stream_missed_are_found(desk):
    first, second, unpaid = [await desk.issue() for _ in range(3)]
    for issued in (first, second):
        await desk.pay(issued)
    assert await desk.issuer.look() == 2
    assert await desk.issuer.look() == 0
    assert {event.message_id for event in desk.told} == {first.id, second.id}
    assert (await desk.row(unpaid)).state == Invoice.State.OPEN
    # What has ended is not asked for again.
    assert len(desk.lnd.requests(Rpc.LOOKUP_INVOICE)) == 4


async def test_payer_chooses_the_amount_of_an_open_invoice(desk):
    issued = await desk.issue(amount_sat=0)
    await desk.payer.send_payment(lnd_cases.send_request(issued.payment_request, amt_msat=7_000))
    assert await desk.issuer.look() == 1
    assert desk.told[0].amount_sat == 7


@pytest.mark.parametrize("by_look", [True, False])
async def test_invoice_that_nobody_pays_ends_in_silence(desk, by_look):
    issued = await desk.issue()
    desk.lnd.expire(issued.payment_hash)
    if by_look:
        assert await desk.issuer.look() == 0
    else:
        assert await desk.issuer.take(desk.lnd.invoice(issued.payment_hash)) is False
    assert (await desk.row(issued)).state == Invoice.State.CANCELED
    assert desk.told == []


async def test_keysends_and_invoices_made_elsewhere_are_nobodys_news(desk, monkeypatch):
    preimage = new_preimage()
    payment = KeysendPayment(
        destination=bytes.fromhex(desk.lnd.pubkey),
        preimage=preimage,
        amount_msat=1_000,
        fee_limit_msat=10_000,
        records={400_000: b"hello"},
    )
    await desk.payer.send_payment(send_request(payment, timeout_seconds=30))
    by_hand = await desk.lnd.add_invoice(lightning_pb2.Invoice(value=5))
    await desk.payer.send_payment(lnd_cases.send_request(by_hand.payment_request))
    listed = await desk.lnd.list_invoices(lightning_pb2.ListInvoiceRequest())
    assert [invoice.state for invoice in listed.invoices] == [lightning_pb2.Invoice.SETTLED] * 2
    keysend, made_by_hand = listed.invoices
    assert await desk.issuer.take(made_by_hand) is False
    # A message is one: the database is not asked about each.
    monkeypatch.setattr(desk.database, "write", None)
    assert await desk.issuer.take(keysend) is False
    assert desk.told == []


async def test_invoice_that_lnd_does_not_know_any_more_is_canceled(desk):
    issued = await desk.issue()
    desk.lnd.refuse(Rpc.LOOKUP_INVOICE, grpc.StatusCode.NOT_FOUND, "unable to locate invoice")
    assert await desk.issuer.look() == 0
    assert (await desk.row(issued)).state == Invoice.State.CANCELED


async def test_look_at_an_lnd_that_is_away_changes_nothing(desk):
    issued = await desk.issue()
    await desk.pay(issued)
    desk.lnd.stop()
    with pytest.raises(LndError) as caught:
        await desk.issuer.look()
    assert caught.value.trouble is Trouble.AWAY
    assert (await desk.row(issued)).state == Invoice.State.OPEN
    desk.lnd.start()
    assert await desk.issuer.look() == 1


async def test_invoices_of_another_lnd_are_not_asked_for(desk):
    """This one was exchanged."""
    await desk.issue()
    other: FakeLnd = connected("another")[0]
    issuer = Issuer(
        database=desk.database,
        client=other,
        own_pubkey=other.pubkey,
        published=desk.told.extend,
        claims=Claims(desk.database),
    )
    assert await issuer.look() == 0
    assert other.requests(Rpc.LOOKUP_INVOICE) == []


async def test_payment_that_cannot_be_stored_now_is_found_by_the_next_look(desk, monkeypatch, caplog):
    issued = await desk.issue()
    await desk.pay(issued)

    async def away(job):
        raise OperationalError("the server went away")

    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr(desk.database, "write", away)
        await desk.issuer.take_live(desk.lnd.invoice(issued.payment_hash))
    assert "a paid invoice could not be stored" in caplog.text
    assert desk.told == []
    assert await desk.issuer.look() == 1
