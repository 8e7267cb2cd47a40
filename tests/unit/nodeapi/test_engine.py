"""The engine beside an lnd in memory: nothing that lnd was paid is missed, and none is told twice."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import grpc
import pytest

from invoices.models import Invoice
from lightning.client import LndError, Trouble
from lightning.rpcs import Rpc
from messaging.database import Database
from messaging.models import Event, InboundPolicy, InvoiceMark, Message, Peer, ReceivedHtlc, State
from nodeapi import engine as module
from nodeapi import lnd_status
from nodeapi.engine import Engine
from protos.lnrpc import lightning_pb2
from tests.support.engines import LIMITS, make_engine, running, send_message
from tests.support.fake_lnd import FakeLnd, connected
from tests.support.lnd_cases import send_request
from tests.support.waiting import GUARD_SECONDS
from tests.support.waiting import until_in_loop as until

TABLES = (Invoice, InboundPolicy, Peer, ReceivedHtlc)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tables) -> Iterator[None]:
    """No pauses between tries; and by a walk nothing is found after the first one, unless a test says otherwise."""
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0)
    monkeypatch.setattr(module, "FIRST_WALKS_SECONDS", ())
    monkeypatch.setattr(module, "WALK_SECONDS", 10 * GUARD_SECONDS)
    yield
    for table in TABLES:
        table.objects.all().delete()


@pytest.fixture
def lnds() -> list[FakeLnd]:
    """That of another node, and that of the engine."""
    return connected("other", "own")


@pytest.fixture
def told() -> list[Event]:
    """What the engine publishes."""
    return []


@pytest.fixture
async def engine(database, lnds, told) -> Engine:
    engine = await make_engine(database, lnds[1], events=told)
    await engine.begin()
    return engine


async def bodies(database: Database) -> list[bytes]:
    """Of the messages that are stored as received."""
    found = Message.objects.filter(state=State.RECEIVED).order_by("pk")
    return [bytes(body) for body in await database.read(lambda: list(found.values_list("body", flat=True)))]


def is_marked(database: Database, lnd: FakeLnd, add_index: int) -> Callable[[], Awaitable[bool]]:
    """Whether the walk over this lnd's invoices has come so far."""
    mark = InvoiceMark.objects.filter(pubkey=lnd.pubkey, add_index=add_index)
    return lambda: database.read(mark.exists)


def is_subscribed(lnd: FakeLnd, times: int = 1) -> Callable[[], bool]:
    """Whether its invoices have been subscribed to so often, the stream is live and the first walk is over."""

    def subscribed() -> bool:
        opened, listed = len(lnd.requests(Rpc.SUBSCRIBE_INVOICES)), len(lnd.requests(Rpc.LIST_INVOICES))
        # One list is of `begin`, two are of a walk that finds nothing.
        return opened >= times and listed >= 3 and bool(lnd.node.streams.of("invoices"))

    return subscribed


# the start


async def test_older_payments_of_a_new_lnd_are_no_news(database, lnds, told):
    other, own = lnds
    await send_message(other, own, b"before")
    engine = await make_engine(database, own, events=told)
    await engine.begin()
    async with running(engine):
        await send_message(other, own, b"after")
        await until(lambda: told)
    assert await bodies(database) == [b"after"]
    assert engine.own_pubkey.hex() == own.pubkey


async def test_what_came_before_the_stream_is_live_is_found(database, lnds, told, engine):
    """From `begin` on, as after a restart."""
    other, own = lnds
    for body in (b"one", b"two"):
        await send_message(other, own, body)
    async with running(engine):
        await until(lambda: len(told) == 2)
        await until(is_subscribed(own))
        await send_message(other, own, b"three")
        await until(lambda: len(told) == 3)
    assert await bodies(database) == [b"one", b"two", b"three"]
    # A first walk that finds something does not mean that the stream hangs.
    assert len(own.requests(Rpc.SUBSCRIBE_INVOICES)) == 1


async def test_walk_goes_on_from_its_mark(database, lnds, told, engine):
    other, own = lnds
    async with running(engine):
        await send_message(other, own, b"one")
        await until(lambda: told)
    await send_message(other, own, b"two")
    again = await make_engine(database, own, events=told)
    await again.begin()
    async with running(again):
        await until(is_marked(database, own, 2))
    assert await bodies(database) == [b"one", b"two"]
    assert len(told) == 2


async def test_begin_writes_what_the_configuration_says_of_each_service(database, engine):
    rows = await database.read(lambda: list(InboundPolicy.objects.values_list("service", flat=True)))
    assert sorted(rows) == sorted(LIMITS.inbound)


async def test_begin_without_lnd(database, lnds):
    engine = await make_engine(database, lnds[1])
    lnds[1].stop()
    with pytest.raises(LndError) as error:
        await engine.begin()
    assert error.value.trouble is Trouble.AWAY
    lnds[1].start()
    await engine.begin()


