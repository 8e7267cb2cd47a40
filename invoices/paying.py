"""Payments of invoices: each is stored before lnd hears of it, and its end is asked of lnd after a crash.

lnd guards the payment hash, so that the same invoice is never paid twice, whoever asks for it and however often.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from uuid import UUID

import grpc

from invoices import services
from invoices.models import InvoicePayment
from lightning.client import LndClient, LndError
from lightning.dead_payments import DeadPaymentError, DeadPayments, Watched
from messaging import clock, idempotency, notes, suspected
from messaging.budget import SpendingLimit
from messaging.database import Database
from messaging.idempotency import Claim, Claims
from messaging.orphans import LOOK_SECONDS, Orphans
from messaging.required import required
from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2

logger = logging.getLogger("invoices.paying")

# How long lnd looks for a way.
PAYMENT_SECONDS = 60
# lnd's usual bound of a payment's parts.
MAX_PARTS = 16
AGAIN_SECONDS = 2.0
# A payment that lnd has never heard of is sent again so long after it was asked for, and failed later: nobody expects it
# any more.
STILL_WANTED = timedelta(minutes=10)

# lnd's clock and this node's differ by less.
CLOCK_SLACK = timedelta(minutes=1)
OTHER_INVOICE = (
    "another invoice of the same payment hash was begun to be paid, or is paid, and lnd pays a hash only once"
)

Failure = InvoicePayment.Failure
_FAILURES = {
    lightning_pb2.FAILURE_REASON_TIMEOUT: (Failure.TIMEOUT, "the payment found no way in time"),
    lightning_pb2.FAILURE_REASON_NO_ROUTE: (
        Failure.ROUTE,
        "no route now: no channels with enough balance lead to the payee within the fee limit",
    ),
    lightning_pb2.FAILURE_REASON_ERROR: (Failure.ROUTE, "the payment failed on its way"),
    lightning_pb2.FAILURE_REASON_INCORRECT_PAYMENT_DETAILS: (
        Failure.REFUSED,
        "the payee refused the payment: the invoice is paid, canceled or expired there, or the amount is not enough",
    ),
    lightning_pb2.FAILURE_REASON_INSUFFICIENT_BALANCE: (
        Failure.BALANCE,
        "the channels' balance is too low now",
    ),
    lightning_pb2.FAILURE_REASON_CANCELED: (Failure.REFUSED, "the payment was canceled in lnd"),
}


class OtherPayer(Exception):
    """The payment is under way from another lnd than today's: what became of it cannot be told."""


class OtherInvoiceError(Exception):
    """What is under way or paid under this payment hash is another invoice, or was begun with another amount."""

    def __init__(self, text: str = OTHER_INVOICE) -> None:
        super().__init__(text)


