"""The buyer's half of the worker: invoices are checked and paid, leases that do not come are asked for, and end."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from invoices.models import InvoicePayment
from invoices.paying import OTHER_INVOICE, OtherInvoiceError
from invoices.services import payment_of
from lightning.bech32 import checked_payment_request
from lightning.client import LndError
from messaging import events
from messaging.budget import OverBudget
from messaging.models import Event, Message
from messaging.outgoing import store_all
from messaging.required import required
from messaging.workers import WorkerContext
from protos.lnrpc import lightning_pb2
from vpn import buying, renewing
from vpn.looking import each, look_forever
from vpn.models import Purchase
from vpn.settings import SERVICE, VpnSettings
from vpn.states import PurchaseState
from vpn.wireguard import WireGuard

logger = logging.getLogger("vpn.buyer")

LOOK_SECONDS = 1.0
RENEW_SECONDS = 5.0
CLEAN = timedelta(hours=1)
MAX_FINAL_CLTV_BLOCKS = 144
# The longest, in all, that a seller who has gone away can hold the money: a week.
CLTV_LIMIT_BLOCKS = 1_008


class Buyer:
    """`run` until cancelled."""

    def __init__(self, context: WorkerContext, wireguard: WireGuard | None = None):
        self._context = context
        self._settings: VpnSettings = context.settings
        self._wireguard = wireguard or WireGuard(self._settings.binary_path)
        self._clean_due = context.clock.now()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(
                look_forever(self.look, self._settings.buying, lambda: LOOK_SECONDS, name="purchases")
            )
            if self._settings.auto_renew:
                group.create_task(self._renew_forever())

    async def _renew_forever(self) -> None:
        while True:
            try:
                await self.renew()
            except Exception:
                logger.exception("VPN: leases could not be renewed; trying again")
            await asyncio.sleep(RENEW_SECONDS)

    async def renew(self) -> None:
        """Asks for more time for what is in use and ends soon."""
        now = self._context.clock.now()
        for lease in await self._context.database.read(partial(renewing.due, now, self._settings)):
            if await renewing.is_in_use(self._wireguard, lease, now):
                postage_sat = await self._context.postage_sat(lease.seller, SERVICE)
                await self._commit(
                    partial(renewing.renew, lease, now, self._settings, self._context.cost_msat, postage_sat)
                )

    async def look(self) -> None:
        """Does what can be done now."""
        now = self._context.clock.now()
        # lnd may be away: time does not wait for it.
        if await self._context.database.read(partial(buying.is_any_due, now)):
            await self._commit(lambda: buying.pass_time(now))
        await each(await self._context.database.read(_open_purchases), partial(self._look_at, now=now))
        if now >= self._clean_due:
            await self._context.database.write(buying.forget_old_quotes)
            self._clean_due = now + CLEAN

    async def _look_at(self, purchase: Purchase, *, now: datetime) -> None:
        if purchase.state == PurchaseState.INVOICED:
            await self._check(purchase)
        elif purchase.state == PurchaseState.PAYING:
            await self._follow(purchase)
        elif purchase.ask_again_at and purchase.ask_again_at <= now:
            postage_sat = await self._context.postage_sat(purchase.seller, SERVICE)
            await self._step(purchase, lambda row: buying.ask_again(row, now, postage_sat))

    async def _check(self, purchase: Purchase) -> None:
        """From an invoice to a payment that may begin, or to a refusal."""
        request = await self._decoded(purchase)
        wrong = request if isinstance(request, str) else self._wrong(purchase, request)
        if wrong or isinstance(request, str):
            await self._step(purchase, lambda row: buying.refuse(row, "invoice", wrong))
            return
        payment_hash = bytes.fromhex(request.payment_hash)
        await self._step(purchase, lambda row: buying.pay(row, payment_hash))
        await self._follow(await self._context.database.read(partial(Purchase.objects.get, pk=purchase.pk)))

    async def _decoded(self, purchase: Purchase) -> lightning_pb2.PayReq | str:
        """What lnd reads in the invoice, or what is wrong with it."""
        try:
            text = checked_payment_request(purchase.payment_request, network=self._settings.network)
            return await self._context.client.decode_payment_request(text)
        except ValueError as error:
            return f"the seller's invoice {error}"
        except LndError as error:
            if error.trouble.passes:
                raise
            return f"lnd cannot read the seller's invoice: {error.details[:200]}"

    def _wrong(self, purchase: Purchase, request: lightning_pb2.PayReq) -> str:
        """Why this invoice is not paid; empty if it is."""
        if request.destination != purchase.seller:
            return f"the invoice is to be paid to {request.destination}, which is not the seller"
        if request.num_msat != purchase.price_sat * 1000:
            return f"the invoice is over {request.num_msat} msat, agreed were {purchase.price_sat} sat"
        if request.timestamp + request.expiry <= self._context.clock.now().timestamp():
            return "the invoice has expired"
        if request.cltv_expiry > MAX_FINAL_CLTV_BLOCKS:
            most = MAX_FINAL_CLTV_BLOCKS
            return (
                f"the invoice could hold the money for {request.cltv_expiry} blocks; at most {most} are paid"
            )
        return ""

    async def _follow(self, purchase: Purchase) -> None:
        """Begins the payment, which is stored before lnd hears of it, or notes its end."""
        if purchase.state != PurchaseState.PAYING:
            return
        payment = await self._context.database.read(
            partial(payment_of, bytes(required(purchase.payment_hash)))
        )
        if payment is None:
            await self._pay(purchase)
        elif payment.payment_request.lower() != purchase.payment_request.lower():
            # Who knows an invoice may make others of its payment hash: that one is paid is no payment of this.
            await self._step(purchase, lambda row: buying.refuse(row, "invoice", OTHER_INVOICE))
        elif payment.state == InvoicePayment.State.SETTLED:
            await self._step(purchase, lambda row: buying.paid(row, self._context.clock.now()))
        elif payment.state == InvoicePayment.State.FAILED:
            cause = payment.cause
            await self._step(purchase, lambda row: buying.refuse(row, "not_paid", cause))

    async def _pay(self, purchase: Purchase) -> None:
        request = await self._decoded(purchase)
        wrong = request if isinstance(request, str) else self._wrong(purchase, request)
        reason = "invoice"
        if not wrong and not isinstance(request, str):
            try:
                await self._context.payer.pay(
                    request,
                    text=purchase.payment_request,
                    amount_msat=request.num_msat,
                    claim=None,
                    cltv_limit_blocks=CLTV_LIMIT_BLOCKS,
                )
                return
            except OverBudget as error:
                reason, wrong = "budget", str(error)
            except OtherInvoiceError as error:
                wrong = str(error)
        await self._step(purchase, lambda row: buying.refuse(row, reason, wrong))

    async def _step(self, purchase: Purchase, step: Callable[[Purchase], Event | Message | None]) -> None:
        """On the row as it is now; nothing if it has moved on."""

        def job() -> list[Event | Message]:
            row = Purchase.objects.get(pk=purchase.pk)
            told = step(row) if row.state == purchase.state else None
            return [told] if told else []

        await self._commit(job)

    async def _commit(self, step: Callable[[], Sequence[Event | Message]]) -> None:
        def job() -> list[Message]:
            told = step()
            messages = [one for one in told if isinstance(one, Message)]
            sending = store_all(messages, self._context)
            events.append([one for one in told if isinstance(one, Event)], published=self._context.published)
            return sending

        self._context.send_stored(await self._context.database.write(job))


def _open_purchases() -> list[Purchase]:
    return list(Purchase.objects.filter(state__in=buying.OPEN_PURCHASES).order_by("created_at"))