async def test_limits(engine):
    assert engine.limits.max_bytes == engine.limits.bounds.max_bytes == 1_000
    assert engine.lnd.on_return == engine.outbox.retry_now
    states = {service.service_type: service.state for service in engine.registry.services}
    assert states == {"message": "running", "sign": "off", "unheard_of": "unavailable"}


# the stream


async def test_stream_hands_over_messages_and_paid_invoices(database, lnds, told, engine):
    other, own = lnds
    async with running(engine):
        await until(is_subscribed(own))
        await send_message(other, own, b"hello")
        await until(lambda: len(told) == 1)
        issued = await engine.issuer.issue(amount_sat=21, memo="tea", expires_seconds=None, private=False)
        await other.send_payment(send_request(issued.payment_request))
        await until(lambda: len(told) == 2)
    assert [(event.service_type, event.amount_sat) for event in told] == [("message", 1), ("lightning", 21)]
    assert told[1].message_id == issued.id
    invoice = await database.read(Invoice.objects.get)
    assert (invoice.state, invoice.paid_msat) == ("settled", 21_000)


async def test_stream_that_breaks_is_opened_again(database, lnds, told, engine, caplog):
    other, own = lnds
    async with running(engine):
        for times in (1, 2, 3):
            await until(is_subscribed(own, times))
            await send_message(other, own, str(times).encode())
            await until(lambda expected=times: len(told) == expected)
            own.break_streams()
        await until(is_subscribed(own, 4))
    assert await bodies(database) == [b"1", b"2", b"3"]
    warnings = [text for text in caplog.messages if text.startswith("invoice stream: ")]
    assert len(warnings) == 3
    assert warnings[0].endswith("; opening it again")


async def test_status_of_lnd_is_looked_at_when_the_stream_breaks(lnds, engine, monkeypatch):
    looks = []
    monkeypatch.setattr(engine.lnd, "look_soon", lambda: looks.append(1))
    async with running(engine):
        await until(is_subscribed(lnds[1]))
        assert not looks
        lnds[1].break_streams()
        await until(lambda: looks)


async def test_what_is_paid_while_the_stream_is_broken_is_found(database, lnds, told, engine):
    other, own = lnds
    real = own.subscribe_invoices
    opened, may_open = [], asyncio.Event()

    async def subscribe_invoices():
        opened.append(1)
        if len(opened) > 1:
            await may_open.wait()
        async for invoice in real():
            yield invoice

    own.subscribe_invoices = subscribe_invoices
    async with running(engine):
        await until(is_subscribed(own))
        own.break_streams()
        await send_message(other, own, b"meanwhile")
        # By the walk that goes with the new stream, though that tells nothing yet.
        await until(lambda: told)
        may_open.set()
    assert await bodies(database) == [b"meanwhile"]


class SilentOnce:
    """Of the streams of invoices the first one says nothing, for ever."""

    def __init__(self, lnd: FakeLnd):
        self.opened = 0
        self._real = lnd.subscribe_invoices
        lnd.subscribe_invoices = self._subscribe

    async def _subscribe(self):
        self.opened += 1
        if self.opened == 1:
            await asyncio.Event().wait()
        async for invoice in self._real():
            yield invoice


async def test_stream_that_hangs_is_replaced(database, lnds, told, engine, monkeypatch, caplog):
    monkeypatch.setattr(module, "WALK_SECONDS", 0)
    other, own = lnds
    streams = SilentOnce(own)
    async with running(engine):
        # One list is of `begin`, two are of the first walk, the others of later ones.
        await until(lambda: len(own.requests(Rpc.LIST_INVOICES)) >= 4)
        await send_message(other, own, b"unsaid")
        await until(lambda: streams.opened == 2)
        monkeypatch.setattr(module, "WALK_SECONDS", 10 * GUARD_SECONDS)
        assert await bodies(database) == [b"unsaid"]
        await until(is_subscribed(own))
        await send_message(other, own, b"said")
        await until(lambda: len(told) == 2)
    assert "the invoice stream told nothing of 1 payments; opening it again" in caplog.messages
    assert await bodies(database) == [b"unsaid", b"said"]


async def test_stream_that_is_silent_because_nothing_is_paid_stays(lnds, engine, monkeypatch):
    monkeypatch.setattr(module, "WALK_SECONDS", 0)
    own = lnds[1]
    async with running(engine):
        await until(lambda: len(own.requests(Rpc.LIST_INVOICES)) >= 12)
    assert len(own.requests(Rpc.SUBSCRIBE_INVOICES)) == 1


