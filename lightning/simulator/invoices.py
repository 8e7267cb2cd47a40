"""The invoices of all nodes: plain ones, hold invoices, and those a keysend makes. Amounts in msat, times in seconds.

As lnd does (its bbolt database): add indices have no holes; an invoice that is paid again gets a new settle index, and
the old one then leads to the same invoice.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from lightning.simulator import bolt11, graph
from lightning.simulator.errors import CallError, amount_msat, not_found
from lightning.simulator.network import Network, Node
from lightning.simulator.streams import Stream
from protos.lnrpc import lightning_pb2

Invoice = lightning_pb2.Invoice
KEYSEND_RECORD = 5482373484
FIRST_CUSTOM_RECORD = 65536
# What lnd itself puts beside the payer's records (experimental accountability: none).
ACCOUNTABLE_RECORD, NOT_ACCOUNTABLE = 106823, b"\x00"
DEFAULT_EXPIRY_SECONDS = 86_400
MAX_EXPIRY_SECONDS = 365 * 86_400
MAX_MEMO_BYTES = 1024
MAX_INVOICE_MSAT = 100_000 * 100_000_000_000
CLTV_EXPIRY = 80
BLANK_ADDR = bytes(32)
FINAL = (Invoice.SETTLED, Invoice.CANCELED)


class Outcome(Enum):
    SETTLED = "settled"
    ACCEPTED = "accepted"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Htlc:
    """What arrives at a node. `payment_addr` is empty for a keysend."""

    payment_hash: bytes
    amount: int
    channel: int
    index: int
    records: Mapping[int, bytes]
    payment_addr: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A new invoice as it was asked for. `preimage` empty: a hold invoice."""

    payment_hash: bytes
    preimage: bytes
    amount: int
    memo: str
    expiry: int
    cltv_expiry: int
    private: bool


