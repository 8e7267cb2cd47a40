"""LndClient on a double of lnd, which thereby keeps to what the simulator and a real lnd do; and the faults of the double."""

import asyncio

import grpc
import pytest

from lightning.client import LndClient, LndError, Trouble
from lightning.rpcs import Rpc
from protos.lnrpc import lightning_pb2
from tests.support import lnd_cases
from tests.support.fake_lnd import FakeLnd, connected
from tests.support.lnd_cases import hold_request, refused, send_request
from tests.support.waiting import GUARD_SECONDS

Invoice = lightning_pb2.Invoice
Payment = lightning_pb2.Payment


class Pair:
    """A Target."""

    def __init__(self) -> None:
        self.buyer, self.seller = connected("buyer", "seller")

    async def put(self, state: str) -> None:
        {
            "down": self.seller.stop,
            "locked": self.seller.lock,
            "starting": self.seller.begin_to_start,
            "up": self.seller.start,
        }[state]()


@pytest.mark.parametrize("case", lnd_cases.CASES, ids=lambda case: case.__name__)
async def test_case(case):
    await asyncio.wait_for(case(Pair()), GUARD_SECONDS)


@pytest.fixture
def pair() -> tuple[FakeLnd, FakeLnd]:
    buyer, seller = connected("buyer", "seller")
    return buyer, seller


async def test_refused_call_does_nothing_as_often_as_told(pair):
    _, seller = pair
    seller.refuse(Rpc.ADD_INVOICE, grpc.StatusCode.UNKNOWN, "no invoice now", times=2)
    for _ in range(2):
        error = await refused(seller.add_invoice(Invoice(value=1)))
        assert (error.trouble, error.details) == (Trouble.REFUSED, "no invoice now")
    assert (await seller.add_invoice(Invoice(value=1))).add_index == 1
    assert [request.value for request in seller.requests(Rpc.ADD_INVOICE)] == [1, 1, 1]


async def test_call_whose_answer_is_lost_is_done(pair):
    _, seller = pair
    seller.lose_answer(Rpc.ADD_HOLD_INVOICE)
    error = await refused(seller.add_hold_invoice(hold_request(b"\1" * 32)))
    assert error.trouble is Trouble.AWAY
    assert (await seller.lookup_invoice(b"\1" * 32)).state == Invoice.OPEN


async def test_payment_goes_on_when_its_stream_breaks(pair):
    buyer, seller = pair
    seller.hold_payments_to()
    added = await seller.add_invoice(Invoice(value=3))
    paying = asyncio.create_task(buyer.send_payment(send_request(added.payment_request)))
    while not buyer.requests(Rpc.SEND_PAYMENT):
        await asyncio.sleep(0)
    buyer.break_streams()
    with pytest.raises(LndError):
        await paying
    before_msat = buyer.local_balance_msat()
    seller.release_payments_to()
    assert (await buyer.track_payment(added.r_hash)).status == Payment.SUCCEEDED
    assert seller.invoice(added.r_hash).state == Invoice.SETTLED
    # What was in flight had left the balance already.
    assert buyer.local_balance_msat() == before_msat


async def test_payment_fails_as_told(pair):
    buyer, seller = pair
    seller.fail_payments_to("NO_ROUTE")
    added = await seller.add_invoice(Invoice(value=3))
    payment = await buyer.send_payment(send_request(added.payment_request))
    assert (payment.status, payment.failure_reason) == (
        Payment.FAILED,
        lightning_pb2.FAILURE_REASON_NO_ROUTE,
    )
    assert (await buyer.send_payment(send_request(added.payment_request))).status == Payment.SUCCEEDED


async def test_invoice_that_nobody_paid_expires_and_is_refused(pair):
    buyer, seller = pair
    added = await seller.add_hold_invoice(hold_request(b"\1" * 32))
    seller.expire(b"\1" * 32)
    assert (await seller.lookup_invoice(b"\1" * 32)).state == Invoice.CANCELED
    payment = await buyer.send_payment(send_request(added.payment_request))
    assert payment.failure_reason == lightning_pb2.FAILURE_REASON_INCORRECT_PAYMENT_DETAILS


async def test_wrong_macaroon_is_refused_as_by_lnd(pair):
    _, seller = pair
    stranger = LndClient(
        host="127.0.0.1",
        port=10009,
        tls_cert=None,
        macaroon_hex="00" * len(seller.server.macaroon),
        channel=seller.server.channel(),
    )
    assert (await refused(stranger.get_info())).trouble is Trouble.MACAROON
