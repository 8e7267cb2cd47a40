"""The service lightning: invoices made, paid and looked up."""

import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc

from invoices.issuing import Issued
from invoices.models import InvoicePayment
from invoices.paying import OtherInvoiceError, OtherPayer
from lightning.bech32 import checked_payment_request
from lightning.client import LndError, Trouble
from messaging.idempotency import Claim
from messaging.times import rfc3339
from nodeapi.calling import current_call
from nodeapi.checks import require_permitted, require_spendable
from nodeapi.engine import Engine
from nodeapi.errors import ApiError, invalid, shown_sat
from nodeapi.models import AuditEntry
from nodeapi.serializers_invoices import MAX_WAIT_SECONDS
from protos.lnrpc import lightning_pb2

_STATUS: dict[str, grpc.StatusCode] = {
    InvoicePayment.Failure.REFUSED: grpc.StatusCode.FAILED_PRECONDITION,
    InvoicePayment.Failure.DEAD: grpc.StatusCode.FAILED_PRECONDITION,
    InvoicePayment.Failure.BALANCE: grpc.StatusCode.FAILED_PRECONDITION,
    InvoicePayment.Failure.ROUTE: grpc.StatusCode.UNAVAILABLE,
    InvoicePayment.Failure.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}


async def generate_invoice(
    doors, *, amount: int, memo: str, expires_in: int | None, private: bool, claim: Claim | None
) -> dict[str, Any]:
    """Makes an invoice for `amount` sat, or any amount (0)."""
    engine = doors.engine
    if issued := await engine.issuer.issued(claim):
        return _issued(issued)
    try:
        issued = await engine.issuer.issue_once(
            claim, amount_sat=amount, memo=memo, expires_seconds=expires_in, private=private
        )
    except LndError as error:
        raise _lnd_error(error, "amount") from None
    if call := current_call():
        call.outcome = AuditEntry.Outcome.DONE
    return _issued(issued)


def _issued(issued: Issued) -> dict[str, Any]:
    return {
        "invoice": issued.payment_request,
        "id": str(issued.id),
        "payment_hash": issued.payment_hash.hex(),
        "expires_at": rfc3339(issued.expires_at),
    }


async def pay_invoice(
    doors,
    *,
    invoice: str,
    amount: int,
    timeout: int | None,  # noqa: ASYNC109 (the field of the request)
    claim: Claim | None,
) -> dict[str, Any]:
    """Pays an invoice and waits for the result. What was begun or paid before is not looked at again, only waited for."""
    engine = doors.engine
    text, request = await _read(engine, invoice)
    payment = await _begun(engine, request, text, amount, claim)
    wait_seconds = timeout or MAX_WAIT_SECONDS
    try:
        payment = await engine.payer.end_of(payment, seconds=wait_seconds)
    except OtherPayer as error:
        raise ApiError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"invoice: was begun to be paid by the lnd {error}, which this node no longer works with: look there",
        ) from None
    result = _result(payment, wait_seconds)
    if call := current_call():
        call.outcome = AuditEntry.Outcome.PAID
    return result


async def _begun(
    engine: Engine, request: lightning_pb2.PayReq, text: str, amount_sat: int, claim: Claim | None
) -> InvoicePayment:
    """The payment of this invoice, begun now or before."""
    try:
        is_same = partial(
            engine.payer.require_same, request=request, text=text, amount_msat=amount_sat * 1000
        )
        known = await engine.payer.known(bytes.fromhex(request.payment_hash), claim, is_same)
        if known:
            return known
        amount_msat = _amount_msat(request, amount_sat)
        _require_payable(engine, request, amount_msat)
        return await engine.payer.pay(request, text=text, amount_msat=amount_msat, claim=claim)
    except OtherInvoiceError as error:
        raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, f"invoice: {error}") from None
    except LndError as error:
        raise _lnd_error(error, "invoice") from None


