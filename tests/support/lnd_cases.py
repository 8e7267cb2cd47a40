"""What the node relies on in LndClient: one set of cases, run on the double (tests/unit/lightning/test_client.py) and over
gRPC on the simulator (tests/integration/lightning/test_client.py).

Each case is an async function of a Target. It may be run on a network that other cases have used.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
import pytest

from lightning import signature
from lightning.client import LndClient, LndError, Trouble
from lightning.rpcs import Rpc
from protos.invoicesrpc import invoices_pb2
from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2

Invoice = lightning_pb2.Invoice
Payment = lightning_pb2.Payment
UNKNOWN = grpc.StatusCode.UNKNOWN
NOT_FOUND = grpc.StatusCode.NOT_FOUND
ALREADY_EXISTS = grpc.StatusCode.ALREADY_EXISTS
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Target(Protocol):
    """Two nodes with a channel between them."""

    buyer: LndClient
    seller: LndClient

    async def put(self, state: str) -> None:
        """The seller's lnd is `down`, `locked`, `starting` or `up` from now on."""


Case = Callable[[Target], Coroutine[Any, Any, None]]
CASES: list[Case] = []


def case(function: Case) -> Case:
    CASES.append(function)
    return function


async def refused(call: Awaitable) -> LndError:
    with pytest.raises(LndError) as caught:
        await call
    return caught.value


def facts(error: LndError) -> tuple[Trouble, grpc.StatusCode | None, str]:
    return error.trouble, error.code, error.details


def send_request(payment_request: str, **fields: Any) -> router_pb2.SendPaymentRequest:
    return router_pb2.SendPaymentRequest(
        payment_request=payment_request,
        fee_limit_msat=10_000,
        timeout_seconds=60,
        no_inflight_updates=True,
        **fields,
    )


def hold_request(payment_hash: bytes) -> invoices_pb2.AddHoldInvoiceRequest:
    """Over 100 sat."""
    return invoices_pb2.AddHoldInvoiceRequest(
        memo="held", hash=payment_hash, value=100, expiry=3600, cltv_expiry=80
    )


@asynccontextmanager
async def held(target: Target) -> AsyncIterator[tuple[bytes, bytes, asyncio.Task, AsyncIterator[Invoice]]]:
    """A hold invoice of the seller that the buyer has paid: preimage, hash, the payment and the invoice's stream."""
    preimage = os.urandom(32)
    payment_hash = hashlib.sha256(preimage).digest()
    added = await target.seller.add_hold_invoice(hold_request(payment_hash))
    stream = target.seller.subscribe_single_invoice(payment_hash)
    assert (await anext(stream)).state == Invoice.OPEN
    paying = asyncio.create_task(target.buyer.send_payment(send_request(added.payment_request)))
    assert (await anext(stream)).state == Invoice.ACCEPTED
    try:
        yield preimage, payment_hash, paying, stream
    finally:
        paying.cancel()
        await _close(stream)


@case
async def info_and_channels(target: Target) -> None:
    seller = (await target.seller.get_info()).identity_pubkey
    (channel,) = (await target.buyer.list_channels()).channels
    assert channel.active
    assert channel.remote_pubkey == seller
    edge = await target.buyer.channel_info(channel.chan_id)
    assert seller in (edge.node1_pub, edge.node2_pub)
    assert (await target.buyer.node_info(bytes.fromhex(seller))).node.pub_key == seller
    unknown = await refused(target.buyer.channel_info(1))
    assert facts(unknown) == (Trouble.REFUSED, NOT_FOUND, "edge not found")


@case
async def admin_macaroon_permits_all(target: Target) -> None:
    assert await target.buyer.not_permitted(Rpc) == []


@case
async def signature_is_the_nodes_own(target: Target) -> None:
    pubkey = bytes.fromhex((await target.seller.get_info()).identity_pubkey)
    text = await target.seller.sign_message(b"message")
    assert text == await target.seller.sign_message(b"message")
    assert signature.recover(message=b"message", text=text) == pubkey
    nothing = await refused(target.seller.sign_message(b""))
    assert facts(nothing) == (Trouble.REFUSED, UNKNOWN, "need a message to sign")


