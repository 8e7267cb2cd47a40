"""The way in: a settled keysend → its records → verified messages → the service's handler → events.

Every byte here comes from strangers. Each settled HTLC is handled by itself, under a key that is never used twice, and all
that it leads to is written in one transaction.
"""

import asyncio
import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from uuid import NAMESPACE_OID, UUID, uuid5

from django.db import IntegrityError, InterfaceError, InternalError, OperationalError, transaction

from messaging import envelope, events, peers
from messaging.database import Database, insert_new
from messaging.models import Direction, Event, Message, ReceivedHtlc, State
from messaging.registry import FOREIGN_WELCOME, Registry, Service
from protos.lnrpc import lightning_pb2

logger = logging.getLogger(__name__)

MAX_PENDING = 1_000
DATABASE_RETRY_SECONDS = 2.0
# InternalError: a PostgreSQL that takes no writes for now, such as a standby.
DATABASE_IS_AWAY = (OperationalError, InterfaceError, InternalError)


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """What one HTLC brought: its key, and the messages in it, with the services they are for."""

    key: bytes
    messages: tuple[tuple[Service, Message], ...]


class Inbox:
    """`take` invoices as lnd tells them; `run` stores and publishes what they bring until cancelled."""

    def __init__(
        self,
        *,
        database: Database,
        registry: Registry,
        own_pubkey: bytes,
        max_bytes: int,
        published: events.Published,
    ):
        self._database = database
        self._registry = registry
        self._own_pubkey = own_pubkey
        self._max_bytes = max_bytes
        self._published = published
        self._pending: list[Arrival] = []
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
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
        arrivals = [arrival for invoice in invoices for arrival in self._arrivals(invoice)]
        return await self._store(arrivals) if arrivals else 0

    def _arrivals(self, invoice: lightning_pb2.Invoice) -> list[Arrival]:
        if not invoice.is_keysend or invoice.state != lightning_pb2.Invoice.SETTLED:
            return []
        settled = [htlc for htlc in invoice.htlcs if htlc.state == lightning_pb2.SETTLED]
        arrivals = [self._open(invoice.r_hash, htlc) for htlc in settled]
        return [arrival for arrival in arrivals if arrival.messages]

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
                return await self._database.write(partial(store_arrivals, arrivals, published=self._published))
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

    def _open(self, payment_hash: bytes, htlc: lightning_pb2.InvoiceHTLC) -> Arrival:
        key = htlc_key(self._own_pubkey, payment_hash, htlc)
        ours = [
            (service, htlc.custom_records[number])
            for number in sorted(htlc.custom_records)
            if (service := self._registry.by_number(number))
        ]
        messages: list[tuple[Service, Message]] = []
        # Several records of ours in one payment: the payment counts for the first alone.
        paid_msat = htlc.amt_msat
        for service, record in ours:
            messages += [(service, message) for message in self._read(service, record, paid_msat, key)]
            paid_msat = 0
        return Arrival(key=key, messages=tuple(messages))

    def _read(self, service: Service, record: bytes, paid_msat: int, key: bytes) -> list[Message]:
        if service.state != "running":
            self._drop(service, f"service_{service.state}")
            return []
        if not envelope.is_ours(record):
            return self._read_foreign(service, record, paid_msat, key)
        try:
            packet = envelope.decode_record(
                record,
                recipient=self._own_pubkey,
                record_number=service.record_number,
                paid_msat=paid_msat,
                max_bytes=self._max_bytes,
            )
        except envelope.EnvelopeError as error:
            self._drop(service, error.reason)
            return []
        for reason, count in packet.dropped.items():
            self._drop(service, reason, count)
        if packet.shares_disbelieved:
            logger.warning("shares claim more than was paid", extra={"peer": packet.sender.hex()})
        sender = packet.sender.hex()
        return [
            _received(service, sender, item.id, item.reply_to, item.body, item.amount_msat) for item in packet.items
        ]

    def _read_foreign(self, service: Service, record: bytes, paid_msat: int, key: bytes) -> list[Message]:
        if service.service_type not in FOREIGN_WELCOME:
            self._drop(service, "foreign")
            return []
        if not record or len(record) > self._max_bytes:
            self._drop(service, "foreign_size")
            return []
        identity = uuid5(NAMESPACE_OID, f"{key.hex()}/{service.record_number}")
        return [_received(service, "", identity, None, record, paid_msat)]

    def _drop(self, service: Service, reason: str, count: int = 1) -> None:
        self.dropped[f"{service.service_type}/{reason}"] += count
        logger.warning("record dropped", extra={"service": service.service_type, "reason": reason, "count": count})


def htlc_key(own_pubkey: bytes, payment_hash: bytes, htlc: lightning_pb2.InvoiceHTLC) -> bytes:
    """32 bytes that name one HTLC of one node for good."""
    place = htlc.chan_id.to_bytes(8, "big") + htlc.htlc_index.to_bytes(8, "big")
    return hashlib.sha256(own_pubkey + payment_hash + place).digest()


def store_arrivals(arrivals: list[Arrival], *, published: events.Published) -> int:
    """Messages, their HTLCs' keys and their events, in the caller's transaction. What is known already is passed over;
    answers how many payments were not."""
    try:
        # Almost always all of it is new, and the database says so itself; what is not is looked up.
        with transaction.atomic():
            return _insert(arrivals, published)
    except IntegrityError:
        return _insert(_fresh_arrivals(arrivals), published)


def _insert(arrivals: list[Arrival], published: events.Published) -> int:
    ReceivedHtlc.objects.bulk_create([ReceivedHtlc(key=arrival.key) for arrival in arrivals])
    pairs = [pair for arrival in arrivals for pair in arrival.messages]
    insert_new(Message, [message for _, message in pairs])
    peers.touch(message.pubkey for _, message in pairs)
    told: list[Event] = [event for service, message in pairs for event in service.handler(message)]
    events.append(told, published=published)
    return len(arrivals)


def _fresh_arrivals(arrivals: list[Arrival]) -> list[Arrival]:
    """Without HTLCs that are known, and without messages that the same sender already sent under the same id."""
    by_key = {arrival.key: arrival for arrival in arrivals}
    known = ReceivedHtlc.objects.filter(key__in=list(by_key)).values_list("key", flat=True)
    for key in known:
        by_key.pop(bytes(key), None)
    told = _known_names([pair for arrival in by_key.values() for pair in arrival.messages])
    fresh = []
    for arrival in by_key.values():
        new = []
        for service, message in arrival.messages:
            name = (message.pubkey, message.message_id)
            if name not in told:
                told.add(name)
                new.append((service, message))
        fresh.append(replace(arrival, messages=tuple(new)))
    return fresh


def _known_names(pairs: list[tuple[Service, Message]]) -> set[tuple[str, UUID]]:
    ids = [message.message_id for _, message in pairs]
    return set(
        Message.objects.filter(direction=Direction.IN, message_id__in=ids).values_list("pubkey", "message_id")
    )


def _received(
    service: Service, sender: str, message_id: UUID, reply_to: UUID | None, body: bytes, amount_msat: int
) -> Message:
    return Message(
        message_id=message_id,
        direction=Direction.IN,
        pubkey=sender,
        service=service.service_type,
        reply_to=reply_to,
        body=body,
        amount_msat=amount_msat,
        state=State.RECEIVED,
    )
