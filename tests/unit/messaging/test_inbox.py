"""The inbox with a walk that is ended while it stores, and what it learns meanwhile. On a real database."""

import asyncio
from collections.abc import Callable, Iterable
from uuid import uuid4

import pytest
from coincurve import PrivateKey

from lightning.hints import HopHint
from messaging import hints, peers
from messaging.answers import AnswerTerms
from messaging.database import Database
from messaging.hints import HintBook
from messaging.inbox import Inbox
from messaging.joining import Bounds
from messaging.models import Message
from messaging.outgoing import new_message
from messaging.registry import Reaction, Registry, Service
from protos.envelope_pb2 import Item
from protos.lnrpc import lightning_pb2
from tests.support.outboxes import OWN_PUBKEY, PUBKEY, empty_database, run, until
from tests.support.records import RECORD_NUMBER, item, packet, sealed

BOUNDS = Bounds(max_bytes=10_000, per_peer=4, in_all=16, received_bytes=100_000, seconds=60)

migrated = pytest.fixture(autouse=True)(empty_database)


class Answering(Registry):
    """One service, which answers each message."""

    def by_number(self, record_number: int) -> Service:
        return Service(service_type="message", record_number=record_number, active=True, handler=self._answer)

    def _answer(self, message: Message) -> Reaction:
        return Reaction(answers=[new_message(service="message", pubkey=message.pubkey, body=b"answer")])


def settled_keysend(*unpaid: Item) -> lightning_pb2.Invoice:
    """An item that is paid for, and others."""
    record = sealed(PrivateKey(), packet(item(), *unpaid), recipient=OWN_PUBKEY)
    htlc = lightning_pb2.InvoiceHTLC(
        chan_id=1,
        htlc_index=1,
        amt_msat=1_000,
        state=lightning_pb2.SETTLED,
        custom_records={RECORD_NUMBER: record},
    )
    return lightning_pb2.Invoice(
        is_keysend=True, state=lightning_pb2.Invoice.SETTLED, r_hash=uuid4().bytes * 2, htlcs=[htlc]
    )


def answering_inbox(database: Database, send_stored: Callable[[Iterable[Message]], None]) -> Inbox:
    return Inbox(
        database=database,
        registry=Answering([]),
        own_pubkey=OWN_PUBKEY,
        bounds=BOUNDS,
        published=lambda events: None,
        hints=HintBook(database),
        send_stored=send_stored,
        answer_terms=AnswerTerms(),
        policies={},
        now_seconds=lambda: 0.0,
    )


def test_answers_are_sent_though_the_walk_that_stored_them_has_ended():
    async def test() -> None:
        database, sent = Database(), []
        inbox = answering_inbox(database, sent.extend)
        walk = asyncio.create_task(inbox.store_now([settled_keysend()]))
        while not database._jobs.qsize() and not walk.done():
            await asyncio.sleep(0)
        walk.cancel()
        await asyncio.gather(walk, return_exceptions=True)
        await until(database, lambda: Message.objects.filter(direction="out").exists())
        while not sent:
            await asyncio.sleep(0.02)
        assert [message.body for message in sent] == [b"answer"]
        await database.close()

    run(test())


def test_what_is_dropped_of_a_payment_counts_once_though_stream_and_walk_both_read_it():
    invoice = settled_keysend(item(amount_msat=0), item(amount_msat=0))

    async def test() -> None:
        database = Database()
        inbox = answering_inbox(database, lambda messages: None)
        assert await asyncio.gather(inbox.store_now([invoice]), inbox.store_now([invoice])) == [1, 0]
        assert inbox.dropped == {"message/unpaid": 2}
        await database.close()

    run(test())


class Slow(Database):
    """Its answers come after what is written meanwhile."""

    def __init__(self):
        super().__init__()
        self.has_read, self.go_on = asyncio.Event(), asyncio.Event()

    async def read(self, job):
        found = await super().read(job)
        self.has_read.set()
        await self.go_on.wait()
        return found


def test_hints_that_were_read_before_new_ones_came_are_not_kept():
    hint = HopHint(node_id=OWN_PUBKEY, chan_id=7, fee_base_msat=1, fee_ppm=1, cltv_delta=40)

    def learn() -> None:
        peers.touch([PUBKEY])
        hints.store(PUBKEY, (hint,))

    async def test() -> None:
        database = Slow()
        book = HintBook(database)
        reading = asyncio.create_task(book.of(PUBKEY))
        await database.has_read.wait()
        await database.write(learn)
        book.learned(PUBKEY)
        database.go_on.set()
        assert await reading == ()
        assert await book.of(PUBKEY) == (hint,)
        await database.close()

    peers._touched_at.clear()
    run(test())