@case
async def invoice_is_paid_once(target: Target) -> None:
    added = await target.seller.add_invoice(Invoice(memo="tea", value=21, expiry=600))
    asked = await target.buyer.decode_payment_request(added.payment_request)
    assert asked.destination == (await target.seller.get_info()).identity_pubkey
    assert (asked.payment_hash, asked.num_msat) == (added.r_hash.hex(), 21_000)
    assert (asked.description, asked.expiry) == ("tea", 600)

    paid = await target.buyer.send_payment(send_request(added.payment_request))
    assert (paid.status, paid.value_msat, paid.fee_msat) == (Payment.SUCCEEDED, 21_000, 0)
    assert hashlib.sha256(bytes.fromhex(paid.payment_preimage)).digest() == added.r_hash
    tracked = await target.buyer.track_payment(added.r_hash)
    assert (tracked.status, tracked.payment_preimage) == (Payment.SUCCEEDED, paid.payment_preimage)
    invoice = await target.seller.lookup_invoice(added.r_hash)
    assert (invoice.state, invoice.amt_paid_msat, invoice.is_keysend) == (Invoice.SETTLED, 21_000, False)

    again = await refused(target.buyer.send_payment(send_request(added.payment_request)))
    assert facts(again) == (Trouble.REFUSED, ALREADY_EXISTS, "invoice is already paid")


@case
async def invoice_without_amount_is_paid_with_what_the_payer_chooses(target: Target) -> None:
    added = await target.seller.add_invoice(Invoice())
    paid = await target.buyer.send_payment(send_request(added.payment_request, amt_msat=5_000))
    assert (paid.status, paid.value_msat) == (Payment.SUCCEEDED, 5_000)
    other = await target.seller.add_invoice(Invoice())
    error = await refused(target.buyer.send_payment(send_request(other.payment_request)))
    assert error.details == "amount must be specified when paying a zero amount invoice"


@case
async def what_lnd_never_heard_of(target: Target) -> None:
    await target.seller.add_invoice(Invoice(value=1))
    unknown = os.urandom(32)
    error = await refused(target.seller.lookup_invoice(unknown))
    assert facts(error) == (Trouble.REFUSED, NOT_FOUND, "unable to locate invoice")
    error = await refused(target.buyer.track_payment(unknown))
    assert facts(error) == (Trouble.REFUSED, NOT_FOUND, "payment isn't initiated")
    for call in (target.seller.settle_invoice(unknown), target.seller.cancel_invoice(unknown)):
        assert facts(await refused(call)) == (Trouble.REFUSED, UNKNOWN, "unable to locate invoice")
    error = await refused(target.buyer.decode_payment_request("lnsb1nothing"))
    assert (error.trouble, error.code) == (Trouble.REFUSED, UNKNOWN)


@case
async def invoices_are_listed_by_their_add_index(target: Target) -> None:
    added = [await target.seller.add_invoice(Invoice(value=1)) for _ in range(3)]
    request = lightning_pb2.ListInvoiceRequest(index_offset=added[0].add_index - 1, num_max_invoices=2)
    listed = await target.seller.list_invoices(request)
    assert [invoice.r_hash for invoice in listed.invoices] == [invoice.r_hash for invoice in added[:2]]
    assert listed.last_index_offset == added[1].add_index


@case
async def stream_tells_new_and_settled_invoices(target: Target) -> None:
    stream = target.seller.subscribe_invoices()
    reading = asyncio.ensure_future(anext(stream))
    # Nothing says when lnd has registered the subscriber.
    while not reading.done():
        await target.seller.add_invoice(Invoice(memo="marker", value=1))
        await asyncio.wait({reading}, timeout=0.05)
    added = await target.seller.add_invoice(Invoice(value=2))
    await target.buyer.send_payment(send_request(added.payment_request))
    states = []
    async for invoice in stream:
        if invoice.r_hash == added.r_hash:
            states.append(invoice.state)
        if len(states) == 2:
            break
    await _close(stream)
    assert states == [Invoice.OPEN, Invoice.SETTLED]