async def check_invoice(doors, *, invoice: str) -> dict[str, Any]:
    """What became of an invoice of this node."""
    engine = doors.engine
    _, request = await _read(engine, invoice)
    not_ours = ApiError(grpc.StatusCode.NOT_FOUND, "invoice: is not of this node")
    # Another node may ask for a payment of the same hash.
    if request.destination != engine.own_pubkey.hex():
        raise not_ours
    try:
        found = await engine.client.lookup_invoice(bytes.fromhex(request.payment_hash))
    except LndError as error:
        raise not_ours if error.code is grpc.StatusCode.NOT_FOUND else _lnd_error(error, "invoice") from None
    await engine.issuer.take(found)
    paid = found.state == lightning_pb2.Invoice.SETTLED
    return {
        "paid": paid,
        "state": lightning_pb2.Invoice.InvoiceState.Name(found.state).lower(),
        "amount": found.value,
        "amount_paid_msat": found.amt_paid_msat if paid else 0,
        "payment_hash": found.r_hash.hex(),
        "memo": found.memo,
        "expires_at": _moment(found.creation_date + found.expiry),
        "settled_at": _moment(found.settle_date) if paid else "",
    }


async def _read(engine: Engine, invoice: str) -> tuple[str, lightning_pb2.PayReq]:
    """The payment request as text, and what is in it. ApiError when it is none of this network."""
    try:
        text = checked_payment_request(invoice, network=engine.lnd.network)
        return text, await engine.client.decode_payment_request(text)
    except ValueError as error:
        raise invalid("invoice", str(error)) from None
    except LndError as error:
        raise _lnd_error(error, "invoice") from None


def _amount_msat(request: lightning_pb2.PayReq, amount_sat: int) -> int:
    if not request.num_msat and not amount_sat:
        raise invalid("amount", "is missing: the invoice leaves the amount open, so give it in sat")
    if request.num_msat and amount_sat and request.num_msat != amount_sat * 1000:
        raise invalid(
            "amount",
            f"is {amount_sat} sat, but the invoice asks for {shown_sat(request.num_msat)}; leave it out",
        )
    return request.num_msat or amount_sat * 1000


def _require_payable(engine: Engine, request: lightning_pb2.PayReq, amount_msat: int) -> None:
    if request.destination == engine.own_pubkey.hex():
        raise invalid("invoice", "is this node's own: lnd does not pay itself")
    until = request.timestamp + request.expiry
    if until < time.time():
        raise invalid("invoice", f"expired at {_moment(until)}")
    field = "invoice" if request.num_msat else "amount"
    require_permitted(engine, field, amount_msat)
    require_spendable(engine, field, amount_msat)


def _result(payment: InvoicePayment, waited_seconds: int) -> dict[str, Any]:
    if payment.state == InvoicePayment.State.IN_FLIGHT:
        why = f" ({payment.cause})" if payment.cause else ""
        raise ApiError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"invoice: the payment is still under way after {waited_seconds} s{why}; the same call again waits for the "
            "same payment",
        )
    if payment.state == InvoicePayment.State.FAILED:
        code = _STATUS.get(payment.failure, grpc.StatusCode.UNAVAILABLE)
        raise ApiError(code, f"invoice: not paid: {payment.cause}")
    return {
        "preimage": bytes(payment.preimage).hex(),
        "payment_hash": bytes(payment.payment_hash).hex(),
        "amount_msat": payment.amount_msat,
        "fee_msat": payment.fee_msat,
        "payee": payment.payee,
    }


def _lnd_error(error: LndError, field: str) -> ApiError:
    """What lnd refused for is in the request; anything else is lnd's trouble."""
    if error.code is grpc.StatusCode.UNKNOWN and error.trouble is Trouble.REFUSED:
        return invalid(field, f"lnd refuses it: {error.details[:200]}")
    return ApiError(grpc.StatusCode.UNAVAILABLE, str(error))


def _moment(seconds: int) -> str:
    """A time that a stranger wrote may be beyond all calendars."""
    try:
        return rfc3339(datetime.fromtimestamp(seconds, UTC))
    except (OverflowError, OSError, ValueError):
        return ""
