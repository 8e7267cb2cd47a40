"""The seller's worker with lnd and WireGuard in memory: a sale from the contract to the settlement, what goes wrong at each
step, and a restart at each step.

Each look is that of a worker that has just started, unless a test keeps one: what counts is what is stored.
"""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from django.utils import timezone

from lightning.client import LndError
from lightning.rpcs import Rpc
from messaging import income
from messaging.database import Database
from messaging.models import Message
from protos.lnrpc import lightning_pb2
from tests.support.fake_lnd import connected
from tests.support.fake_wireguard import FakePeer, FakeWireGuard
from tests.support.lnd_cases import send_request
from tests.support.vpn_deals import (
    BUYER,
    FEE_LIMIT_MSAT,
    GUARD_SECONDS,
    INTERFACE,
    SERVER_KEY,
    CountingWake,
    SetClock,
    Side,
    body_of,
    make_side,
    open_shop,
    received,
    told,
    types_of,
    vpn_settings,
)
from vpn import bodies, seller, selling
from vpn.keys import new_key_pair
from vpn.models import Answered, Lease, LeaseWish, Quote, Shop, Term
from vpn.programs import ProgramTimeout
from vpn.seller import Seller
from vpn.states import LeaseState, TermState

pytestmark = pytest.mark.sql

UNKNOWN, NOT_FOUND = grpc.StatusCode.UNKNOWN, grpc.StatusCode.NOT_FOUND
Invoice, Payment = lightning_pb2.Invoice, lightning_pb2.Payment
SECONDS = 6_000
# Longer than any test takes: lnd tells the wall clock's time, workers go by that of the test.
SPARE_SECONDS = 150


def _has_paid_for_two_answers(message: Message) -> None:
    """Nothing here delivers the first one, which would give back what it did not cost."""
    message.amount_msat = 2 * (1_000 + FEE_LIMIT_MSAT)
    message.save()
    income.note(message.amount_msat)


class Sale:
    """One seller, whose shop is open, and the lnd of a buyer."""

    def __init__(self, database: Database, settings=None):
        self.buyer_lnd, self.lnd = connected("buyer", "seller")
        self.wireguard = FakeWireGuard()
        self.wireguard.add_interface(INTERFACE, public_key=SERVER_KEY)
        self.clock = SetClock()
        self.side: Side = make_side(database, self.lnd, settings or vpn_settings(), self.clock)
        self.database = database
        self.payments: list[asyncio.Task[lightning_pb2.Payment]] = []

    @property
    def worker(self) -> Seller:
        """As after a restart."""
        return Seller(self.side.context, self.wireguard)

    async def look(self) -> None:
        """At lnd."""
        worker = self.worker
        try:
            await worker.look()
        finally:
            worker.close()

    async def look_at_all(self) -> None:
        """At the interface, and then at lnd with what was seen there."""
        worker = self.worker
        try:
            await worker.look_at_the_interface()
            await worker.look()
        finally:
            worker.close()

    async def look_at_the_interface(self) -> float:
        return await self.worker.look_at_the_interface()

    async def look_at_the_time(self) -> None:
        await self.worker.look_at_the_time()

    @property
    def peers(self) -> dict[str, FakePeer]:
        return self.wireguard.wg.interfaces[INTERFACE].peers

    async def stored(self, query: Callable[[], Any]) -> Any:
        return await self.database.read(query)

    async def contract(self, *, price: str = str(SECONDS), wg_key: str = "") -> Term:
        """A buyer's contract has come; its payment is wanted."""

        def step() -> Term:
            open_shop()
            (answer,) = selling.quote_requested(
                received(bodies.QUOTE_REQUEST), {}, self.side.settings
            ).answers
            message = received(bodies.CONTRACT)
            body = {
                "nonce": body_of(answer)["nonce"],
                "price": price,
                "pubkey": wg_key or new_key_pair().public,
            }
            _has_paid_for_two_answers(message)
            selling.contract_received(message, body, self.side.settings)
            return Term.objects.select_related("lease").get(contract_id=message.message_id)

        return await self.database.write(step)

    async def refresh(self, lease: Lease, *, price: str = "100") -> Term:
        def step() -> Term:
            message = received(bodies.REFRESH)
            body = {"nonce": lease.nonce, "price": price, "pubkey": lease.wg_key}
            _has_paid_for_two_answers(message)
            selling.refresh_received(message, body, self.side.settings)
            return Term.objects.get(contract_id=message.message_id)

        return await self.database.write(step)

    async def pay(self, term: Term) -> asyncio.Task[lightning_pb2.Payment]:
        """The buyer has paid, and the seller's lnd holds it."""
        text = self.lnd.invoice(bytes(term.payment_hash)).payment_request
        payment = asyncio.create_task(self.buyer_lnd.send_payment(send_request(text)))
        self.payments.append(payment)
        while self.lnd.invoice(bytes(term.payment_hash)).state == Invoice.OPEN:
            await asyncio.sleep(0)
        return payment

    async def offered(self, **fields: Any) -> Term:
        term = await self.contract(**fields)
        await self.look()
        return await self.row(term)

    async def held(self, **fields: Any) -> Term:
        """Held, as the seller knows, and its peer not made yet."""
        term = await self.offered(**fields)
        await self.pay(term)
        await self.look()
        return await self.row(term)

    async def sold(self, **fields: Any) -> Term:
        term = await self.held(**fields)
        await self.look_at_all()
        return await self.row(term)

    async def row(self, term: Term) -> Term:
        return await self.stored(lambda: Term.objects.select_related("lease").get(pk=term.pk))

    async def states(self, term: Term) -> tuple[str, str]:
        row = await self.row(term)
        return row.state, row.lease.state

    async def payment(self, index: int = -1) -> lightning_pb2.Payment:
        return await self.payments[index]

    async def close(self) -> None:
        for payment in self.payments:
            payment.cancel()
        await asyncio.gather(*self.payments, return_exceptions=True)
        await self.lnd.close()
        await self.buyer_lnd.close()


