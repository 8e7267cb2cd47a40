"""Payments: lnd's checks in lnd's order, the way of an HTLC over the route, and what its sender is told.

A payment is a task of its own: it goes on after the client is gone, and after a restart. Amounts in msat.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from lightning.simulator import bolt11, onion
from lightning.simulator.errors import (
    CallError,
    already_exists,
    amount_msat,
    need_hash,
    need_vertex,
    not_found,
)
from lightning.simulator.faults import Faults
from lightning.simulator.graph import TIME_LOCK_DELTA, Hop, Search
from lightning.simulator.invoices import CLTV_EXPIRY, Htlc, Invoices, Outcome
from lightning.simulator.network import Network, Node
from lightning.simulator.store import ACCEPTED, UNDER_WAY
from lightning.simulator.streams import Stream
from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2

Payment = lightning_pb2.Payment
HTLCAttempt = lightning_pb2.HTLCAttempt
MIN_CUSTOM_RECORD = 65536
DEFAULT_TIMEOUT_SECONDS = 60
NO_PREIMAGE = bytes(32).hex()
ENDED = (Payment.SUCCEEDED, Payment.FAILED)

TIMEOUT = lightning_pb2.FAILURE_REASON_TIMEOUT
NO_ROUTE = lightning_pb2.FAILURE_REASON_NO_ROUTE
ERROR = lightning_pb2.FAILURE_REASON_ERROR
INCORRECT_DETAILS = lightning_pb2.FAILURE_REASON_INCORRECT_PAYMENT_DETAILS
INSUFFICIENT_BALANCE = lightning_pb2.FAILURE_REASON_INSUFFICIENT_BALANCE
CANCELED = lightning_pb2.FAILURE_REASON_CANCELED


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What a SendPaymentRequest asks for. `payment_addr` is empty for a keysend."""

    target: bytes
    payment_hash: bytes
    amount: int
    fee_limit: int
    records: dict[int, bytes]
    hints: tuple[tuple[bytes, int], ...]
    features_told: bool
    payment_addr: bytes
    timeout_seconds: int
    any_size: bool = False


@dataclass(eq=False, slots=True)
class Attempt:
    """A payment in flight. `locked`: hop and its HTLC index in the channel, in order of the route."""

    sender: Node
    intent: Intent
    payment: Payment
    request: router_pb2.SendPaymentRequest
    locked: list[tuple[Hop, int]] = field(default_factory=list)
    dropped: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


def read_intent(request: router_pb2.SendPaymentRequest, *, sender: bytes, raw: bool = False) -> Intent:
    """lnd's checks of a request, in lnd's order. `raw` leaves out the one for the numbers of custom records."""
    fee_limit = amount_msat(request.fee_limit_sat, request.fee_limit_msat)
    records = dict(request.dest_custom_records)
    if not raw and any(number < MIN_CUSTOM_RECORD for number in records):
        raise CallError(f"no custom records with types below {MIN_CUSTOM_RECORD} allowed")
    hints = read_hints(request.route_hints)
    amount = amount_msat(request.amt, request.amt_msat)
    features_told, payment_addr = bool(request.dest_features), b""
    if request.payment_request:
        asked = _read_payment_request(request)
        target, payment_hash, payment_addr = asked.destination, asked.payment_hash, asked.payment_addr
        amount = _invoice_amount(asked.amount, amount)
        hints += tuple((hint.pubkey, hint.channel) for hint in asked.hints)
        features_told = True
    else:
        target = need_vertex(request.dest)
        if not amount:
            raise CallError("amount must be specified")
        payment_hash = need_hash(request.payment_hash)
    if target == sender and not request.allow_self_payment:
        raise CallError("self-payments not allowed")
    return Intent(
        target=target,
        payment_hash=payment_hash,
        amount=amount,
        fee_limit=fee_limit,
        records=records,
        hints=hints,
        features_told=features_told,
        payment_addr=payment_addr,
        timeout_seconds=request.timeout_seconds or DEFAULT_TIMEOUT_SECONDS,
    )


