"""The way in: a settled keysend → its records → verified messages → the service's handler → events.

Every byte here comes from strangers. Each settled HTLC is handled by itself, under a key that is never used twice, and all
that it leads to is written in one transaction.
"""

import asyncio
import hashlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from django.db import IntegrityError, InterfaceError, InternalError, OperationalError, transaction

from lightning.hints import HopHint
from messaging import answers, envelope, events, hints, income, metrics, peers
from messaging.answers import AnswerTerms
from messaging.database import Database, insert_new
from messaging.hints import HintBook
from messaging.joining import Arrived, Bounds, Whole, forget_old, join
from messaging.models import Direction, Message, ReceivedHtlc, State, named
from messaging.packing import MIN_AMOUNT_MSAT
from messaging.policy import Item, Judge, Rules, forget_old_uses
from messaging.registry import FOREIGN_WELCOME, Registry, Service
from messaging.sparse_log import SparseLog
from protos.lnrpc import lightning_pb2

logger = logging.getLogger("messaging.inbox")

MAX_PENDING = 1_000
INVOICES_AT_ONCE = 20
MAX_HANDLED = 50_000
DATABASE_RETRY_SECONDS = 2.0
# InternalError: a PostgreSQL that takes no writes for now, such as a standby.
DATABASE_IS_AWAY = (OperationalError, InterfaceError, InternalError)


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """What one HTLC brought: its key, the messages in it, with the services they are for, and what was dropped while it
    was read, by service and reason.
    """

    key: bytes
    messages: tuple[tuple[Service, Message], ...]
    parts: tuple[Arrived, ...] = ()
    # How the sender is reached, by its key in hexadecimal.
    hints: tuple[tuple[str, tuple[HopHint, ...]], ...] = ()
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def is_empty(self) -> bool:
        return not (self.messages or self.parts)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Payments that were not known before; what of theirs was dropped, by what it was ("parts" or a service) and reason; what the policy refused, by service and cause; peers whose hints are new; messages to be sent in
    answer.
    """

    payments: int
    dropped: Counter[tuple[str, str]]
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    hinted: tuple[str, ...] = ()
    answers: tuple[Message, ...] = ()


class Handled:
    """HTLCs that were stored or dropped of late, by their keys. lnd tells all HTLCs of an invoice again with each further
    one, and each walk sees them again: they need not be verified again. The table decides; this only saves work.
    """

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def add(self, key: bytes) -> None:
        self._keys[key] = None
        if len(self._keys) > MAX_HANDLED:
            self._keys.popitem(last=False)


class Inbox:
    """`take` invoices as lnd tells them; `run` stores and publishes what they bring until cancelled."""

    def __init__(
        self,
        *,
        database: Database,
        registry: Registry,
        own_pubkey: bytes,
        bounds: Bounds,
        published: events.Published,
        hints: HintBook,
        send_stored: Callable[[Iterable[Message]], None],
        answer_terms: AnswerTerms,
        policies: Mapping[str, Rules],
        strangers_bytes_per_hour: int = 0,
        now_seconds: Callable[[], float],
    ):
        self._database = database
        self._policies = policies
        self._strangers_bytes_per_hour = strangers_bytes_per_hour
        self._now_seconds = now_seconds
        self._refusals = SparseLog(
            logger, logging.INFO, "refused by the inbound policy", ("service", "cause")
        )
        self._drops = SparseLog(logger, logging.WARNING, "record dropped", ("service", "reason"))
        self._disbelieved = SparseLog(
            logger, logging.WARNING, "shares claim more than was paid", ("service",)
        )
        self._send_stored = send_stored
        self._answer_terms = answer_terms
        self._registry = registry
        self._own_pubkey = own_pubkey
        self._bounds = bounds
        self._hints = hints
        self._published = published
        self._pending: list[Arrival] = []
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._handled = Handled()
        self.dropped: Counter[str] = Counter()

    async def take(self, invoice: lightning_pb2.Invoice) -> None:
        """Reads an invoice event. Waits while too much is not stored yet."""
        arrivals = self._arrivals(invoice)
        if arrivals:
            self._pending += arrivals
            self._arrived.set()
        if len(self._pending) > MAX_PENDING:
            self._room.clear()
            await self._room.wait()

    async def store_now(self, invoices: list[lightning_pb2.Invoice]) -> int:
        """Stores what these bring; how many payments were not known before."""
        arrivals = []
        for number, invoice in enumerate(invoices):
            arrivals += self._arrivals(invoice)
            if number % INVOICES_AT_ONCE == 0:
                # To verify a whole page takes long; others want the event loop too.
                await asyncio.sleep(0)
        return await self._store(arrivals) if arrivals else 0

    def _arrivals(self, invoice: lightning_pb2.Invoice) -> list[Arrival]:
        if not invoice.is_keysend or invoice.state != lightning_pb2.Invoice.SETTLED:
            return []
        arrivals = []
        for htlc in invoice.htlcs:
            key = htlc_key(self._own_pubkey, invoice.r_hash, htlc)
            if htlc.state != lightning_pb2.SETTLED or key in self._handled:
                continue
            arrival = self._open(key, htlc)
            if arrival.is_empty:
                self._handled.add(key)
                self._note_dropped(arrival.dropped)
            else:
                arrivals.append(arrival)
        return arrivals

    async def run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            arrivals, self._pending = self._pending, []
            await self._store(arrivals)
            self._room.set()

    async def _store(self, arrivals: list[Arrival]) -> int:
        while True:
            try:
                # To its end, though the walk is ended meanwhile: answers that are stored have to be sent.
                return await asyncio.shield(self._write(arrivals))
            except DATABASE_IS_AWAY as error:
                # lnd has settled it and tells it only once on this stream: keep it until the database is well again.
                logger.error("received messages could not be stored (%s); trying again", error)
                await asyncio.sleep(DATABASE_RETRY_SECONDS)
            except Exception as error:
                failure = error
                break
        # Something in them cannot be stored at all: one such must not hold up the others.
        if len(arrivals) > 1:
            return sum([await self._store([arrival]) for arrival in arrivals])
        self.dropped["payment/unstorable"] += 1
        logger.error("a received payment's messages could not be stored; dropped", exc_info=failure)
        return 0

    async def _write(self, arrivals: list[Arrival]) -> int:
        stored = await self._database.write(self._storing(arrivals))
        for arrival in arrivals:
            self._handled.add(arrival.key)
        return self._note(stored)

    def _storing(self, arrivals: list[Arrival]) -> Callable[[], Stored]:
        return partial(
            store_arrivals,
            arrivals,
            registry=self._registry,
            bounds=self._bounds,
            published=self._published,
            answer_terms=self._answer_terms,
            policies=self._policies,
            strangers_bytes_per_hour=self._strangers_bytes_per_hour,
            now_seconds=self._now_seconds(),
        )

    def _note(self, stored: Stored) -> int:
        self._note_dropped(stored.dropped)
        self._refusals.note(stored.refused)
        for pubkey in stored.hinted:
            self._hints.learned(pubkey)
        self._send_stored(stored.answers)
        return stored.payments

    async def forget_old_parts(self) -> None:
        """What has been incomplete for too long is dropped, and so are counts of quotas that are over."""
        await self._database.write(partial(forget_old_uses, self._now_seconds()))
        if count := await self._database.write(partial(forget_old, self._bounds)):
            self._note_dropped(Counter({("parts", "incomplete_for_too_long"): count}))

    def _open(self, key: bytes, htlc: lightning_pb2.InvoiceHTLC) -> Arrival:
        ours = [
            (service, htlc.custom_records[number])
            for number in sorted(htlc.custom_records)
            if (service := self._registry.by_number(number))
        ]
        whole: list[tuple[Service, Message]] = []
        parts: list[Arrived] = []
        hints: dict[str, tuple[HopHint, ...]] = {}
        dropped: Counter[tuple[str, str]] = Counter()
        # Several records of ours in one payment: the payment counts for the first alone.
        paid_msat = htlc.amt_msat
        for service, record in ours:
            if service.state != "running":
                dropped[service.service_type, f"service_{service.state}"] += 1
            elif not envelope.is_ours(record):
                read = self._read_foreign(service, record, paid_msat, key, dropped)
                whole += [(service, message) for message in read]
            elif packet := self._read(service, record, paid_msat, dropped):
                sender = packet.sender.hex()
                whole += [
                    (
                        service,
                        _received(
                            service.service_type, sender, item.id, item.reply_to, item.body, item.amount_msat
                        ),
                    )
                    for item in packet.items
                ]
                parts += [Arrived(sender, service.service_type, part) for part in packet.parts]
                if packet.reply_hints:
                    hints[sender] = packet.reply_hints
            paid_msat = 0
        # One payment has room for many messages that pay nothing, and each makes work.
        paid = [pair for pair in whole if pair[1].amount_msat >= MIN_AMOUNT_MSAT]
        dropped.update(
            (service.service_type, "unpaid")
            for service, message in whole
            if message.amount_msat < MIN_AMOUNT_MSAT
        )
        return Arrival(
            key=key, messages=tuple(paid), parts=tuple(parts), hints=tuple(hints.items()), dropped=dropped
        )

    def _read(
        self, service: Service, record: bytes, paid_msat: int, dropped: Counter[tuple[str, str]]
    ) -> envelope.ReceivedPacket | None:
        try:
            packet = envelope.decode_record(
                record,
                recipient=self._own_pubkey,
                record_number=service.record_number,
                paid_msat=paid_msat,
                max_bytes=self._bounds.max_bytes,
            )
        except envelope.EnvelopeError as error:
            dropped[service.service_type, error.reason] += 1
            return None
        dropped.update({(service.service_type, reason): count for reason, count in packet.dropped.items()})
        if packet.shares_disbelieved:
            self._disbelieved.note(Counter([(service.service_type,)]))
        return packet

    def _read_foreign(
        self,
        service: Service,
        record: bytes,
        paid_msat: int,
        key: bytes,
        dropped: Counter[tuple[str, str]],
    ) -> list[Message]:
        if service.service_type not in FOREIGN_WELCOME:
            dropped[service.service_type, "foreign"] += 1
            return []
        if not record or len(record) > self._bounds.max_bytes:
            dropped[service.service_type, "foreign_size"] += 1
            return []
        identity = uuid5(NAMESPACE_OID, f"{key.hex()}/{service.record_number}")
        return [_received(service.service_type, "", identity, None, record, paid_msat)]

    def _note_dropped(self, dropped: Counter[tuple[str, str]]) -> None:
        self.dropped.update({f"{what}/{reason}": count for (what, reason), count in dropped.items()})
        self._drops.note(dropped)


def htlc_key(own_pubkey: bytes, payment_hash: bytes, htlc: lightning_pb2.InvoiceHTLC) -> bytes:
    """32 bytes that name one HTLC of one node for good."""
    place = htlc.chan_id.to_bytes(8, "big") + htlc.htlc_index.to_bytes(8, "big")
    return hashlib.sha256(own_pubkey + payment_hash + place).digest()


def store_arrivals(arrivals: list[Arrival], **context: Any) -> Stored:
    """Messages, parts, their HTLCs' keys, their events and answers, in the caller's transaction. What is known already is
    passed over. The context is that of `_insert`.
    """
    try:
        # Almost always all of it is new, and the database says so itself; what is not is looked up.
        with transaction.atomic():
            return _insert(arrivals, **context)
    except IntegrityError:
        return _insert(_fresh_arrivals(arrivals), **context)


def _insert(
    arrivals: list[Arrival],
    *,
    registry: Registry,
    bounds: Bounds,
    published: events.Published,
    answer_terms: AnswerTerms,
    policies: Mapping[str, Rules],
    strangers_bytes_per_hour: int,
    now_seconds: float,
) -> Stored:
    ReceivedHtlc.objects.bulk_create([ReceivedHtlc(key=arrival.key) for arrival in arrivals])
    items = _items(arrivals)
    judge = Judge(policies, items, now_seconds, strangers_bytes_per_hour=strangers_bytes_per_hour)
    pairs = _admitted(arrivals, judge)
    insert_new(Message, [message for _, message in pairs])
    heard = {message.pubkey for _, message in pairs}
    # Counted with what is new alone: a payment may be read by the stream and by a walk before either has stored it.
    dropped: Counter[tuple[str, str]] = Counter()
    for arrival in arrivals:
        dropped.update(arrival.dropped)
    parts = [part for arrival in arrivals for part in arrival.parts if judge.admits_part(_item_of_part(part))]
    if parts:
        joined = join(parts, bounds, may_begin=lambda part: judge.admits_beginning(_item_of_part(part)))
        dropped.update({("parts", reason): count for reason, count in joined.dropped.items()})
        heard |= joined.senders
        complete = [(registry.of_type(whole.service), _received_whole(whole)) for whole in joined.whole]
        complete = [(service, message) for service, message in complete if judge.admits(_item(message))]
        insert_new(Message, [message for _, message in complete])
        pairs += complete
    peers.touch(heard)
    hinted = [
        pubkey
        for arrival in arrivals
        for pubkey, hop_hints in arrival.hints
        if pubkey in heard and hints.store(pubkey, hop_hints)
    ]
    refused = judge.store()
    income.note(sum(item.amount_msat for item in items), judge.strangers_bytes)
    answering = _react(pairs, published, answer_terms, dropped)
    transaction.on_commit(partial(_told, pairs, parts, answering), robust=True)
    return Stored(
        payments=len(arrivals),
        dropped=dropped,
        refused=refused,
        hinted=tuple(hinted),
        answers=tuple(answering),
    )


def _items(arrivals: list[Arrival]) -> list[Item]:
    whole = [_item(message) for arrival in arrivals for _, message in arrival.messages]
    return whole + [_item_of_part(part) for arrival in arrivals for part in arrival.parts]


def _admitted(arrivals: list[Arrival], judge: Judge) -> list[tuple[Service, Message]]:
    """What the policy lets in, without what the same sender sends twice under one id."""
    admitted: list[tuple[Service, Message]] = []
    names: set[tuple[str, UUID]] = set()
    for service, message in (pair for arrival in arrivals for pair in arrival.messages):
        name = (message.pubkey, message.message_id)
        if name not in names and judge.admits(_item(message)):
            names.add(name)
            admitted.append((service, message))
    return admitted


def _item(message: Message) -> Item:
    return Item(
        sender=message.pubkey,
        service=message.service,
        reply_to=message.reply_to,
        amount_msat=message.amount_msat,
        size_bytes=len(message.body),
        body=bytes(message.body),
    )


def _item_of_part(arrived: Arrived) -> Item:
    """Its size is that of the whole, as its sender declares it and before it is unpacked."""
    part = arrived.part
    return Item(
        sender=arrived.sender,
        service=arrived.service,
        reply_to=part.reply_to,
        amount_msat=part.amount_msat,
        size_bytes=part.size,
    )


def _told(pairs: list[tuple[Service, Message]], parts: list[Arrived], answers: list[Message]) -> None:
    """One line for all that was committed together."""
    if parts:
        names = [f"{part.part.id} part {part.part.index}" for part in parts]
        logger.debug("parts received", extra={"messages": names})
    if pairs:
        metrics.count_received([message for _, message in pairs])
        ids = [str(message.message_id) for _, message in pairs]
        logger.info(
            "received and handled",
            extra={"messages": ids, "answers": [str(one.message_id) for one in answers]},
        )


def _react(
    pairs: list[tuple[Service, Message]],
    published: events.Published,
    answer_terms: AnswerTerms,
    dropped: Counter[tuple[str, str]],
) -> list[Message]:
    """What the services make of new messages: events, and messages that are to be sent, which are stored as far as the
    received ones pay for them, whatever a service says. What they drop is added to `dropped`.
    """
    reactions = [service.react(message) for service, message in pairs]
    dropped.update(
        (service.service_type, reaction.dropped)
        for (service, _), reaction in zip(pairs, reactions, strict=True)
        if reaction.dropped
    )
    told = [event for reaction in reactions for event in reaction.events]
    answering: list[Message] = []
    for (_, item), reaction in zip(pairs, reactions, strict=True):
        if reaction.answers:
            admitted = answers.admit(reaction.answers, answer_terms, item=item)
            told += admitted.events
            answering += admitted.messages
    events.append(told, published=published)
    peers.touch(message.pubkey for message in answering)
    return answering


def _fresh_arrivals(arrivals: list[Arrival]) -> list[Arrival]:
    """Without HTLCs that are known, and without messages that the same sender already sent under the same id."""
    by_key = {arrival.key: arrival for arrival in arrivals}
    known = ReceivedHtlc.objects.filter(key__in=list(by_key)).values_list("key", flat=True)
    for key in known:
        by_key.pop(bytes(key), None)
    told = _known_names([pair for arrival in by_key.values() for pair in arrival.messages])
    return [
        replace(
            arrival,
            messages=tuple(
                (service, message)
                for service, message in arrival.messages
                if (message.pubkey, message.message_id) not in told
            ),
        )
        for arrival in by_key.values()
    ]


def _known_names(pairs: list[tuple[Service, Message]]) -> set[tuple[str, UUID]]:
    ids = [message.message_id for _, message in pairs]
    return set(named(Direction.IN, ids).values_list("pubkey", "message_id"))


def _received_whole(whole: Whole) -> Message:
    return _received(whole.service, whole.sender, whole.id, whole.reply_to, whole.body, whole.amount_msat)


def _received(
    service_type: str, sender: str, message_id: UUID, reply_to: UUID | None, body: bytes, amount_msat: int
) -> Message:
    return Message(
        message_id=message_id,
        direction=Direction.IN,
        pubkey=sender,
        service=service_type,
        reply_to=reply_to,
        body=body,
        amount_msat=amount_msat,
        state=State.RECEIVED,
    )