@pytest.fixture
async def sale(database: Database) -> AsyncIterator[Sale]:
    sale = Sale(database)
    # A test that waits for what does not come ends all the same.
    async with asyncio.timeout(GUARD_SECONDS):
        yield sale
    await sale.close()


# a sale


async def test_sale_with_a_restart_before_each_step(sale):
    term = await sale.contract()
    assert await sale.states(term) == (TermState.WANTED, LeaseState.CONTRACTED)

    await sale.look()
    assert await sale.states(term) == (TermState.OFFERED, LeaseState.CONTRACTED)
    invoice = sale.lnd.invoice(bytes(term.payment_hash))
    assert (invoice.value, invoice.expiry) == (SECONDS, selling.INVOICE_SECONDS)
    assert invoice.memo == f"VPN {term.contract_id}"
    (message,) = sale.side.take_sent()
    assert message.pubkey == BUYER
    assert body_of(message)["payment_request"] == invoice.payment_request
    asked = await sale.buyer_lnd.decode_payment_request(invoice.payment_request)
    assert asked.cltv_expiry == selling.FINAL_CLTV_BLOCKS

    await sale.look()
    assert await sale.states(term) == (TermState.OFFERED, LeaseState.CONTRACTED)
    await sale.pay(term)
    await sale.look()
    assert await sale.states(term) == (TermState.HELD, LeaseState.PROVISIONING)
    assert sale.peers == {}

    # Before the peer was read back nothing is taken.
    await sale.look()
    assert await sale.states(term) == (TermState.HELD, LeaseState.PROVISIONING)
    assert not sale.payments[0].done()

    await sale.look_at_all()
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.ACTIVE)
    payment = await sale.payment()
    assert (payment.status, payment.value_sat) == (Payment.SUCCEEDED, SECONDS)
    lease = (await sale.row(term)).lease
    assert {key: peer.networks for key, peer in sale.peers.items()} == {
        lease.wg_key: [ipaddress.ip_network("10.77.0.2/32")]
    }
    settled_at = sale.lnd.invoice(bytes(term.payment_hash)).settle_date
    assert lease.starts_at == selling.as_moment(settled_at)
    assert lease.expires_at - lease.starts_at == timedelta(seconds=SECONDS)
    assert types_of(sale.side.take_sent()) == ["lease"]
    assert types_of(sale.side.events) == ["lease"]

    await sale.look_at_all()
    assert sale.side.take_sent() == []
    assert len(sale.lnd.requests(Rpc.SETTLE_INVOICE)) == 1


async def test_running_worker_sells_by_its_bells(sale, monkeypatch):
    """From lnd's stream to the interface and back: no look comes by itself."""
    for name in ("LOOK_SECONDS", "INTERFACE_SECONDS", "INTERFACE_AGAIN_SECONDS", "INVOICE_SECONDS"):
        monkeypatch.setattr(seller, name, 10.0 * GUARD_SECONDS)
    worker = sale.worker
    running = asyncio.create_task(worker.run())
    try:
        term = await sale.contract()
        while (await sale.states(term))[0] != TermState.OFFERED:
            await asyncio.sleep(0)
        await sale.pay(term)
        while (await sale.states(term))[0] != TermState.SETTLED:
            await asyncio.sleep(0)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert (await sale.payment()).status == Payment.SUCCEEDED
    assert (await sale.row(term)).lease.wg_key in sale.peers