def read_hints(route_hints: Iterable[lightning_pb2.RouteHint]) -> tuple[tuple[bytes, int], ...]:
    """(node, channel) of each hop hint."""
    try:
        return tuple(
            (bytes.fromhex(hop.node_id), hop.chan_id) for hint in route_hints for hop in hint.hop_hints
        )
    except ValueError:
        raise CallError("encoding/hex: invalid byte in a hop hint's node_id") from None


def _read_payment_request(request: router_pb2.SendPaymentRequest) -> bolt11.PaymentRequest:
    for name in ("dest", "payment_hash", "final_cltv_delta"):
        if getattr(request, name):
            raise CallError(f"{name} and payment_request cannot appear together")
    asked = bolt11.decode(request.payment_request)
    until = asked.timestamp + asked.expiry
    if until < time.time():
        valid = time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(until))
        raise CallError(f"invoice expired. Valid until {valid}")
    if not asked.payment_addr:
        raise CallError("payment request must contain either a payment address or blinded paths")
    return asked


def _invoice_amount(asked: int, given: int) -> int:
    if not asked and not given:
        raise CallError("amount must be specified when paying a zero amount invoice")
    if asked and given:
        raise CallError("amount must not be specified when paying a non-zero amount invoice")
    return asked or given


class Payments:
    def __init__(self, network: Network, invoices: Invoices, faults: Faults):
        self._network = network
        self._store = network.store
        self._invoices = invoices
        self._faults = faults
        self._open: dict[tuple[int, bytes], Attempt] = {}
        # Attempts that a hold invoice has accepted, by its node and hash.
        self._accepted: dict[tuple[int, bytes], list[Attempt]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # what clients ask

    def send(
        self,
        sender: Node,
        request: router_pb2.SendPaymentRequest,
        *,
        raw: bool = False,
        any_size: bool = False,
    ) -> tuple[Attempt, Stream]:
        """Starts a payment. `raw` (hostile tests) also pays again what this node has paid; `any_size` as if the onion
        had room for everything.
        """
        intent = replace(read_intent(request, sender=sender.pubkey, raw=raw), any_size=any_size)
        self._refuse_known(sender, intent.payment_hash, raw=raw)
        stream = sender.streams.open(("payment", intent.payment_hash))
        attempt = Attempt(sender, intent, self._new_payment(sender, intent, request.payment_request), request)
        self._open[sender.id, intent.payment_hash] = attempt
        delay = self._faults.slot_delay()
        with self._store.transaction():
            self._tell(attempt)
            if delay:
                self._save(attempt)
            begins = bool(delay) or self._launch(attempt)
        if begins:
            self._spawn(self._run(attempt, delay))
        return attempt, stream

    def track(self, sender: Node, payment_hash: bytes) -> Stream:
        payment = self._store.payment(sender.id, payment_hash)
        if payment is None:
            raise not_found("payment isn't initiated")
        stream = sender.streams.open(("payment", payment_hash))
        stream.put(payment)
        return stream

    def htlcs_of(self, node: Node) -> dict[int, list[lightning_pb2.HTLC]]:
        """By channel, what is in flight over the node's channels."""
        found: dict[int, list[lightning_pb2.HTLC]] = {}
        for attempt in self._open.values():
            for hop, _ in attempt.locked:
                if node.id in self._network.graph.channels[hop.channel].nodes:
                    htlc = lightning_pb2.HTLC(
                        incoming=hop.sender != node.id,
                        amount=hop.amount // 1000,
                        hash_lock=attempt.intent.payment_hash,
                    )
                    found.setdefault(hop.channel, []).append(htlc)
        return found

    def cancel(self, attempt: Attempt) -> None:
        """The client of a cancelable payment is gone. An HTLC that is on its way is not called back."""
        attempt.cancelled.set()

    def query_route(
        self, sender: Node, request: lightning_pb2.QueryRoutesRequest, target: bytes
    ) -> list[Hop]:
        amount = request.amt * 1000
        intent = Intent(
            target=target,
            payment_hash=b"",
            amount=amount,
            fee_limit=_query_fee_limit(request, amount),
            records=dict(request.dest_custom_records),
            hints=read_hints(request.route_hints),
            features_told=bool(request.dest_features),
            payment_addr=b"",
            timeout_seconds=0,
        )
        found = self._find(sender, intent, need_balance=False)
        if found == INSUFFICIENT_BALANCE:
            raise CallError("insufficient local balance")
        if isinstance(found, int):
            raise CallError("unable to find a path to destination")
        return found

    # what the receiver of a hold invoice decides

    def settle_invoice(self, node: Node, preimage: bytes) -> None:
        with self._store.transaction():
            invoice = self._invoices.settle(node, preimage)
            if invoice is not None:
                for attempt in self._accepted.pop((node.id, invoice.r_hash), []):
                    self._succeed(attempt, preimage)

    def cancel_invoice(self, node: Node, payment_hash: bytes) -> None:
        with self._store.transaction():
            self._invoices.cancel(node, payment_hash)
            for attempt in self._accepted.pop((node.id, payment_hash), []):
                self._fail(attempt, INCORRECT_DETAILS)

    # faults and life

    def drop_in_flight(self, node: Node) -> int:
        """The HTLCs on their way to a node that goes away fail with ERROR."""
        attempts = [attempt for attempt in self._open.values() if attempt.intent.target == node.pubkey]
        for attempt in attempts:
            attempt.dropped.set()
        return len(attempts)

    def resume(self) -> None:
        """Takes up what was in flight when the simulator ended."""
        for node_id, payment, request, route, stage in self._store.open_payments():
            sender = self._network.by_id[node_id]
            intent = _resumed_intent(request, payment)
            attempt = Attempt(sender, intent, payment, request)
            self._open[node_id, intent.payment_hash] = attempt
            for channel_id, hop_sender, amount, index in route or ():
                channel = self._network.graph.channels[channel_id]
                channel.in_flight[channel.side(hop_sender)] += 1
                attempt.locked.append((Hop(channel_id, hop_sender, amount), index))
            if stage == ACCEPTED:
                self._wait_for_receiver(attempt)
            elif stage == UNDER_WAY:
                self._spawn(self._run(attempt, 0))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # the way of a payment

    async def _run(self, attempt: Attempt, delay: float) -> None:
        if delay:
            reason = await _wait(attempt.cancelled, delay, attempt.intent.timeout_seconds)
            if reason:
                self._fail(attempt, reason)
                return
        if not attempt.locked and not self._launch(attempt):
            return
        dropped = await self._travel(attempt)
        target = self._network.by_pubkey[attempt.intent.target]
        if self._faults.take_stranded(target.id):
            self._strand(attempt)
            return
        reason = ERROR if dropped else self._faults.take_failure(target.id)
        if reason is not None:
            self._fail(attempt, reason)
        else:
            self._arrive(attempt, target)

    async def _travel(self, attempt: Attempt) -> bool:
        """Time on the way. True when the payment was dropped there."""
        target = self._network.by_pubkey[attempt.intent.target]
        latency = self._faults.latency_to(target.id)
        if not latency and not self._network.graph.offline and not self._faults.held:
            return attempt.dropped.is_set()
        way = asyncio.ensure_future(self._way(attempt, target, latency))
        drop = asyncio.ensure_future(attempt.dropped.wait())
        try:
            await asyncio.wait((way, drop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            way.cancel()
            drop.cancel()
        return attempt.dropped.is_set()

    async def _way(self, attempt: Attempt, target: Node, latency: float) -> None:
        """An HTLC waits for a node of its route that is away."""
        if latency:
            await asyncio.sleep(latency)
        await self._faults.wait_released(target.id)
        for hop, _ in attempt.locked:
            channel = self._network.graph.channels[hop.channel]
            await self._network.by_id[channel.other(hop.sender)].online.wait()

    def _launch(self, attempt: Attempt) -> bool:
        """Finds a route and puts an HTLC in flight on each hop. False when the payment has failed."""
        found = self._find(attempt.sender, attempt.intent)
        with self._store.transaction():
            if isinstance(found, int):
                self._fail(attempt, found)
                return False
            for hop in found:
                channel = self._network.graph.channels[hop.channel]
                attempt.locked.append((hop, channel.lock(hop.sender, hop.amount)))
                self._network.save(channel)
            attempt.payment.htlcs.add(route=lightning_pb2.Route(total_time_lock=self._time_lock(found)))
            self._save(attempt)
            self._tell(attempt)
        return True

    def _time_lock(self, route: list[Hop]) -> int:
        return self._network.block_height + CLTV_EXPIRY + TIME_LOCK_DELTA * (len(route) - 1)

    def _find(
        self, sender: Node, intent: Intent, *, need_balance: bool = True
    ) -> "list[Hop] | lightning_pb2.PaymentFailureReason":
        """The route, or the reason why there is none."""
        graph, target = self._network.graph, self._network.by_pubkey.get(intent.target)
        known = target is not None and graph.knows(sender.id, target.id)
        if intent.records and not intent.features_told and not known:
            return NO_ROUTE
        if graph.outgoing(sender.id)[1] < intent.amount:
            return INSUFFICIENT_BALANCE
        if target is None or target is sender:
            return NO_ROUTE
        by_pubkey = self._network.by_pubkey
        search = Search(
            source=sender.id,
            target=target.id,
            amount=intent.amount,
            fee_limit=intent.fee_limit,
            final_size=0 if intent.any_size else _final_size(intent),
            hints={(by_pubkey[node].id, channel) for node, channel in intent.hints if node in by_pubkey},
            need_balance=need_balance,
        )
        return graph.find_route(search) or NO_ROUTE

    def _arrive(self, attempt: Attempt, target: Node) -> None:
        intent, (hop, index) = attempt.intent, attempt.locked[-1]
        htlc = Htlc(intent.payment_hash, hop.amount, hop.channel, index, intent.records, intent.payment_addr)
        with self._store.transaction():
            outcome, preimage = self._invoices.receive(target, htlc)
            if outcome is Outcome.SETTLED:
                self._succeed(attempt, preimage)
            elif outcome is Outcome.REFUSED:
                self._fail(attempt, INCORRECT_DETAILS)
            else:
                self._store.accept_payment(attempt.sender.id, intent.payment_hash)
                self._wait_for_receiver(attempt)

    def _wait_for_receiver(self, attempt: Attempt) -> None:
        target = self._network.by_pubkey[attempt.intent.target]
        self._accepted.setdefault((target.id, attempt.intent.payment_hash), []).append(attempt)

    def _strand(self, attempt: Attempt) -> None:
        """As after kill -9 of the sender's lnd at the wrong instant: no channel knows the HTLC, and lnd waits for it."""
        with self._store.transaction():
            self._unlock(attempt, settled=False)
            self._store.strand_payment(attempt.sender.id, attempt.intent.payment_hash)

    def _unlock(self, attempt: Attempt, *, settled: bool) -> None:
        for hop, _ in attempt.locked:
            channel = self._network.graph.channels[hop.channel]
            channel.resolve(hop.sender, hop.amount, settled=settled)
            self._network.save(channel)
        attempt.locked.clear()

    def _succeed(self, attempt: Attempt, preimage: bytes) -> None:
        fee = attempt.locked[0][0].amount - attempt.intent.amount
        payment = attempt.payment
        payment.status, payment.payment_preimage = Payment.SUCCEEDED, preimage.hex()
        payment.fee_msat, payment.fee_sat = fee, fee // 1000
        self._end(attempt, settled=True)

    def _fail(self, attempt: Attempt, reason: lightning_pb2.PaymentFailureReason) -> None:
        attempt.payment.status, attempt.payment.failure_reason = Payment.FAILED, reason
        self._end(attempt, settled=False)

    def _end(self, attempt: Attempt, *, settled: bool) -> None:
        with self._store.transaction():
            self._unlock(attempt, settled=settled)
            for htlc in attempt.payment.htlcs:
                htlc.status = HTLCAttempt.SUCCEEDED if settled else HTLCAttempt.FAILED
            self._store.put_payment(attempt.sender.id, attempt.payment, None, None)
            self._open.pop((attempt.sender.id, attempt.intent.payment_hash), None)
            self._tell(attempt)

    # small things

    def _refuse_known(self, sender: Node, payment_hash: bytes, *, raw: bool) -> None:
        if (sender.id, payment_hash) in self._open:
            raise already_exists("payment is in transition")
        payment = self._store.payment(sender.id, payment_hash)
        if payment is not None and payment.status == Payment.SUCCEEDED and not raw:
            raise already_exists("invoice is already paid")

    def _new_payment(self, sender: Node, intent: Intent, payment_request: str) -> Payment:
        sender.payment_index += 1
        return Payment(
            payment_hash=intent.payment_hash.hex(),
            payment_preimage=NO_PREIMAGE,
            value_sat=intent.amount // 1000,
            value_msat=intent.amount,
            payment_request=payment_request,
            status=Payment.IN_FLIGHT,
            creation_time_ns=time.time_ns(),
            payment_index=sender.payment_index,
        )

    def _save(self, attempt: Attempt) -> None:
        route = [[hop.channel, hop.sender, hop.amount, index] for hop, index in attempt.locked]
        self._store.put_payment(attempt.sender.id, attempt.payment, attempt.request, route)

    def _tell(self, attempt: Attempt) -> None:
        """Tells who follows the payment its present state, after the commit."""
        streams, topic = attempt.sender.streams, ("payment", attempt.intent.payment_hash)
        if not streams.of(topic):
            return
        snapshot = Payment()
        snapshot.CopyFrom(attempt.payment)
        self._store.after_commit(lambda: streams.publish(topic, snapshot))

    def _spawn(self, way: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(way)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _wait(
    cancelled: asyncio.Event, delay_seconds: float, timeout_seconds: float
) -> "lightning_pb2.PaymentFailureReason | None":
    """Waits before the first HTLC. The failure reason when the payment ends there."""
    try:
        await asyncio.wait_for(cancelled.wait(), min(delay_seconds, timeout_seconds))
        return CANCELED
    except TimeoutError:
        return TIMEOUT if delay_seconds > timeout_seconds else None


def _resumed_intent(request: router_pb2.SendPaymentRequest, payment: Payment) -> Intent:
    """The checks were passed before the restart; an invoice may have expired since."""
    asked = bolt11.decode(request.payment_request) if request.payment_request else None
    hints = read_hints(request.route_hints)
    return Intent(
        target=asked.destination if asked else request.dest,
        payment_hash=bytes.fromhex(payment.payment_hash),
        amount=payment.value_msat,
        fee_limit=amount_msat(request.fee_limit_sat, request.fee_limit_msat),
        records=dict(request.dest_custom_records),
        hints=hints + (tuple((hint.pubkey, hint.channel) for hint in asked.hints) if asked else ()),
        features_told=bool(asked or request.dest_features),
        payment_addr=asked.payment_addr if asked else b"",
        timeout_seconds=request.timeout_seconds or DEFAULT_TIMEOUT_SECONDS,
    )


def _final_size(intent: Intent) -> int:
    return onion.final_size(intent.records, intent.amount, payment_addr=bool(intent.payment_addr))


def _query_fee_limit(request: lightning_pb2.QueryRoutesRequest, amount: int) -> int:
    """lnd's default: all of a small amount, 5 % of more than 1,000 sat."""
    limit = request.fee_limit.WhichOneof("limit")
    if limit == "fixed":
        return request.fee_limit.fixed * 1000
    if limit == "fixed_msat":
        return request.fee_limit.fixed_msat
    return amount if amount <= 1_000_000 else amount * 5 // 100