class Invoices:
    def __init__(self, network: Network):
        self._network = network
        self._store = network.store

    def start(self) -> None:
        """Takes up the expiry of what is still open."""
        for node in self._network.nodes:
            for invoice in self._store.invoices_after(node.id, 0, pending=True):
                self._watch_expiry(node, invoice)

    def add(self, node: Node, asked: Invoice) -> Invoice:
        """A plain invoice; without a preimage lnd makes one."""
        preimage = asked.r_preimage or os.urandom(32)
        if len(preimage) != 32:
            raise CallError(f"payment preimage must be exactly 32 bytes, is instead {len(preimage)}")
        return self.add_order(
            node,
            Order(
                payment_hash=hashlib.sha256(preimage).digest(),
                preimage=preimage,
                amount=amount_msat(asked.value, asked.value_msat),
                memo=asked.memo,
                expiry=asked.expiry,
                cltv_expiry=0,
                private=asked.private,
            ),
        )

    def add_order(self, node: Node, order: Order) -> Invoice:
        _check(order)
        if self._store.invoice(node.id, order.payment_hash) is not None:
            raise CallError("invoice with payment hash already exists")
        now, payment_addr = int(time.time()), os.urandom(32)
        invoice = Invoice(
            memo=order.memo,
            r_preimage=order.preimage,
            r_hash=order.payment_hash,
            value=order.amount // 1000,
            value_msat=order.amount,
            creation_date=now,
            expiry=order.expiry or DEFAULT_EXPIRY_SECONDS,
            payment_addr=payment_addr,
        )
        hints = self._hints(node) if order.private else ()
        invoice.private = bool(hints)
        invoice.payment_request = bolt11.encode(
            bolt11.PaymentRequest(
                payment_hash=order.payment_hash,
                amount=order.amount,
                timestamp=now,
                expiry=invoice.expiry,
                description=order.memo,
                cltv_expiry=order.cltv_expiry or CLTV_EXPIRY,
                payment_addr=payment_addr,
                hints=hints,
            ),
            node.key,
        )
        with self._store.transaction():
            self._add(node, invoice)
            self._store.put_invoice(node.id, invoice)
        self._watch_expiry(node, invoice)
        return invoice

    def lookup(self, node: Node, payment_hash: bytes) -> Invoice:
        invoice = self._store.invoice(node.id, payment_hash)
        if invoice is None:
            raise not_found("unable to locate invoice")
        return invoice

    def receive(self, node: Node, htlc: Htlc) -> tuple[Outcome, bytes]:
        """An HTLC has arrived. With SETTLED comes the preimage."""
        with self._store.transaction():
            invoice = self._store.invoice(node.id, htlc.payment_hash)
            keysend = KEYSEND_RECORD in htlc.records
            if keysend and node.accepts_keysend:
                if (
                    htlc.payment_addr
                    or hashlib.sha256(htlc.records[KEYSEND_RECORD]).digest() != htlc.payment_hash
                ):
                    return Outcome.REFUSED, b""
                invoice = invoice or self._add_keysend(node, htlc)
            if invoice is None or not _payable(invoice, htlc, keysend=keysend):
                return Outcome.REFUSED, b""
            return self._take(node, invoice, htlc)

    def settle(self, node: Node, preimage: bytes) -> Invoice | None:
        """Settles an accepted hold invoice. None when it was settled before."""
        with self._store.transaction():
            invoice = self._store.invoice(node.id, hashlib.sha256(preimage).digest())
            if invoice is None:
                raise CallError("unable to locate invoice")
            if invoice.state == Invoice.SETTLED:
                return None
            if invoice.state == Invoice.OPEN:
                raise CallError("invoice still open")
            if invoice.state == Invoice.CANCELED:
                raise CallError("invoice already canceled")
            invoice.r_preimage = preimage
            self._settle(node, invoice)
            self._store.put_invoice(node.id, invoice)
            self._tell(node, invoice)
        return invoice

    def cancel(self, node: Node, payment_hash: bytes) -> Invoice | None:
        """None when it was canceled before, which is no error."""
        with self._store.transaction():
            invoice = self._store.invoice(node.id, payment_hash)
            if invoice is None:
                raise CallError("unable to locate invoice")
            if invoice.state == Invoice.SETTLED:
                raise CallError("invoice already settled")
            if invoice.state == Invoice.CANCELED:
                return None
            now = int(time.time())
            for htlc in invoice.htlcs:
                htlc.state, htlc.resolve_time = lightning_pb2.InvoiceHTLCState.CANCELED, now
            invoice.state = Invoice.CANCELED
            invoice.amt_paid_msat = invoice.amt_paid_sat = 0
            self._store.put_invoice(node.id, invoice)
            self._tell(node, invoice)
        return invoice

    def subscribe(self, node: Node, add_index: int, settle_index: int) -> Stream:
        """Added and settled invoices: first what came strictly after the two indices (0: nothing), then live ones."""
        stream = node.streams.open("invoices")
        stream.add_index, stream.settle_index = add_index, settle_index
        backlog = self._store.invoices_after(node.id, add_index) if add_index else []
        backlog += self._store.settled_after(node.id, settle_index) if settle_index else []
        for invoice in backlog:
            stream.put(invoice)
        return stream

    def subscribe_single(self, node: Node, payment_hash: bytes) -> Stream:
        stream = node.streams.open(("invoice", payment_hash))
        invoice = self._store.invoice(node.id, payment_hash)
        if invoice is not None:
            stream.put(invoice)
        return stream

    def _hints(self, node: Node) -> tuple[bolt11.HopHint, ...]:
        """One for each private channel."""
        return tuple(
            bolt11.HopHint(
                pubkey=self._network.by_id[channel.other(node.id)].pubkey,
                channel=channel.alias,
                base_msat=graph.BASE_FEE_MSAT,
                rate_ppm=graph.FEE_RATE_PPM,
                cltv_delta=graph.TIME_LOCK_DELTA,
            )
            for channel in self._network.graph.of(node.id)
            if channel.private
        )

    def _add_keysend(self, node: Node, htlc: Htlc) -> Invoice:
        invoice = Invoice(
            r_preimage=htlc.records[KEYSEND_RECORD],
            r_hash=htlc.payment_hash,
            value=htlc.amount // 1000,
            value_msat=htlc.amount,
            creation_date=int(time.time()),
            payment_addr=BLANK_ADDR,
            is_keysend=True,
        )
        self._add(node, invoice)
        return invoice

    def _add(self, node: Node, invoice: Invoice) -> None:
        """Gives the next add index and tells OPEN; the caller writes it to the store."""
        node.add_index += 1
        invoice.add_index = node.add_index
        self._tell(node, invoice)

    def _take(self, node: Node, invoice: Invoice, htlc: Htlc) -> tuple[Outcome, bytes]:
        now = int(time.time())
        invoice.htlcs.add(
            chan_id=htlc.channel,
            htlc_index=htlc.index,
            amt_msat=htlc.amount,
            accept_time=now,
            custom_records={**_custom(htlc.records), ACCOUNTABLE_RECORD: NOT_ACCOUNTABLE},
        )
        invoice.amt_paid_msat += htlc.amount
        invoice.amt_paid_sat = invoice.amt_paid_msat // 1000
        before = invoice.state
        if invoice.r_preimage:
            self._settle(node, invoice)
            outcome = Outcome.SETTLED
        else:
            invoice.state, outcome = Invoice.ACCEPTED, Outcome.ACCEPTED
        # lnd tells only of a new state: nothing live shows that an invoice was paid again.
        if invoice.state != before:
            self._tell(node, invoice)
        self._store.put_invoice(node.id, invoice)
        return outcome, invoice.r_preimage

    def _settle(self, node: Node, invoice: Invoice) -> None:
        now = int(time.time())
        for htlc in invoice.htlcs:
            if htlc.state == lightning_pb2.InvoiceHTLCState.ACCEPTED:
                htlc.state, htlc.resolve_time = lightning_pb2.InvoiceHTLCState.SETTLED, now
        node.settle_index += 1
        invoice.state, invoice.settle_index, invoice.settle_date = Invoice.SETTLED, node.settle_index, now
        self._store.add_settle(node.id, node.settle_index, invoice.add_index)

    def _tell(self, node: Node, invoice: Invoice) -> None:
        """Tells the subscribers this very state, after the commit."""
        if not (node.streams.of("invoices") or node.streams.of(("invoice", invoice.r_hash))):
            return
        snapshot = Invoice()
        snapshot.CopyFrom(invoice)
        self._store.after_commit(lambda: _dispatch(node, snapshot))

    def _watch_expiry(self, node: Node, invoice: Invoice) -> None:
        """An invoice that nobody pays in time is canceled; lnd leaves an accepted one alone."""
        if not invoice.expiry or invoice.state != Invoice.OPEN:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        delay = max(0, invoice.creation_date + invoice.expiry - time.time())
        loop.call_later(delay, self._expire, node, invoice.r_hash)

    def _expire(self, node: Node, payment_hash: bytes) -> None:
        invoice = self._store.invoice(node.id, payment_hash)
        if invoice is not None and invoice.state == Invoice.OPEN:
            self.cancel(node, payment_hash)