async def test_worker_goes_on_after_a_look_at_the_interface_that_failed(sale, monkeypatch):
    """Of a mistake in the code, or because the database was away."""
    monkeypatch.setattr(seller, "INTERFACE_AGAIN_SECONDS", 0.0)
    peers, failures = sale.wireguard.peers, iter([RuntimeError("a mistake")])

    async def peers_later(interface: str):
        if (error := next(failures, None)) is not None:
            raise error
        return await peers(interface)

    monkeypatch.setattr(sale.wireguard, "peers", peers_later)
    running = asyncio.create_task(sale.worker.run())
    while not await sale.stored(Shop.objects.exists):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await shop_of(sale) == (INTERFACE, "")
    assert next(failures, None) is None


async def test_look_at_the_interface_wakes_the_look_at_lnd(database):
    bell = CountingWake()
    sale = Sale(database, vpn_settings(selling=bell))
    await sale.look_at_the_interface()
    assert bell.rings == 1
    await sale.close()


async def test_refresh_is_sold_without_touching_the_peer(sale):
    term = await sale.sold()
    sale.wireguard.wg.commands.clear()
    before = (await sale.row(term)).lease
    refresh = await sale.refresh(before)
    await sale.look()
    await sale.pay(refresh)
    await sale.look()
    assert await sale.states(refresh) == (TermState.HELD, LeaseState.ACTIVE)
    await sale.look_at_all()
    assert await sale.states(refresh) == (TermState.SETTLED, LeaseState.ACTIVE)
    after = (await sale.row(term)).lease
    assert after.expires_at - before.expires_at == timedelta(seconds=100)
    assert not [command for command in sale.wireguard.wg.commands if command[0] == "set"]


async def test_sales_do_not_wait_for_each_other(sale):
    """lnd has trouble with the invoice of one."""
    first, second = await sale.contract(), await sale.contract()
    sale.lnd.refuse(Rpc.ADD_HOLD_INVOICE, grpc.StatusCode.DEADLINE_EXCEEDED, "slow")
    with pytest.raises(LndError):
        await sale.look()
    states = [(await sale.states(term))[0] for term in (first, second)]
    assert sorted(states) == [TermState.OFFERED, TermState.WANTED]
    await sale.look()
    assert [(await sale.states(term))[0] for term in (first, second)] == [TermState.OFFERED] * 2


# lnd's trouble before anything is paid


@pytest.mark.parametrize("trouble", ["stop", "lock", "begin_to_start"])
async def test_contract_waits_for_an_lnd_that_is_away(sale, trouble):
    term = await sale.contract()
    getattr(sale.lnd, trouble)()
    with pytest.raises(LndError) as caught:
        await sale.look()
    assert caught.value.trouble.passes
    assert await sale.states(term) == (TermState.WANTED, LeaseState.CONTRACTED)
    sale.lnd.start()
    await sale.look()
    assert await sale.states(term) == (TermState.OFFERED, LeaseState.CONTRACTED)


async def test_invoice_whose_answer_was_lost_is_sent_as_it_was_made(sale):
    term = await sale.contract()
    sale.lnd.lose_answer(Rpc.ADD_HOLD_INVOICE)
    with pytest.raises(LndError):
        await sale.look()
    made = sale.lnd.invoice(bytes(term.payment_hash)).payment_request
    await sale.look()
    assert await sale.states(term) == (TermState.OFFERED, LeaseState.CONTRACTED)
    (message,) = sale.side.take_sent()
    assert body_of(message)["payment_request"] == made


async def test_invoice_that_lnd_refuses_ends_the_contract(sale):
    term = await sale.contract()
    sale.lnd.refuse(Rpc.ADD_HOLD_INVOICE, UNKNOWN, "CLTV delta of 80 is too large")
    await sale.look()
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert (await sale.row(term)).cause == "lnd made no invoice"
    assert sale.side.take_sent() == []


async def test_weak_macaroon_ends_no_contract(sale):
    """The operator can give another one."""
    term = await sale.contract()
    sale.lnd.refuse(Rpc.ADD_HOLD_INVOICE, UNKNOWN, "permission denied")
    await sale.look()
    assert await sale.states(term) == (TermState.WANTED, LeaseState.CONTRACTED)
    await sale.look()
    assert await sale.states(term) == (TermState.OFFERED, LeaseState.CONTRACTED)


async def test_invoice_that_nobody_pays_ends_the_contract(sale):
    term = await sale.offered()
    sale.side.take_sent()
    sale.lnd.expire(bytes(term.payment_hash))
    await sale.look()
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert (await sale.row(term)).cause == "not paid in time"
    assert sale.side.take_sent() == []
    assert sale.side.events == []


async def test_invoice_that_lnd_does_not_know_any_more_ends_the_contract(sale):
    """It was restored from a copy of before."""
    term = await sale.offered()
    sale.lnd.refuse(Rpc.LOOKUP_INVOICE, NOT_FOUND, "unable to locate invoice")
    await sale.look()
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)


