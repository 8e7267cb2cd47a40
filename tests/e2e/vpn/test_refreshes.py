"""Refreshes whose answers come late, or in another order than they were asked for: what was paid for stays. The seller is
played by the test; no interface is needed.
"""

import asyncio
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from lightning.simulator.process import SimulatedNetwork
from protos.invoicesrpc import invoices_pb2
from protos.lnrpc import lightning_pb2
from tests.support.databases import execute
from tests.support.lnd_rpc import BareClient
from tests.support.nodes import Node
from tests.support.streams import WebsocketStream
from tests.support.vpn_market import (
    REFRESH,
    Stranger,
    answer,
    as_stored,
    bought,
    contract_with,
    file_of,
    lease_body,
    moment,
    of_lease,
    one,
    post,
    running_network,
    told,
)
from vpn.keys import new_key_pair

HOUR_SECONDS = 3_600
FAR_FUTURE = "9999-12-31T23:59:59Z"


@pytest.fixture(scope="module")
def lnds(tmp_path_factory) -> Iterator[SimulatedNetwork]:
    with running_network(tmp_path_factory.mktemp("network"), ["mallory", "buyer"]) as lnds:
        yield lnds


@pytest.fixture(scope="module")
def mallory(lnds: SimulatedNetwork) -> Stranger:
    return Stranger(lnds.nodes["mallory"])


@pytest.fixture(scope="module")
def buyer(lnds: SimulatedNetwork, tmp_path_factory) -> Iterator[Node]:
    with Node(lnds.nodes["buyer"], tmp_path_factory.mktemp("buyer")) as buyer:
        yield buyer