def _dispatch(node: Node, invoice: Invoice) -> None:
    """Of hold invoices SubscribeInvoices tells only OPEN and SETTLED. A cursor ahead of the node mutes its subscriber."""
    node.streams.publish(("invoice", invoice.r_hash), invoice)
    for stream in node.streams.of("invoices"):
        if invoice.state == Invoice.OPEN and stream.add_index < invoice.add_index:
            stream.add_index = invoice.add_index
            stream.put(invoice)
        elif invoice.state == Invoice.SETTLED and stream.settle_index < invoice.settle_index:
            stream.settle_index = invoice.settle_index
            stream.put(invoice)


def _payable(invoice: Invoice, htlc: Htlc, *, keysend: bool) -> bool:
    """lnd's rules for an HTLC on an invoice. A keysend can settle again what is settled, for at least its value."""
    if htlc.amount < invoice.value_msat or invoice.state == Invoice.CANCELED:
        return False
    if keysend:
        return True
    return htlc.payment_addr == invoice.payment_addr and invoice.state == Invoice.OPEN


def _custom(records: Mapping[int, bytes]) -> dict[int, bytes]:
    """lnd shows only the custom range; unknown records below it are BOLT's business."""
    return {number: value for number, value in records.items() if number >= FIRST_CUSTOM_RECORD}


def _check(order: Order) -> None:
    if len(order.memo.encode()) > MAX_MEMO_BYTES:
        raise CallError(f"memo too large: {len(order.memo.encode())} bytes (maxsize={MAX_MEMO_BYTES})")
    if order.amount > MAX_INVOICE_MSAT:
        raise CallError(
            f"invoice amount {order.amount // 1000} is too large, max is {MAX_INVOICE_MSAT // 1000}"
        )
    if order.expiry < 0:
        raise CallError("expiry must not be negative")
    if order.expiry > MAX_EXPIRY_SECONDS:
        raise CallError(
            f"expiry of {order.expiry} seconds greater than max expiry of {MAX_EXPIRY_SECONDS} seconds"
        )
    if 0 < order.cltv_expiry < 18:
        raise CallError(f"CLTV delta of {order.cltv_expiry} must be greater than minimum of 18")
    if order.cltv_expiry > 2016:
        raise CallError(f"CLTV delta of {order.cltv_expiry} is too large, max accepted is: 2016")