async def test_payment_is_seen_when_lnd_is_back(sale):
    term = await sale.offered()
    await sale.pay(term)
    sale.lnd.refuse(Rpc.LOOKUP_INVOICE, grpc.StatusCode.UNAVAILABLE, "away")
    with pytest.raises(LndError):
        await sale.look()
    assert await sale.states(term) == (TermState.OFFERED, LeaseState.CONTRACTED)
    await sale.look()
    assert await sale.states(term) == (TermState.HELD, LeaseState.PROVISIONING)


async def test_what_has_moved_on_meanwhile_is_left_alone(sale, monkeypatch):
    """The contract gives way to another one while lnd is asked whether it is paid."""
    term = await sale.offered()
    await sale.pay(term)
    lookup = sale.lnd.lookup_invoice

    async def lookup_late(payment_hash: bytes) -> Invoice:
        monkeypatch.undo()
        await sale.database.write(
            lambda: selling.give_back(Term.objects.select_related("lease").get(pk=term.pk), "it gave way")
        )
        return await lookup(payment_hash)

    monkeypatch.setattr(sale.lnd, "lookup_invoice", lookup_late)
    await sale.look()
    # In the same look it is given back already.
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert (await sale.row(term)).cause == "it gave way"
    assert (await sale.payment()).status == Payment.FAILED


async def test_stream_that_broke_is_made_up_for_by_looking_up(sale, monkeypatch):
    """A worker that goes on: its stream tells nothing any more, but lnd is asked now and then."""
    monkeypatch.setattr(seller, "INVOICE_SECONDS", 0.0)
    term = await sale.contract()
    worker = sale.worker
    await worker.look()
    sale.lnd.break_streams()
    sale.lnd.refuse(Rpc.SUBSCRIBE_SINGLE_INVOICE, grpc.StatusCode.UNAVAILABLE, "away", times=1_000)
    await sale.pay(term)
    await worker.look()
    worker.close()
    assert await sale.states(term) == (TermState.HELD, LeaseState.PROVISIONING)


# lnd's trouble while a payment is held


async def test_settlement_whose_answer_was_lost_counts_once(sale):
    term = await sale.held()
    sale.lnd.lose_answer(Rpc.SETTLE_INVOICE)
    with pytest.raises(LndError):
        await sale.look_at_all()
    assert await sale.states(term) == (TermState.SETTLING, LeaseState.PROVISIONING)
    assert (await sale.payment()).status == Payment.SUCCEEDED
    await sale.look()
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.ACTIVE)
    lease = (await sale.row(term)).lease
    assert lease.expires_at - lease.starts_at == timedelta(seconds=SECONDS)
    assert types_of(sale.side.events) == ["lease"]


async def test_settlement_waits_for_an_lnd_that_is_away(sale):
    term = await sale.held()
    sale.lnd.refuse(Rpc.SETTLE_INVOICE, grpc.StatusCode.UNAVAILABLE, "away", times=2)
    for _ in range(2):
        with pytest.raises(LndError):
            await sale.look_at_all()
        assert await sale.states(term) == (TermState.SETTLING, LeaseState.PROVISIONING)
    await sale.look_at_all()
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.ACTIVE)


async def test_settlement_that_is_not_seen_yet_is_asked_for_again(sale):
    term = await sale.held()
    sale.lnd.refuse(Rpc.SETTLE_INVOICE, UNKNOWN, "no")
    await sale.look_at_all()
    assert await sale.states(term) == (TermState.SETTLING, LeaseState.PROVISIONING)
    await sale.look()
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.ACTIVE)


async def test_payment_that_timed_out_before_it_could_be_taken(sale):
    term = await sale.held()
    key = term.lease.wg_key
    sale.lnd.refuse(Rpc.SETTLE_INVOICE, grpc.StatusCode.UNAVAILABLE, "away")
    with pytest.raises(LndError):
        await sale.look_at_all()
    assert key in sale.peers
    sale.lnd.time_out(bytes(term.payment_hash))
    sale.side.take_sent()
    await sale.look()
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert types_of(sale.side.take_sent()) == ["refusal"]
    assert types_of(sale.side.events) == ["canceled"]
    assert (await sale.payment()).status == Payment.FAILED
    await sale.look_at_the_interface()
    assert key not in sale.peers
    assert not await sale.stored(lambda: selling.is_taken(key))


async def test_payment_that_lnd_forgot_while_it_was_to_be_taken(sale):
    term = await sale.held()
    sale.lnd.refuse(Rpc.SETTLE_INVOICE, UNKNOWN, "unable to locate invoice")
    sale.lnd.refuse(Rpc.LOOKUP_INVOICE, NOT_FOUND, "unable to locate invoice")
    await sale.look_at_all()
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)


