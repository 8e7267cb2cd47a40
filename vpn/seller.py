"""The seller's half of the worker: lnd's hold invoices, WireGuard's peers, and time. The only caller of `wg`.

What is to be done stands in the database (vpn/selling.py); each look does it as far as it goes now. Every step may be
repeated: a look that was broken off, by kill -9 too, is taken up by the next one.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import grpc
from django.utils import timezone

from lightning.client import LndClient, LndError, Trouble
from lightning.hints import invoice_needs_hints
from messaging import events
from messaging.models import Event, Message
from messaging.outgoing import store_all
from messaging.required import required
from messaging.workers import WorkerContext
from protos.invoicesrpc import invoices_pb2
from protos.lnrpc import lightning_pb2
from vpn import endpoint, selling, statistics, wishes
from vpn.exits import ExitRules
from vpn.looking import each, look_forever
from vpn.models import Answered, Lease, Quote, Shop, Term
from vpn.pool import Network
from vpn.reconcile import missing_after, reconcile
from vpn.settings import VpnSettings
from vpn.states import OPEN_TERMS, LeaseState, TermState
from vpn.waking import Wake
from vpn.watch import InvoiceWatch
from vpn.wireguard import WireGuard, WireGuardError

logger = logging.getLogger("vpn.seller")

LOOK_SECONDS = 1.0
SHORTEST_LOOK_SECONDS = 0.2
# Longer than that the ends of leases do not wait for lnd's first answer.
FIRST_LOOK_SECONDS = 10.0
# Between two looks at the interface when nothing has changed, and after one that failed.
INTERFACE_SECONDS = 60.0
INTERFACE_AGAIN_SECONDS = 5.0
# Between two questions to lnd about an invoice whose stream says nothing.
INVOICE_SECONDS = 5.0
# A payment that is not settled so long after it was seen to be held, or after this node came back, is given back; the
# buyer is promised 300.
GIVE_BACK_SECONDS = 240
# If `wg` cannot even say whether the peer is gone, the buyer's money goes back all the same.
GIVE_BACK_BLINDLY_SECONDS = 285
# Between two look-ups of vpn.server_ip, where it is a host name.
ENDPOINT_SECONDS = 60.0
CLEAN_SECONDS = 3_600.0
KEPT_QUOTES = timedelta(days=1)

Invoice = lightning_pb2.Invoice
Told = tuple[list[Message], list[Event]]


class Seller:
    """`run` until cancelled. It looks at three things, each by itself: lnd (`look`), the time (`look_at_the_time`) and the
    interface (`look_at_the_interface`).
    """

    def __init__(self, context: WorkerContext, wireguard: WireGuard | None = None):
        self._context = context
        self._settings: VpnSettings = context.settings
        self._client: LndClient = context.client
        self._wireguard = wireguard or WireGuard(self._settings.binary_path)
        self._watch = InvoiceWatch(self._client, self._settings.selling.ring)
        self._exit_rules = ExitRules(self._settings)
        self._began = context.clock.now()
        # Set when lnd was asked about the invoices that were open at the start.
        self._asked_lnd = asyncio.Event()
        # When time makes something of a lease next, as far as is known.
        self._next_due: datetime | None = None
        # Seconds of the event loop's clock.
        self._invoices_due = self._clean_due = self._sample_due = 0.0
        # Rung when the interface is to be looked at before its time.
        self._peers_changed = Wake()
        # Peers that were read back, with exactly these addresses, and those that `wg` cannot take.
        self._there: dict[str, frozenset[Network]] = {}
        self._refused: dict[str, str] = {}
        self._problem: str | None = None
        is_named = self._settings.endpoint_host is None
        self._endpoint_problem = "vpn.server_ip has not been looked up yet" if is_named else ""

    async def run(self) -> None:
        """`wg` and lnd may hang, or be away: neither waits for the other, and time waits for none of them."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(
                    look_forever(self.look, self._settings.selling, lambda: LOOK_SECONDS, name="sales")
                )
                group.create_task(self._keep_time())
                group.create_task(self._keep_interface())
                if self._settings.endpoint_host is None:
                    group.create_task(self._keep_endpoint())
        finally:
            self.close()

    def close(self) -> None:
        """Follows no invoices any more."""
        self._watch.close()

    async def _keep_time(self) -> None:
        try:
            # What was paid while this node was away may move an end.
            async with asyncio.timeout(FIRST_LOOK_SECONDS):
                await self._asked_lnd.wait()
        except TimeoutError:
            pass
        await look_forever(self.look_at_the_time, Wake(), self._pause_seconds, name="the time of leases")

    async def look_at_the_time(self) -> None:
        """Carries out what the operator wishes, then what time makes due."""
        await self._wishes()
        await self._pass_time()

    def _pause_seconds(self) -> float:
        """Warnings and ends come to the second."""
        if self._next_due is None:
            return LOOK_SECONDS
        left_seconds = (self._next_due - self._now).total_seconds()
        return min(LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, left_seconds))

    async def look(self) -> None:
        """Does what can be done now with lnd."""
        now = asyncio.get_running_loop().time()
        try:
            await self._look_at_invoices(now)
        finally:
            self._asked_lnd.set()
        for state, step in (
            (TermState.HELD, self._decide),
            (TermState.SETTLING, self._settle),
            (TermState.CANCELING, self._give_back),
        ):
            await each(_in_state(await self._context.database.read(_open_terms), state), step)
        if now >= self._clean_due:
            await self._context.database.write(_clean)
            self._clean_due = now + CLEAN_SECONDS

    async def _look_at_invoices(self, now: float) -> None:
        """Makes those that are wanted, and sees whether those that were sent are paid."""
        terms = await self._context.database.read(_open_terms)
        self._watch.follow({bytes(term.payment_hash) for term in terms if term.state == TermState.OFFERED})
        await each(_in_state(terms, TermState.WANTED), self._offer)
        ask_all = now >= self._invoices_due
        if ask_all:
            self._invoices_due = now + INVOICE_SECONDS
        told = self._watch.take()
        offered = _in_state(terms, TermState.OFFERED)
        await each([term for term in offered if ask_all or bytes(term.payment_hash) in told], self._look_up)

    @property
    def _now(self) -> datetime:
        """The time by which things end."""
        return self._context.clock.now()

    # lnd

    async def _offer(self, term: Term) -> None:
        request = invoices_pb2.AddHoldInvoiceRequest(
            memo=f"VPN {term.contract_id}",
            hash=bytes(term.payment_hash),
            value=term.price_sat,
            expiry=selling.INVOICE_SECONDS,
            cltv_expiry=selling.FINAL_CLTV_BLOCKS,
            private=invoice_needs_hints((await self._client.list_channels()).channels, term.price_sat),
        )
        try:
            text = (await self._client.add_hold_invoice(request)).payment_request
        except LndError as error:
            if error.trouble is not Trouble.REFUSED:
                raise
            if "already exists" not in error.details:
                logger.error("VPN: lnd makes no invoice over %d sat: %s", term.price_sat, error)
                await self._tell(partial(selling.cancel, cause="lnd made no invoice"), term)
                return
            # It was added before this process was killed; or its answer was lost.
            text = (await self._client.lookup_invoice(bytes(term.payment_hash))).payment_request
        await self._tell(lambda term: (selling.offer(term, text), []), term)
        self._watch.follow({*self._watch.followed, bytes(term.payment_hash)})

    async def _look_up(self, term: Term) -> None:
        invoice = await self._invoice(term)
        if invoice is None:
            await self._tell(partial(selling.cancel, cause="lnd does not know its invoice any more"), term)
        elif invoice.state in (Invoice.ACCEPTED, Invoice.SETTLED):
            # Settled: this database was restored from a copy that is behind lnd.
            await self._tell(
                _without_words(partial(selling.hold, settings=self._settings, now=self._now)), term
            )
            self._peers_changed.ring()
        elif invoice.state == Invoice.CANCELED:
            await self._tell(partial(selling.cancel, cause="not paid in time"), term)

    async def _decide(self, term: Term) -> None:
        """A held payment is taken when the tunnel is there, and given back when it does not come to be."""
        lease = term.lease
        if self._there.get(lease.wg_key) == selling.networks_of(lease.addresses):
            await self._tell(_without_words(selling.decide_to_settle), term)
            return
        cause = self._refused.get(lease.wg_key, "")
        if cause:
            cause = f"its peer {cause}"
        elif self._is_late(term, GIVE_BACK_SECONDS):
            cause = "the tunnel could not be made in time"
        if cause:
            logger.error(
                "VPN: a payment is given back: %s (%s)", cause, self._problem or "no problem is known"
            )
            await self._tell(_without_words(partial(selling.give_back, cause=cause)), term)
            self._peers_changed.ring()
            self._settings.selling.ring()

    def _is_late(self, term: Term, seconds: int) -> bool:
        since = max(required(term.held_at), self._began)
        return self._now >= since + timedelta(seconds=seconds)

    async def _settle(self, term: Term) -> None:
        try:
            await self._client.settle_invoice(bytes(term.secret))
        except LndError as error:
            if error.trouble.passes:
                raise
            logger.error("VPN: lnd does not settle: %s", error)
        invoice = await self._invoice(term)
        if invoice is not None and invoice.state == Invoice.SETTLED:
            settled_at = selling.begun_at(term, selling.as_moment(invoice.settle_date), self._now)
            await self._tell(partial(selling.settle, settled_at=settled_at, settings=self._settings), term)
        elif invoice is None or invoice.state == Invoice.CANCELED:
            await self._tell(
                partial(selling.cancel, cause="the payment timed out before it could be taken"), term
            )
            self._peers_changed.ring()

    async def _give_back(self, term: Term) -> None:
        """After the peer was seen gone."""
        may_be_there = term.lease.state == LeaseState.CANCELED and await self._context.database.read(
            partial(_holds_key, term)
        )
        if may_be_there and not self._is_late(term, GIVE_BACK_BLINDLY_SECONDS):
            return
        try:
            await self._client.cancel_invoice(bytes(term.payment_hash))
        except LndError as error:
            if error.trouble.passes:
                raise
            logger.error("VPN: lnd does not cancel: %s", error)
        invoice = await self._invoice(term)
        if invoice is None or invoice.state == Invoice.CANCELED:
            await self._tell(partial(selling.cancel, cause="given back"), term)
        elif invoice.state == Invoice.SETTLED:
            logger.error("VPN: lnd took %d sat that buy nothing (%s)", term.price_sat, term.cause)
            await self._tell(_without_words(selling.note_taken), term)

    async def _invoice(self, term: Term) -> Invoice | None:
        try:
            return await self._client.lookup_invoice(bytes(term.payment_hash))
        except LndError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    # time and wishes

    async def _pass_time(self) -> None:
        now = self._now
        self._next_due = await self._context.database.read(selling.next_due)
        if self._next_due is None or self._next_due > now:
            return
        await self._commit(lambda: selling.pass_time(now))
        self._peers_changed.ring()
        self._next_due = await self._context.database.read(selling.next_due)

    async def _wishes(self) -> None:
        keys = await self._context.database.read(wishes.open_wishes)
        for key in keys:
            await self._commit(partial(wishes.carry_out, key, self._settings))
            self._peers_changed.ring()

    # WireGuard

    async def _keep_interface(self) -> None:
        """At the start, now and then, and when a row has changed, the interface gets the peers that the database
        says.
        """
        while True:
            try:
                seconds = await self.look_at_the_interface()
            except Exception:
                logger.exception("VPN: the interface could not be looked after; trying again")
                seconds = INTERFACE_AGAIN_SECONDS
            await self._peers_changed.wait(seconds)

    async def look_at_the_interface(self) -> float:
        """Gives it the peers that the database says, and notes those that are gone. Seconds until the next look."""
        try:
            return await self._reconcile()
        except WireGuardError as error:
            self._there = {}
            await self._note("", f"{error}"[:500], [])
            return INTERFACE_AGAIN_SECONDS

    async def _reconcile(self) -> float:
        settings = self._settings
        if not settings.server_pub_key:
            await self._note("", "vpn.server_pub_key names no interface", [])
            return await self._without_interface()
        interface = await self._wireguard.interface_of(settings.server_pub_key)
        if interface is None:
            await self._note("", "no WireGuard interface has the public key of vpn.server_pub_key", [])
            return await self._without_interface()
        desired, once_ours = await self._context.database.read(
            lambda: (selling.desired_peers(), selling.leaving_keys())
        )
        present = await self._wireguard.peers(interface)
        changes = reconcile(
            desired, present, pool=settings.pool, own_key=settings.server_pub_key, once_ours=once_ours
        )
        if not changes.empty:
            await self._wireguard.apply(interface, changes)
            present = await self._wireguard.peers(interface)
            logger.info("VPN peers", extra={"added": len(changes.add), "removed": len(changes.remove)})
        missing = set(
            missing_after(
                {key: value for key, value in desired.items() if key not in changes.refused}, present
            )
        )
        self._there = {key: desired[key] for key in set(desired) - missing - set(changes.refused)}
        self._refused = changes.refused
        settings.selling.ring()
        problem = settings.price_problem or self._endpoint_problem
        await self._note(interface, problem, sorted(changes.foreign))
        are_gone = await self._gone(set(present))
        if asyncio.get_running_loop().time() >= self._sample_due:
            await self._each_minute(interface)
            self._sample_due = asyncio.get_running_loop().time() + INTERFACE_SECONDS
        return INTERFACE_SECONDS if are_gone and not missing else INTERFACE_AGAIN_SECONDS

    async def _each_minute(self, interface: str) -> None:
        found = await self._wireguard.statistics(interface)
        await self._context.database.write(partial(statistics.store, found))
        await self._exit_rules.keep(interface)
        if not self._endpoint_problem:
            await self._commit(lambda: (selling.tell_changes(self._settings), []))

    async def _without_interface(self) -> float:
        """No interface, no peers: what is over need not wait for it."""
        self._there = {}
        await self._gone(set())
        return INTERFACE_AGAIN_SECONDS

    async def _gone(self, present: set[str]) -> bool:
        """Whether all peers that were to be removed are."""
        leaving = await self._context.database.read(selling.leaving_keys)
        if leaving:
            await self._commit(lambda: selling.peers_gone(present, self._now, self._settings))
            self._settings.selling.ring()
        return present.isdisjoint(leaving)

    async def _note(self, interface: str, problem: str, foreign: list[str]) -> None:
        """What the handlers and the admin are to know of the interface."""
        if problem != self._problem:
            self._problem = problem
            if problem:
                # Most nodes do not mean to sell any.
                meant = bool(self._settings.server_pub_key)
                logger.log(logging.WARNING if meant else logging.INFO, "no VPN can be sold: %s", problem)
            else:
                logger.info("VPN is sold over %s", interface)
        row = {"interface": interface, "problem": problem, "foreign": foreign, "looked_at": timezone.now()}
        await self._context.database.write(lambda: Shop.objects.update_or_create(pk=1, defaults=row))

    async def _keep_endpoint(self) -> None:
        await look_forever(
            self.look_up_the_endpoint, Wake(), lambda: ENDPOINT_SECONDS, name="the server's address"
        )

    async def look_up_the_endpoint(self, look_up: endpoint.LookUp = endpoint.look_up) -> None:
        """Notes the address of vpn.server_ip. While it cannot be looked up, the one of before is told."""
        name, before = self._settings.server_ip, self._endpoint_problem
        known = await self._context.database.read(partial(selling.known_address, name))
        try:
            address = await endpoint.address_of(name, known=known, look_up=look_up)
        except endpoint.EndpointError as error:
            logger.warning("%s", error)
            self._endpoint_problem = "" if known else str(error)
        else:
            self._endpoint_problem = ""
            if address != known:
                await self._context.database.write(partial(selling.note_address, name, address))
        if self._endpoint_problem != before:
            self._peers_changed.ring()

    # storing

    async def _tell(self, step: Callable[[Term], Told], term: Term) -> None:
        """A step of a payment, on its row as it is now; nothing if it has moved on."""
        await self._commit(partial(_step_of, step, term.pk, term.state))

    async def _commit(self, step: Callable[[], Told]) -> None:
        def job() -> list[Message]:
            messages, told = step()
            sending = store_all(messages, self._context)
            events.append(told, published=self._context.published)
            return sending

        self._context.send_stored(await self._context.database.write(job))


def _step_of(step: Callable[[Term], Told], key: int, state: str) -> Told:
    term = Term.objects.select_related("lease").get(pk=key)
    return step(term) if term.state == state else ([], [])


def _without_words(step: Callable[[Term], None]) -> Callable[[Term], Told]:
    def told(term: Term) -> Told:
        step(term)
        return [], []

    return told


def _open_terms() -> list[Term]:
    return list(Term.objects.select_related("lease").filter(state__in=OPEN_TERMS).order_by("pk"))


def _in_state(terms: list[Term], state: TermState) -> list[Term]:
    return [term for term in terms if term.state == state]


def _holds_key(term: Term) -> bool:
    return Lease.objects.filter(pk=term.lease_id, holds_key=True).exists()


def _clean() -> None:
    """Quotes that were not used, and answers, are forgotten."""
    Quote.objects.filter(used_at=None, expires_at__lt=timezone.now() - KEPT_QUOTES).delete()
    Answered.objects.filter(created_at__lt=timezone.now() - timedelta(minutes=10)).delete()