async def test_paid_invoice_that_the_stream_did_not_tell_shows_that_it_hangs(lnds, told, engine, monkeypatch):
    monkeypatch.setattr(module, "WALK_SECONDS", 0)
    other, own = lnds
    streams = SilentOnce(own)
    async with running(engine):
        await until(lambda: len(own.requests(Rpc.LIST_INVOICES)) >= 4)
        issued = await engine.issuer.issue(amount_sat=21, memo="", expires_seconds=None, private=False)
        await other.send_payment(send_request(issued.payment_request))
        await until(lambda: streams.opened == 2)
    assert [event.message_id for event in told] == [issued.id]


@pytest.mark.parametrize("part", ["inbox", "issuer"])
async def test_invoice_that_cannot_be_taken_ends_no_engine(
    database, lnds, told, engine, monkeypatch, caplog, part
):
    other, own = lnds
    taker, name = (engine.inbox, "take") if part == "inbox" else (engine.issuer, "take_live")
    real, failed = getattr(taker, name), []

    async def fail_once(invoice: lightning_pb2.Invoice) -> None:
        if not failed:
            failed.append(invoice)
            raise ValueError("not foreseen")
        await real(invoice)

    monkeypatch.setattr(taker, name, fail_once)
    async with running(engine):
        await until(is_subscribed(own))
        await send_message(other, own, b"one")
        await until(is_subscribed(own, 2))
        await until(lambda: told)
        await send_message(other, own, b"two")
        await until(lambda: len(told) == 2)
    assert failed
    assert "invoice stream; opening it again" in caplog.messages
    assert await bodies(database) == [b"one", b"two"]


async def test_walk_that_lnd_refuses_ends_no_engine(lnds, told, engine, caplog):
    other, own = lnds
    own.refuse(Rpc.LIST_INVOICES, grpc.StatusCode.UNAVAILABLE, "connection reset")
    async with running(engine):
        await until(lambda: [text for text in caplog.messages if "could not be looked through" in text])
        await until(lambda: own.requests(Rpc.SUBSCRIBE_INVOICES))
        await send_message(other, own, b"hello")
        await until(lambda: told)
    (warning,) = [text for text in caplog.messages if "could not be looked through" in text]
    assert warning.endswith("; trying again later")


async def test_walk_that_fails_ends_no_engine(lnds, told, engine, monkeypatch, caplog):
    async def fail() -> int:
        raise ValueError("not foreseen")

    monkeypatch.setattr(engine.issuer, "look", fail)
    other, own = lnds
    async with running(engine):
        await until(is_subscribed(own))
        await send_message(other, own, b"hello")
        await until(lambda: told)
    assert "invoices could not be looked through; trying again later" in caplog.messages


# what else it does


Failing = Callable[..., Awaitable[None]]


@pytest.fixture
def failing() -> Failing:
    async def fail(*arguments, **fields) -> None:
        raise ValueError("not foreseen")

    return fail


async def test_what_cannot_be_pruned_ends_no_engine(engine, monkeypatch, caplog, failing):
    monkeypatch.setattr(module.retention, "prune", failing)
    async with running(engine) as task:
        await until(lambda: "what is old could not be deleted; trying again tomorrow" in caplog.messages)
        assert not task.done()


async def test_parts_that_cannot_be_dropped_end_no_engine(engine, monkeypatch, caplog, failing):
    monkeypatch.setattr(engine.inbox, "forget_old_parts", failing)
    async with running(engine) as task:
        await until(lambda: "old parts could not be dropped; trying again later" in caplog.messages)
        assert not task.done()


@pytest.mark.parametrize(
    ("service_type", "runs"), [("message", True), ("sign", False), ("unheard_of", False)]
)
async def test_workers_of_services_that_run(lnds, engine, service_type, runs):
    began = asyncio.Event()
    contexts = []

    async def worker(context) -> None:
        contexts.append(context)
        began.set()
        await asyncio.Event().wait()

    engine.registry.services = tuple(
        replace(service, worker=worker, settings="its own")
        if service.service_type == service_type
        else service
        for service in engine.registry.services
    )
    async with running(engine):
        await until(is_subscribed(lnds[1]))
        assert began.is_set() is runs
    for context in contexts:
        assert (context.settings, context.client, context.payer) == ("its own", lnds[1], engine.payer)


async def test_lnd_that_is_another_one_ends_the_engine(lnds, engine, monkeypatch):
    """Its messages are signed with another key, and its payments are others."""
    monkeypatch.setattr(lnd_status, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(lnds[1].node, "pubkey", lnds[0].node.pubkey)
    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.timeout(GUARD_SECONDS):
            await engine.run()
    (error,) = ended.value.exceptions
    assert isinstance(error, LndError)
    assert error.trouble is Trouble.WRONG_NODE


async def test_engine_that_is_ended_leaves_nothing_behind(lnds, engine):
    before = asyncio.all_tasks()
    async with running(engine):
        await until(is_subscribed(lnds[1]))
    await until(lambda: asyncio.all_tasks() == before)