async def test_lnd_that_has_settled_already_begins_the_lease(sale):
    """This database was restored from a copy in which the payment was only offered."""
    term = await sale.offered()
    await sale.pay(term)
    await sale.lnd.settle_invoice(bytes(term.secret))
    await sale.look()
    assert await sale.states(term) == (TermState.HELD, LeaseState.PROVISIONING)
    await sale.look_at_all()
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.ACTIVE)


# the tunnel does not come to be


async def late(sale: Sale, term: Term, seconds: int) -> Seller:
    """A worker, kept, that has looked before so many seconds passed since the payment was held."""
    worker = sale.worker
    await worker.look_at_the_interface()
    await worker.look()
    sale.clock.advance(seconds)
    await worker.look_at_the_interface()
    await worker.look()
    return worker


async def test_payment_is_given_back_when_the_tunnel_is_not_made_in_time(sale):
    sale.wireguard.wg.set_fails_with = "Unable to modify interface: No buffer space available"
    term = await sale.held()
    sale.side.take_sent()
    worker = await late(sale, term, seller.GIVE_BACK_SECONDS - 1)
    assert await sale.states(term) == (TermState.HELD, LeaseState.PROVISIONING)
    sale.clock.advance(1)
    await worker.look()
    # Its peer has to be seen gone before.
    assert await sale.states(term) == (TermState.CANCELING, LeaseState.CANCELED)
    assert not sale.payments[0].done()
    await worker.look_at_the_interface()
    await worker.look()
    worker.close()
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert (await sale.payment()).status == Payment.FAILED
    (message,) = sale.side.take_sent()
    assert body_of(message)["text"] == "the tunnel could not be made in time; nothing was taken"
    assert [told(event)["type"] for event in sale.side.events] == ["canceled"]


async def test_node_that_was_away_has_its_time_anew(sale):
    """The tunnel is made, and the payment taken, although it is held for long."""
    term = await sale.held()
    sale.clock.advance(10 * seller.GIVE_BACK_SECONDS)
    await sale.look()
    assert await sale.states(term) == (TermState.HELD, LeaseState.PROVISIONING)
    await sale.look_at_all()
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.ACTIVE)


async def test_money_goes_back_although_nobody_can_say_whether_the_peer_is_gone(sale):
    term = await sale.held()
    await sale.look_at_the_interface()
    sale.wireguard.wg.trouble = ProgramTimeout("/usr/bin/wg: did not end within 30 s")
    worker = await late(sale, term, seller.GIVE_BACK_SECONDS)
    assert await sale.states(term) == (TermState.CANCELING, LeaseState.CANCELED)
    await worker.look()
    assert not sale.payments[0].done()
    sale.clock.advance(seller.GIVE_BACK_BLINDLY_SECONDS - seller.GIVE_BACK_SECONDS)
    await worker.look()
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert (await sale.payment()).status == Payment.FAILED
    # The peer is still to be removed.
    assert term.lease.wg_key in sale.peers
    sale.wireguard.wg.trouble = None
    await worker.look_at_the_interface()
    worker.close()
    assert sale.peers == {}


async def test_key_that_cannot_be_set_is_given_back_at_once(sale):
    """The server's own key came in while the configuration named another."""
    term = await sale.held()
    await sale.database.write(lambda: Lease.objects.update(wg_key=SERVER_KEY))
    # Looking again and again would not help.
    assert await sale.look_at_the_interface() == seller.INTERFACE_SECONDS
    await sale.look_at_all()
    assert await sale.states(term) == (TermState.CANCELING, LeaseState.CANCELED)
    assert (await sale.row(term)).cause == "its peer is the server's own key"
    await sale.look_at_all()
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert (await sale.payment()).status == Payment.FAILED


async def canceling(sale: Sale) -> Term:
    """The peer is gone, and the payment is still to be given back."""
    term = await sale.held()
    await sale.database.write(
        lambda: selling.give_back(Term.objects.select_related("lease").get(pk=term.pk), "no tunnel")
    )
    await sale.look_at_the_interface()
    return term


async def test_giving_back_waits_for_an_lnd_that_is_away(sale):
    term = await canceling(sale)
    sale.lnd.stop()
    with pytest.raises(LndError):
        await sale.look()
    assert await sale.states(term) == (TermState.CANCELING, LeaseState.CANCELED)
    sale.lnd.start()
    await sale.look()
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert (await sale.payment()).status == Payment.FAILED


async def test_giving_back_whose_answer_was_lost(sale):
    term = await canceling(sale)
    sale.lnd.lose_answer(Rpc.CANCEL_INVOICE)
    with pytest.raises(LndError):
        await sale.look()
    assert (await sale.payment()).status == Payment.FAILED
    assert await sale.states(term) == (TermState.CANCELING, LeaseState.CANCELED)
    await sale.look()
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert types_of(sale.side.events) == ["canceled"]