class Payer:
    """`pay` answers with the payment as it is after at most so many seconds; it goes on afterwards. `run` takes up what an
    earlier process left, until cancelled. `own_pubkey` is that of the lnd (hexadecimal).
    """

    def __init__(
        self,
        *,
        database: Database,
        client: LndClient,
        own_pubkey: str,
        budget: SpendingLimit,
        fee_limit_msat: Callable[[int], int],
        dead_payments: DeadPayments,
        claims: Claims,
    ):
        self._database = database
        self._client = client
        self._own_pubkey = own_pubkey
        self._budget = budget
        self._fee_limit_msat = fee_limit_msat
        self._dead_payments = dead_payments
        self._claims = claims
        self._beginning: set[asyncio.Future[UUID]] = set()
        self._under_way: dict[UUID, asyncio.Task[None]] = {}

    async def known(
        self,
        payment_hash: bytes,
        claim: Claim | None,
        require: Callable[[InvoicePayment], Awaitable[None]] | None = None,
    ) -> InvoicePayment | None:
        """The payment that this claim was answered with before, whatever became of it; else one of this hash that is under
        way or settled, or dead in lnd, which can never be begun again. Raises KeyReused, and what `require` raises about the
        payment.
        """
        if claim and (payment_id := await self._claims.answer(claim)):
            payment = required(await self._database.read(partial(services.payment_get, payment_id)))
            if require:
                await require(payment)
            return payment
        found = await self._database.read(partial(services.payment_of, payment_hash))
        if found is None or (found.state == InvoicePayment.State.FAILED and found.failure != Failure.DEAD):
            return None
        payment = found
        if require:
            await require(payment)
        if claim:
            await self._claims.once(claim, partial(self._note, claim, payment.pk))
        return payment

    async def _note(self, claim: Claim, payment_id: UUID) -> UUID:
        await self._database.write(lambda: idempotency.store([claim.row(payment_id)]))
        return payment_id

    async def pay(
        self,
        request: lightning_pb2.PayReq,
        *,
        text: str,
        amount_msat: int,
        claim: Claim | None,
        cltv_limit_blocks: int = 0,
    ) -> InvoicePayment:
        """Begins to pay, unless that was begun before. `cltv_limit_blocks` bounds how long the payment may be held (0: as
        lnd does). Raises OverBudget and KeyReused, having stored nothing, and OtherInvoiceError.
        """
        begin = partial(self._begin, request, text, amount_msat, claim, cltv_limit_blocks)
        beginning = asyncio.ensure_future(self._claims.once(claim, begin) if claim else begin())
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)
        # A caller who goes away must not leave behind a payment that is stored and not followed.
        payment_id = await notes.to_its_end(beginning)
        payment = required(await self._database.read(partial(services.payment_get, payment_id)))
        await self.require_same(payment, request, text=text, amount_msat=amount_msat)
        return payment

    async def require_same(
        self, payment: InvoicePayment, request: lightning_pb2.PayReq, *, text: str, amount_msat: int
    ) -> None:
        """Raises OtherInvoiceError unless the payment is of this invoice: who knows one may make others of its payment
        hash. `amount_msat` is what the caller chose where the invoice leaves it open; 0: whatever it was.
        """
        if payment.amount_given and amount_msat not in (0, payment.amount_msat):
            raise OtherInvoiceError(
                f"was begun to be paid, or is paid, with {payment.amount_msat / 1000:g} sat, and lnd pays it only once"
            )
        if text.lower() != payment.payment_request.lower() and not await self._is_like(
            payment.payment_request, request
        ):
            raise OtherInvoiceError

    async def _is_like(self, text: str, request: lightning_pb2.PayReq) -> bool:
        """Whether an invoice pays the same as the one that was read. A payment without one, as of a message, does not."""
        if not text:
            return False
        other = await self._client.decode_payment_request(text)
        return (other.destination, other.num_msat, other.payment_addr) == (
            request.destination,
            request.num_msat,
            request.payment_addr,
        )

    async def end_of(self, payment: InvoicePayment, *, seconds: float) -> InvoicePayment:
        """The payment when it has ended, or as it is after so many seconds. Raises OtherPayer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while payment.state == InvoicePayment.State.IN_FLIGHT and loop.time() < deadline:
            if payment.payer != self._own_pubkey:
                raise OtherPayer(payment.payer)
            await asyncio.wait({self._follow(payment)}, timeout=deadline - loop.time())
            payment = required(await self._database.read(partial(services.payment_get, payment.pk)))
        return payment

    async def run(self) -> None:
        try:
            await self._take_up()
            async with asyncio.TaskGroup() as group:
                group.create_task(
                    suspected.tell_forever(
                        self._database, lambda: self._dead_payments.suspected, services.payments_suspect
                    )
                )
                group.create_task(self._look_for_orphans())
        finally:
            for beginning in self._beginning:
                beginning.cancel()
            for task in self._under_way.values():
                task.cancel()

    async def _take_up(self) -> None:
        while True:
            try:
                found = await self._database.read(partial(services.payments_in_flight, self._own_pubkey))
                break
            except Exception:
                logger.exception("payments under way could not be read; trying again")
                await asyncio.sleep(AGAIN_SECONDS)
        for payment in found:
            self._follow(payment)

    async def _look_for_orphans(self) -> None:
        """A payment may be stored though the database said that it is not."""
        orphans = Orphans()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                found = await self._database.read(partial(services.payments_in_flight, self._own_pubkey))
            except Exception:
                logger.exception("payments that nobody follows could not be looked for; trying again")
                continue
            nobodys = orphans.of([payment.pk for payment in found], self._under_way)
            for payment in found:
                if payment.pk in nobodys:
                    self._follow(payment)

    async def _begin(
        self,
        request: lightning_pb2.PayReq,
        text: str,
        amount_msat: int,
        claim: Claim | None,
        cltv_limit_blocks: int,
    ) -> UUID:
        fee_limit_msat = self._fee_limit_msat(amount_msat)
        cost_msat = amount_msat + fee_limit_msat
        async with self._budget.reserved(cost_msat):
            wanted = InvoicePayment(
                payer=self._own_pubkey,
                payee=request.destination,
                payment_hash=bytes.fromhex(request.payment_hash),
                payment_request=text,
                # A text of PostgreSQL holds no NUL.
                memo=request.description.replace("\0", "\ufffd"),
                amount_msat=amount_msat,
                amount_given=not request.num_msat,
                fee_limit_msat=fee_limit_msat,
                cost_msat=cost_msat,
                cltv_limit_blocks=cltv_limit_blocks,
                created_at=clock.now(),
            )
            key = claim.row(wanted.pk) if claim else None
            payment, begins = await self._database.write(
                partial(services.payment_begin, wanted, key, notes.noter.get())
            )
            if begins:
                self._follow(payment, fresh=True)
            return payment.pk

    def _follow(self, payment: InvoicePayment, *, fresh: bool = False) -> asyncio.Task[None]:
        """The task that sees a payment to its end. One that is not `fresh` is asked for in lnd first."""
        task = self._under_way.get(payment.pk)
        # What begins anew follows a task that has ended, whose callback may not have run yet.
        if fresh or task is None or task.done():
            task = asyncio.get_running_loop().create_task(self._see_to_its_end(payment, fresh))
            self._under_way[payment.pk] = task
            task.add_done_callback(partial(self._forget, payment.pk))
        return task

    def _forget(self, payment_id: UUID, task: asyncio.Task[None]) -> None:
        if self._under_way.get(payment_id) is task:
            del self._under_way[payment_id]

    async def _see_to_its_end(self, payment: InvoicePayment, fresh: bool) -> None:
        while True:
            try:
                # Who follows it may have read it before its end was stored: it must not be sent again.
                if not fresh and await self._has_ended(payment):
                    return
                ended = await (self._sent(payment) if fresh else self._tracked(payment))
                if ended:
                    await self._database.write(ended)
                    return
            except Exception:
                logger.exception("a payment's end could not be stored; it is asked for again")
            fresh = False
            await asyncio.sleep(AGAIN_SECONDS)

    async def _has_ended(self, payment: InvoicePayment) -> bool:
        stored = await self._database.read(partial(services.payment_get, payment.pk))
        return stored is None or stored.state != InvoicePayment.State.IN_FLIGHT

    async def _sent(self, payment: InvoicePayment) -> Callable[[], None] | None:
        """Pays and waits. The step that stores how it ended; None when that cannot be told now."""
        request = router_pb2.SendPaymentRequest(
            payment_request=payment.payment_request,
            amt_msat=payment.amount_msat if payment.amount_given else 0,
            fee_limit_msat=payment.fee_limit_msat,
            cltv_limit=payment.cltv_limit_blocks,
            timeout_seconds=PAYMENT_SECONDS,
            max_parts=MAX_PARTS,
            no_inflight_updates=True,
        )
        # Whoever was paused since the payment was stored may have been replaced: lnd knows nothing of that.
        await self._database.confirm()
        try:
            return await self._end_of(payment, self._client.send_payment(request), interrupted=False)
        except LndError as error:
            return await self._after_refusal(payment, error)

    async def _recorded_end_of(self, payment: InvoicePayment) -> Callable[[], None] | None:
        """The step for the end that lnd's record tells; None if it has none, or none but that of an attempt which had failed
        before this one was begun. Raises LndError.
        """
        call = self._client.track_payment(bytes(payment.payment_hash))
        try:
            return await self._end_of(payment, call, interrupted=True)
        except LndError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            return None

    async def _end_of(
        self, payment: InvoicePayment, call: Awaitable[lightning_pb2.Payment], *, interrupted: bool
    ) -> Callable[[], None] | None:
        """The step that stores how a payment ended, or that lnd never tells its end. `interrupted`: the call asks for lnd's
        record of it, which may be of an attempt that had failed before: then None. Raises LndError.
        """
        watched = Watched(
            payment_hash=bytes(payment.payment_hash),
            amount_msat=payment.amount_msat,
            began_at=payment.created_at.timestamp(),
            interrupted=interrupted,
            # The hash is the payee's.
            may_be_repeated=False,
        )
        try:
            result = await self._dead_payments.end_of(watched, call)
        except DeadPaymentError as error:
            cause = f"{error}; lnd never pays this invoice again: ask the payee for a new one"
            return partial(services.payment_fail, payment.pk, failure=Failure.DEAD, cause=cause)
        if interrupted and _is_earlier(payment, result):
            return None
        return await self._end(payment, result)

    async def _after_refusal(self, payment: InvoicePayment, error: LndError) -> Callable[[], None] | None:
        """Whatever lnd refused for, it may have begun: only its own record of the payment says that it has not."""
        if error.trouble.passes or error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL):
            return None
        try:
            if recorded := await self._recorded_end_of(payment):
                return recorded
        except LndError:
            return None
        cause = error.details[:200] or str(error)
        return partial(
            services.payment_fail, payment.pk, failure=Failure.REFUSED, cause=f"lnd refuses it: {cause}"
        )

    async def _tracked(self, payment: InvoicePayment) -> Callable[[], None] | None:
        """The same for a payment that may have been begun before."""
        try:
            if recorded := await self._recorded_end_of(payment):
                return recorded
        except LndError:
            return None
        if clock.now() - payment.created_at < STILL_WANTED:
            return await self._sent(payment)
        cause = "lnd was away when it was asked for, and has never heard of it"
        return partial(services.payment_fail, payment.pk, failure=Failure.ROUTE, cause=cause)

    async def _end(self, payment: InvoicePayment, result: lightning_pb2.Payment) -> Callable[[], None]:
        """The step that stores a payment's end as lnd tells it. Raises LndError."""
        if result.status == lightning_pb2.Payment.SUCCEEDED:
            if not await self._is_of(payment, result.payment_request):
                return partial(
                    services.payment_fail, payment.pk, failure=Failure.REFUSED, cause=OTHER_INVOICE
                )
            return partial(
                services.payment_settle,
                payment.pk,
                amount_msat=result.value_msat,
                fee_msat=result.fee_msat,
                preimage=bytes.fromhex(result.payment_preimage),
            )
        name = lightning_pb2.PaymentFailureReason.Name(result.failure_reason).removeprefix("FAILURE_REASON_")
        failure, cause = _FAILURES.get(result.failure_reason, (Failure.ROUTE, f"lnd: {name}"))
        return partial(
            services.payment_fail, payment.pk, failure=failure, cause=cause, index=result.payment_index
        )

    async def _is_of(self, payment: InvoicePayment, paid: str) -> bool:
        """Whether the invoice that lnd has paid is this payment's."""
        if paid.lower() == payment.payment_request.lower():
            return True
        return await self._is_like(paid, await self._client.decode_payment_request(payment.payment_request))


def _is_earlier(payment: InvoicePayment, result: lightning_pb2.Payment) -> bool:
    """Whether lnd's record is of an attempt that had failed before. lnd numbers them in their order."""
    if result.status != lightning_pb2.Payment.FAILED:
        return False
    begun_at = payment.created_at - CLOCK_SLACK
    return (
        result.payment_index <= payment.failed_index or result.creation_time_ns < begun_at.timestamp() * 1e9
    )