@dataclass
class Sold:
    """A lease that mallory has sold for an hour, as she tells of it."""

    mallory: Stranger
    buyer: Node
    id: str
    body: dict

    def ends(self, hours: int) -> str:
        """The end of the lease that so many hours were paid for."""
        begins = datetime.fromisoformat(self.body["expires_at"]) - timedelta(hours=1)
        return (begins + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def ask(self) -> str:
        """A refresh by an hour; its id, once mallory has it."""
        nonce = bought(self.buyer, self.id)["nonce"]
        refresh_id = post(
            self.buyer, REFRESH, pubkey=self.mallory.pubkey, nonce=nonce, price=str(HOUR_SECONDS)
        )
        self.mallory.heard(lambda body: body["type"] == "refresh" and body["nonce"] == nonce)
        return refresh_id

    def offer(self, refresh_id: str, payment_request: str) -> None:
        self.mallory.say(self.buyer, refresh_id, type="invoice", payment_request=payment_request)

    def refresh(self) -> str:
        """One that is asked for and paid; its id."""
        refresh_id = self.ask()
        self.offer(refresh_id, self.mallory.invoice(HOUR_SECONDS))
        wait_for(self.buyer, refresh_id, "paid")
        return refresh_id

    def tell(self, call_id: str, **fields) -> None:
        """The `lease` that answers this contract or refresh."""
        paid_for = {"payment_hash": payment_hash(self.buyer, call_id), "seconds": HOUR_SECONDS}
        self.mallory.say(self.buyer, call_id, **self.body | paid_for | fields)

    def row(self) -> dict:
        return bought(self.buyer, self.id)

    def has_file(self) -> bool:
        return file_of(self.buyer, self.id).status == 200


def state_of(buyer: Node, call_id: str) -> str:
    return one(buyer, f"SELECT state FROM vpn_purchase WHERE id = '{as_stored(buyer, call_id)}'")


def wait_for(buyer: Node, call_id: str, state: str) -> None:
    buyer.wait_until(lambda: state_of(buyer, call_id) == state)


def payment_hash(buyer: Node, call_id: str) -> str:
    return bytes(
        one(buyer, f"SELECT payment_hash FROM vpn_purchase WHERE id = '{as_stored(buyer, call_id)}'")
    ).hex()


def sell(mallory: Stranger, buyer: Node, **fields) -> Sold:
    contract_id, _ = contract_with(mallory, buyer, HOUR_SECONDS)
    mallory.say(buyer, contract_id, type="invoice", payment_request=mallory.invoice(HOUR_SECONDS))
    wait_for(buyer, contract_id, "paid")
    key = new_key_pair().public
    body = lease_body(contract_id, payment_hash(buyer, contract_id), HOUR_SECONDS, key) | fields
    sold = Sold(mallory, buyer, contract_id, body)
    with WebsocketStream(buyer) as stream:
        sold.tell(contract_id)
        answer(stream, contract_id, "lease")
    return sold


def end_at(buyer: Node, lease_ids: list[str], seconds_from_now: float) -> None:
    """As if the time had come so near to their ends."""
    ids = ", ".join(f"'{as_stored(buyer, lease_id)}'" for lease_id in lease_ids)
    execute(
        buyer.database_url,
        f"UPDATE vpn_purchasedlease SET expires_at = '{moment(buyer, seconds_from_now)}' WHERE id IN ({ids})",
    )


def hold(mallory: Stranger, amount_sat: int) -> tuple[str, bytes]:
    """A hold invoice, and the preimage that settles it."""
    preimage = os.urandom(32)

    async def add() -> str:
        async with BareClient(mallory.lnd) as client:
            asked = invoices_pb2.AddHoldInvoiceRequest(
                hash=hashlib.sha256(preimage).digest(), value=amount_sat, expiry=120, cltv_expiry=80
            )
            return (await client.invoices.AddHoldInvoice(asked)).payment_request

    return asyncio.run(add()), preimage


def settle(mallory: Stranger, preimage: bytes) -> None:
    asked = lightning_pb2.PaymentHash(r_hash=hashlib.sha256(preimage).digest())

    async def take() -> None:
        async with BareClient(mallory.lnd) as client:
            # The buyer notes that it pays before its lnd hears of it.
            while (await client.lightning.LookupInvoice(asked)).state == lightning_pb2.Invoice.OPEN:
                await asyncio.sleep(0.05)
            await client.invoices.SettleInvoice(invoices_pb2.SettleInvoiceMsg(preimage=preimage))

    asyncio.run(take())


def test_refreshes_that_are_told_in_another_order_give_all_that_was_paid_for(mallory, buyer):
    lease = sell(mallory, buyer)
    first, second = lease.refresh(), lease.refresh()
    with WebsocketStream(buyer) as stream:
        lease.tell(second, expires_at=lease.ends(3))
        assert told(answer(stream, second, "lease"))["expires_at"] == lease.ends(3)
        lease.tell(first, expires_at=lease.ends(2))
        event = told(answer(stream, first, "lease"))
        wait_for(buyer, first, "done")
    assert event["expires_at"] == lease.row()["expiresAt"] == lease.ends(3)
    assert one(buyer, "SELECT COUNT(*) FROM vpn_purchase WHERE cause LIKE 'less_time%'") == 0


def test_a_refresh_that_gives_less_than_was_paid_for_is_told(mallory, buyer):
    lease = sell(mallory, buyer)
    with WebsocketStream(buyer) as stream:
        refresh_id = lease.refresh()
        lease.tell(refresh_id, expires_at=lease.ends(1))
        assert told(answer(stream, refresh_id, "refusal"))["reason"] == "less_time"


def test_a_warning_from_before_a_refresh_is_passed_over(mallory, buyer):
    lease = sell(mallory, buyer)
    with WebsocketStream(buyer) as stream:
        refresh_id = lease.refresh()
        lease.tell(refresh_id, expires_at=lease.ends(2))
        answer(stream, refresh_id, "lease")
        for hours in (1, 2):
            mallory.say(buyer, type="expiring", id=lease.id, expires_at=lease.ends(hours))
        assert told(stream.until(of_lease("expiring", lease.id))[-1])["expires_at"] == lease.ends(2)
    buyer.wait_until(lambda: '"reason": "was_prolonged"' in buyer.log)


def test_a_lease_does_not_end_while_a_refresh_of_it_is_being_paid(mallory, buyer):
    """The seller holds the money at the end, and takes it later."""
    lease, other = sell(mallory, buyer), sell(mallory, buyer)
    refresh_id = lease.ask()
    payment_request, preimage = hold(mallory, HOUR_SECONDS)
    lease.offer(refresh_id, payment_request)
    wait_for(buyer, refresh_id, "paying")
    end_at(buyer, [lease.id, other.id], -60)
    # Both were looked at when one of them has ended.
    buyer.wait_until(lambda: other.row()["state"] == "ended")
    assert lease.row()["state"] == "active"
    assert lease.has_file()
    settle(mallory, preimage)
    wait_for(buyer, refresh_id, "paid")
    with WebsocketStream(buyer) as stream:
        lease.tell(refresh_id, expires_at=lease.ends(2))
        answer(stream, refresh_id, "lease")
    assert lease.row()["expiresAt"] == lease.ends(2)
    assert lease.has_file()


def test_a_refresh_of_a_lease_that_has_ended_is_not_paid(mallory, buyer):
    lease = sell(mallory, buyer)
    refresh_id = lease.ask()
    end_at(buyer, [lease.id], -60)
    buyer.wait_until(lambda: lease.row()["state"] == "ended")
    paid_sat = mallory.paid_sat()
    with WebsocketStream(buyer) as stream:
        lease.offer(refresh_id, mallory.invoice(HOUR_SECONDS))
        assert told(answer(stream, refresh_id, "refusal"))["reason"] == "lease_over"
    assert (state_of(buyer, refresh_id), mallory.paid_sat()) == ("refused", paid_sat)


def test_a_refresh_that_is_never_told_of_is_not_asked_for_without_end(mallory, buyer):
    lease = sell(mallory, buyer)
    refresh_id = lease.refresh()
    # The hour that it bought is over too.
    end_at(buyer, [lease.id], -HOUR_SECONDS - 60)
    mine = f"WHERE id = '{as_stored(buyer, refresh_id)}'"
    with WebsocketStream(buyer) as stream:
        execute(buyer.database_url, f"UPDATE vpn_purchase SET ask_again_at = '{moment(buyer, -1)}' {mine}")
        assert told(answer(stream, refresh_id, "refusal"))["reason"] == "no_lease"
        stream.until(of_lease("ended", lease.id))
    assert state_of(buyer, refresh_id) == "refused"


def test_a_short_lease_whose_money_was_held_for_long_is_asked_for_until_its_end(mallory, buyer):
    """Its time runs from the settlement, not from the contract."""
    contract_id, _ = contract_with(mallory, buyer)
    mallory.say(buyer, contract_id, type="invoice", payment_request=mallory.invoice(60))
    wait_for(buyer, contract_id, "paid")
    mine = f"WHERE id = '{as_stored(buyer, contract_id)}'"
    execute(
        buyer.database_url,
        f"UPDATE vpn_purchase SET created_at = '{moment(buyer, -240)}', ask_again_at = '{moment(buyer, -1)}' {mine}",
    )
    mallory.heard(lambda body: body["type"] == "lease_request" and body["id"] == contract_id)
    assert state_of(buyer, contract_id) == "paid"


def test_an_end_beyond_all_dates_does_no_harm(mallory, buyer):
    lease, other = sell(mallory, buyer, expires_at=FAR_FUTURE), sell(mallory, buyer)
    refresh_id = lease.refresh()
    execute(
        buyer.database_url,
        f"UPDATE vpn_purchase SET ask_again_at = '{moment(buyer, -1)}' "
        f"WHERE id = '{as_stored(buyer, refresh_id)}'",
    )
    mallory.heard(lambda body: body["type"] == "lease_request" and body["id"] == refresh_id)
    with WebsocketStream(buyer) as stream:
        lease.tell(refresh_id, expires_at=FAR_FUTURE)
        assert told(answer(stream, refresh_id, "lease"))["expires_at"] == FAR_FUTURE
    end_at(buyer, [other.id], -60)
    buyer.wait_until(lambda: other.row()["state"] == "ended")