async def test_payment_that_lnd_had_taken_is_noted_for_the_operator(sale):
    """This database was restored from a copy in which the payment was to be given back."""
    term = await canceling(sale)
    await sale.lnd.settle_invoice(bytes(term.secret))
    sale.side.take_sent()
    await sale.look()
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert "its operator has to give it back" in (await sale.row(term)).cause
    assert sale.side.take_sent() == []


async def test_payment_that_came_for_a_contract_which_gave_way_is_given_back(sale):
    """Paid after it was pushed out, and before lnd heard of that."""
    term = await sale.offered()
    await sale.database.write(
        lambda: selling.give_back(Term.objects.select_related("lease").get(pk=term.pk), "it gave way")
    )
    await sale.pay(term)
    await sale.look()
    assert await sale.states(term) == (TermState.CANCELED, LeaseState.CANCELED)
    assert (await sale.payment()).status == Payment.FAILED


async def test_refresh_that_is_paid_after_the_end_is_given_back(sale):
    lease = (await sale.sold()).lease
    refresh = await sale.refresh(lease)
    await sale.look()
    sale.clock.advance(SECONDS + SPARE_SECONDS)
    await sale.look_at_the_time()
    assert await sale.states(refresh) == (TermState.OFFERED, LeaseState.EXPIRED)
    await sale.pay(refresh)
    await sale.look()
    assert await sale.states(refresh) == (TermState.CANCELED, LeaseState.EXPIRED)
    assert (await sale.payment()).status == Payment.FAILED


async def test_refresh_that_is_held_when_the_end_comes_moves_it(sale):
    lease = (await sale.sold()).lease
    refresh = await sale.refresh(lease)
    await sale.look()
    await sale.pay(refresh)
    await sale.look()
    sale.clock.advance(SECONDS + SPARE_SECONDS)
    await sale.look_at_the_time()
    assert await sale.states(refresh) == (TermState.HELD, LeaseState.EXPIRING)
    assert lease.wg_key in sale.peers
    await sale.look_at_all()
    assert await sale.states(refresh) == (TermState.SETTLED, LeaseState.ACTIVE)


# the interface


async def shop_of(sale: Sale) -> tuple[str, str]:
    return await sale.stored(lambda: Shop.objects.values_list("interface", "problem").get())


async def test_shop_opens_with_its_interface(sale):
    operators = new_key_pair().public
    sale.wireguard.wg.interfaces[INTERFACE].set_peer(operators, [ipaddress.ip_network("192.168.9.0/24")])
    assert await sale.look_at_the_interface() == seller.INTERFACE_SECONDS
    assert await shop_of(sale) == (INTERFACE, "")
    assert await sale.stored(lambda: Shop.objects.get().foreign) == [operators]
    assert operators in sale.peers


async def test_price_that_buys_nothing_closes_the_shop(database):
    sale = Sale(database, vpn_settings(price_sat=0))
    await sale.look_at_the_interface()
    assert await shop_of(sale) == (INTERFACE, "vpn.price is 0")


async def test_node_that_means_to_sell_nothing(database):
    sale = Sale(database, vpn_settings(server_pub_key=""))
    await sale.look_at_the_interface()
    assert await shop_of(sale) == ("", "vpn.server_pub_key names no interface")
    assert sale.wireguard.wg.commands == []


def not_permitted(sale: Sale) -> None:
    sale.wireguard.wg.is_permitted = False


def hanging(sale: Sale) -> None:
    sale.wireguard.wg.trouble = ProgramTimeout("/usr/bin/wg: did not end within 30 s")


def without_interface(sale: Sale) -> None:
    sale.wireguard.wg.interfaces.clear()


@pytest.mark.parametrize(
    ("trouble", "text"),
    [
        (not_permitted, "is not permitted to use WireGuard"),
        (hanging, "did not end within 30 s"),
        (without_interface, "no WireGuard interface has the public key of vpn.server_pub_key"),
    ],
)
async def test_trouble_closes_the_shop_and_takes_no_payment(sale, trouble, text):
    term = await sale.held()
    trouble(sale)
    assert await sale.look_at_the_interface() == seller.INTERFACE_AGAIN_SECONDS
    interface, problem = await shop_of(sale)
    assert interface == ""
    assert text in problem
    await sale.look_at_all()
    assert await sale.states(term) == (TermState.HELD, LeaseState.PROVISIONING)
    assert not sale.payments[0].done()