@case
async def held_payment_is_taken(target: Target) -> None:
    async with held(target) as (preimage, payment_hash, paying, stream):
        assert (await target.seller.lookup_invoice(payment_hash)).state == Invoice.ACCEPTED
        assert not paying.done()
        await target.seller.settle_invoice(preimage)
        await target.seller.settle_invoice(preimage)
        payment = await paying
        assert (payment.status, payment.payment_preimage) == (Payment.SUCCEEDED, preimage.hex())
        settled = await anext(stream)
        assert settled.state == Invoice.SETTLED
        assert settled.settle_date > 0
        error = await refused(target.seller.cancel_invoice(payment_hash))
        assert facts(error) == (Trouble.REFUSED, UNKNOWN, "invoice already settled")


@case
async def held_payment_is_given_back(target: Target) -> None:
    async with held(target) as (preimage, payment_hash, paying, stream):
        await target.seller.cancel_invoice(payment_hash)
        await target.seller.cancel_invoice(payment_hash)
        payment = await paying
        assert payment.status == Payment.FAILED
        assert payment.failure_reason == lightning_pb2.FAILURE_REASON_INCORRECT_PAYMENT_DETAILS
        assert (await anext(stream)).state == Invoice.CANCELED
        # lnd ends the stream of a final invoice, which is an end like any other.
        assert (await refused(stream.__anext__())).trouble is Trouble.AWAY
        error = await refused(target.seller.settle_invoice(preimage))
        assert facts(error) == (Trouble.REFUSED, UNKNOWN, "invoice already canceled")


@case
async def payment_goes_on_without_its_caller(target: Target) -> None:
    async with held(target) as (preimage, payment_hash, paying, _):
        paying.cancel()
        await asyncio.wait({paying})
        tracking = asyncio.create_task(target.buyer.track_payment(payment_hash))
        await target.seller.settle_invoice(preimage)
        assert (await tracking).status == Payment.SUCCEEDED


@case
async def hold_invoice_that_nobody_paid(target: Target) -> None:
    preimage = os.urandom(32)
    request = hold_request(hashlib.sha256(preimage).digest())
    added = await target.seller.add_hold_invoice(request)
    asked = await target.buyer.decode_payment_request(added.payment_request)
    assert (asked.payment_hash, asked.cltv_expiry) == (request.hash.hex(), 80)
    error = await refused(target.seller.settle_invoice(preimage))
    assert facts(error) == (Trouble.REFUSED, UNKNOWN, "invoice still open")
    error = await refused(target.seller.add_hold_invoice(request))
    assert facts(error) == (Trouble.REFUSED, UNKNOWN, "invoice with payment hash already exists")
    await target.seller.cancel_invoice(request.hash)
    assert (await target.seller.lookup_invoice(request.hash)).state == Invoice.CANCELED


@case
async def lnd_that_is_away(target: Target) -> None:
    stream = target.seller.subscribe_single_invoice((await target.seller.add_invoice(Invoice())).r_hash)
    await anext(stream)
    await target.put("down")
    try:
        assert (await refused(stream.__anext__())).trouble is Trouble.AWAY
        error = await refused(target.seller.get_info())
        assert (error.trouble, error.code) == (Trouble.AWAY, UNAVAILABLE)
        assert error.trouble.passes
    finally:
        await target.put("up")
    await _answers(target.seller)


@case
async def lnd_that_is_locked_or_starting(target: Target) -> None:
    for state, trouble in (("locked", Trouble.LOCKED), ("starting", Trouble.STARTING)):
        await target.put(state)
        try:
            assert (await refused(target.seller.get_info())).trouble is trouble
        finally:
            await target.put("up")
        await _answers(target.seller)


@case
async def payment_over_the_balance(target: Target) -> None:
    added = await target.seller.add_invoice(Invoice(value=9_000_000))
    payment = await target.buyer.send_payment(send_request(added.payment_request))
    assert payment.status == Payment.FAILED
    assert payment.failure_reason == lightning_pb2.FAILURE_REASON_INSUFFICIENT_BALANCE


async def _close(stream: Any) -> None:
    await stream.aclose()


async def _answers(client: LndClient) -> None:
    """A channel whose server was away takes a moment to notice that it is back."""
    while True:
        try:
            await client.get_info()
            return
        except LndError as error:
            assert error.trouble.passes, error
            await asyncio.sleep(0.05)