async def test_interface_that_was_made_anew_gets_its_peers_again(sale):
    term = await sale.sold()
    without_interface(sale)
    await sale.look_at_the_interface()
    sale.wireguard.add_interface("wg7", public_key=SERVER_KEY)
    await sale.look_at_the_interface()
    assert await shop_of(sale) == ("wg7", "")
    assert list(sale.wireguard.wg.interfaces["wg7"].peers) == [term.lease.wg_key]


async def test_peer_whose_address_was_taken_gets_it_back(sale):
    term = await sale.sold()
    intruder = new_key_pair().public
    sale.wireguard.wg.interfaces[INTERFACE].set_peer(intruder, [ipaddress.ip_network("10.77.0.2/32")])
    await sale.look_at_the_interface()
    assert list(sale.peers) == [term.lease.wg_key]
    assert sale.peers[term.lease.wg_key].networks == [ipaddress.ip_network("10.77.0.2/32")]


async def test_counters_of_peers_are_stored(sale):
    term = await sale.sold()
    peer = sale.peers[term.lease.wg_key]
    peer.latest_handshake = timezone.now().replace(microsecond=0)
    peer.received_bytes, peer.sent_bytes = 1_000, 2_000
    await sale.look_at_the_interface()
    lease = (await sale.row(term)).lease
    assert (lease.received_bytes, lease.sent_bytes) == (1_000, 2_000)
    assert lease.last_handshake_at == peer.latest_handshake


async def test_buyers_are_told_of_another_endpoint(database, sale):
    term = await sale.sold()
    await sale.look_at_the_interface()
    sale.side.take_sent()
    moved = make_side(database, sale.lnd, vpn_settings(server_ip="198.51.100.7"), sale.clock)
    await Seller(moved.context, sale.wireguard).look_at_the_interface()
    (message,) = moved.sent
    assert body_of(message)["id"] == term.contract_id
    assert body_of(message)["endpoint"] == "198.51.100.7:51820"


# time and wishes


async def test_end_of_a_lease(sale):
    term = await sale.sold()
    key = term.lease.wg_key
    sale.side.take_sent()
    sale.clock.advance(SECONDS - selling.WARN_SECONDS + SPARE_SECONDS)
    await sale.look_at_the_time()
    assert types_of(sale.side.take_sent()) == ["expiring"]
    sale.clock.advance(selling.WARN_SECONDS)
    await sale.look_at_the_time()
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.EXPIRED)
    assert key in sale.peers
    assert sale.side.take_sent() == []
    await sale.look_at_the_interface()
    assert key not in sale.peers
    assert types_of(sale.side.take_sent()) == ["ended"]
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.QUARANTINED)
    assert await sale.stored(lambda: selling.is_taken(key))
    sale.clock.advance(sale.side.settings.quarantine_seconds)
    await sale.look_at_the_time()
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.FREED)
    assert not await sale.stored(lambda: selling.is_taken(key))


async def test_lease_is_over_when_its_peer_cannot_be_removed_but_not_told_so(sale):
    term = await sale.sold()
    sale.side.take_sent()
    sale.wireguard.wg.set_fails_with = "Unable to modify interface: Operation not permitted"
    sale.clock.advance(SECONDS + SPARE_SECONDS)
    await sale.look_at_the_time()
    assert await sale.look_at_the_interface() == seller.INTERFACE_AGAIN_SECONDS
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.EXPIRED)
    assert sale.side.take_sent() == []
    sale.wireguard.wg.set_fails_with = ""
    await sale.look_at_the_interface()
    assert types_of(sale.side.take_sent()) == ["ended"]


async def test_lease_ends_without_its_interface(sale):
    """No interface, no peers."""
    term = await sale.sold()
    without_interface(sale)
    sale.clock.advance(SECONDS + SPARE_SECONDS)
    await sale.look_at_the_time()
    await sale.look_at_the_interface()
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.QUARANTINED)


async def test_time_does_not_wait_for_lnd(sale):
    term = await sale.sold()
    sale.lnd.stop()
    sale.clock.advance(SECONDS + SPARE_SECONDS)
    await sale.look_at_the_time()
    await sale.look_at_the_interface()
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.QUARANTINED)
    assert sale.peers == {}


async def test_clock_that_jumps_ends_nothing(sale):
    term = await sale.sold()
    sale.clock.set_wrong(10 * 365 * 86_400)
    await sale.look_at_the_time()
    assert await sale.states(term) == (TermState.SETTLED, LeaseState.ACTIVE)


async def wish(sale: Sale, lease: Lease, action: LeaseWish.Action, seconds: int = 0) -> str:
    row = await sale.database.write(
        lambda: LeaseWish.objects.create(lease=lease, action=action, seconds=seconds, asked_by="admin")
    )
    await sale.look_at_the_time()
    return await sale.stored(lambda: LeaseWish.objects.get(pk=row.pk).outcome)


async def test_wishes_of_the_operator(sale):
    term = await sale.sold()
    lease = term.lease
    sale.side.take_sent()
    assert await wish(sale, lease, LeaseWish.Action.EXTEND, 50) == "done"
    assert (await sale.row(term)).lease.expires_at - lease.expires_at == timedelta(seconds=50)
    assert types_of(sale.side.take_sent()) == ["lease"]
    assert await wish(sale, lease, LeaseWish.Action.EXTEND, 11 * 366 * 86_400) == (
        "not done: the lease would last too long"
    )
    assert await wish(sale, lease, LeaseWish.Action.END) == "done"
    assert (await sale.row(term)).lease.state == LeaseState.EXPIRED
    for action in LeaseWish.Action:
        assert await wish(sale, lease, action) == "not done: the lease does not run"


async def test_old_quotes_and_answers_are_forgotten(sale):
    long_ago = timezone.now() - seller.KEPT_QUOTES - timedelta(hours=1)

    def rows() -> None:
        fields = {"buyer": BUYER, "price_sat": 1, "min_price_sat": 1, "max_price_sat": 1}
        Quote.objects.create(nonce="old", expires_at=long_ago, **fields)
        Quote.objects.create(nonce="used", expires_at=long_ago, used_at=long_ago, **fields)
        Quote.objects.create(nonce="new", expires_at=timezone.now(), **fields)
        Answered.objects.create(buyer=BUYER, created_at=long_ago)
        Answered.objects.create(buyer=BUYER)

    await sale.database.write(rows)
    await sale.look()
    kept = await sale.stored(lambda: set(Quote.objects.values_list("nonce", flat=True)))
    assert kept == {"used", "new"}
    assert await sale.stored(Answered.objects.count) == 1


# a server by its host name


NAME = "vpn.example.com"


def answering(*addresses: str):
    async def look_up(host: str):
        assert host == NAME
        if not addresses:
            raise OSError(None, "no answer")
        return [(2, 2, 17, "", (address, 0)) for address in addresses]

    return look_up


async def problem_of(sale: Sale, worker: Seller) -> str:
    await worker.look_at_the_interface()
    return (await sale.stored(Shop.objects.get)).problem


async def test_nothing_is_sold_before_the_servers_name_was_looked_up(database):
    sale = Sale(database, vpn_settings(server_ip=NAME))
    worker = sale.worker
    assert "has not been looked up" in await problem_of(sale, worker)
    await worker.look_up_the_endpoint(answering())
    assert "cannot be looked up" in await problem_of(sale, worker)
    await worker.look_up_the_endpoint(answering("192.0.2.1"))
    assert await problem_of(sale, worker) == ""
    # While the name cannot be looked up, what was found before goes on being told; also after a restart.
    for later in (worker, sale.worker):
        await later.look_up_the_endpoint(answering())
        assert await problem_of(sale, later) == ""


async def test_buyers_are_told_the_address_of_the_name_and_when_it_changes(database):
    sale = Sale(database, vpn_settings(server_ip=NAME))
    await sale.worker.look_up_the_endpoint(answering("192.0.2.1"))
    term = await sale.sold()
    worker = sale.worker
    assert await worker._context.database.read(lambda: selling.known_address(NAME)) == ipaddress.ip_address(
        "192.0.2.1"
    )
    told_lease = await sale.stored(
        lambda: body_of(selling.lease_message(term, sale.side.settings, reply_to=None))
    )
    assert told_lease["endpoint"] == "192.0.2.1:51820"
    await worker.look_up_the_endpoint(answering("192.0.2.1"))
    await worker.look_at_the_interface()
    sale.side.take_sent()
    moved = sale.worker
    await moved.look_up_the_endpoint(answering("192.0.2.7", "192.0.2.8"))
    await moved.look_at_the_interface()
    (message,) = sale.side.take_sent()
    assert body_of(message)["endpoint"] == "192.0.2.7:51820"


async def test_address_of_another_name_is_not_told(database):
    await database.write(lambda: selling.note_address("old.example.com", ipaddress.ip_address("192.0.2.9")))
    renamed = Sale(database, vpn_settings(server_ip=NAME))
    worker = renamed.worker
    await worker.look_up_the_endpoint(answering())
    assert "cannot be looked up" in await problem_of(renamed, worker)


@pytest.mark.parametrize(("drained", "named"), [(False, False), (True, True)])
async def test_invoice_names_private_channels_where_the_public_ones_cannot_receive_its_price(
    sale, drained, named
):
    network, buyer, own = sale.lnd.services.network, sale.buyer_lnd.node, sale.lnd.node
    network.open_channel(buyer, own, private=True)
    if drained:
        network.graph.of(own.id)[0].balances = [0, 10_000_000_000]
    term = await sale.contract()
    await sale.look()
    assert sale.lnd.invoice(bytes(term.payment_hash)).private is named
