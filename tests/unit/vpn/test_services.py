"""What can be asked of the VPN: the calls that send, the list, the file."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.conf import settings as django_settings
from django.utils import timezone

from invoices.models import InvoicePayment
from messaging.database import Database
from messaging.idempotency import Claim, KeyReused
from messaging.models import Message
from messaging.outbox import Outbox
from tests.support.outboxes import Courier, make_outbox, running
from tests.support.vpn_deals import BUYER, OTHER, PRICE_SAT, SELLER, SERVER_KEY, body_of, types_of
from vpn import bodies, sealing, services
from vpn.buying import NotPossible
from vpn.keys import new_key_pair, public_of
from vpn.models import ClientKey, Lease, Purchase, PurchasedLease, ReceivedQuote, Term
from vpn.services import NoFile
from vpn.states import BoughtState, LeaseState, PurchaseState

pytestmark = pytest.mark.sql

NONCE = "nonce-of-the-quote"
PEERING = {
    "address": "10.77.0.2/32",
    "endpoint": "192.0.2.1:51820",
    "server_pub_key": SERVER_KEY,
    "dns": "",
    "allowed_ips": "0.0.0.0/0",
    "keepalive": 25,
}


@pytest.fixture
async def outbox(database: Database) -> AsyncIterator[Outbox]:
    outbox = make_outbox(database, Courier(), services={"vpn": 200_000})
    async with running(outbox):
        yield outbox


def claim(request_hash: bytes = b"\1" * 32) -> Claim:
    return Claim(caller="tester", key="the key", request_hash=request_hash)


def quote() -> None:
    ReceivedQuote.objects.create(
        request_id=uuid4(),
        seller=SELLER,
        nonce=NONCE,
        price_sat=PRICE_SAT,
        min_price_sat=10,
        max_price_sat=86_400,
        expires_at=timezone.now() + timedelta(seconds=600),
    )


def bought(*, left_seconds: float = 600, **fields) -> PurchasedLease:
    values = {
        "seller": SELLER,
        "nonce": uuid4().hex,
        "price_sat": PRICE_SAT,
        "public_key": new_key_pair().public,
        "peering": PEERING,
        "path": "http://127.0.0.1:8882/v1/vpn/leases/…/config",
        "expires_at": timezone.now() + timedelta(seconds=left_seconds),
    }
    return PurchasedLease.objects.create(**(values | fields))


def sold(state: LeaseState, **fields) -> Lease:
    values = {
        "contract_id": uuid4(),
        "buyer": BUYER,
        "nonce": uuid4().hex,
        "wg_key": new_key_pair().public,
        "addresses": "10.77.0.3/32",
        "price_sat": PRICE_SAT,
        "state": state,
        "expires_at": timezone.now() + timedelta(seconds=600),
    }
    return Lease.objects.create(**(values | fields))


def ids(leases: list[dict]) -> list[str]:
    return [lease["id"] for lease in leases]


async def messages(database: Database) -> list[Message]:
    return await database.read(lambda: list(Message.objects.order_by("pk")))


# what is sent


async def test_quote_is_asked_for(database, outbox):
    request_id = await services.quote_request(outbox=outbox, pubkey=SELLER, claim=None)
    (message,) = await messages(database)
    assert (message.message_id, message.pubkey, types_of([message])) == (
        request_id,
        SELLER,
        ["quote_request"],
    )
    asked = await database.read(ReceivedQuote.objects.get)
    assert (asked.pk, asked.seller, asked.nonce) == (request_id, SELLER, "")


async def test_quote_is_asked_for_once_under_one_key(database, outbox):
    first = await services.quote_request(outbox=outbox, pubkey=SELLER, claim=claim())
    assert await services.quote_request(outbox=outbox, pubkey=SELLER, claim=claim()) == first
    assert len(await messages(database)) == 1
    with pytest.raises(KeyReused):
        await services.quote_request(outbox=outbox, pubkey=OTHER, claim=claim(b"\2" * 32))


async def accept(database: Database, outbox: Outbox, **fields) -> UUID:
    arguments = {"pubkey": SELLER, "nonce": NONCE, "price": "600", "claim": None} | fields
    return await services.contract_accept(outbox=outbox, database=database, **arguments)


async def test_contract_bears_a_new_key(database, outbox):
    await database.write(quote)
    lease_id = await accept(database, outbox)
    (message,) = await messages(database)
    purchase = await database.read(Purchase.objects.get)
    assert (message.message_id, purchase.pk) == (lease_id, lease_id)
    assert body_of(message) == {
        "type": "contract",
        "nonce": NONCE,
        "price": "600",
        "pubkey": purchase.public_key,
    }
    key = await database.read(ClientKey.objects.get)
    private = sealing.unseal(key.sealed)
    assert public_of(private) == purchase.public_key
    assert private.encode() not in bytes(message.body)


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"nonce": "unknown"}, "nonce"), ({"price": "1"}, "price"), ({"pubkey": OTHER}, "nonce")],
)
async def test_contract_that_is_not_possible_sends_nothing(database, outbox, fields, field):
    await database.write(quote)
    with pytest.raises(NotPossible) as caught:
        await accept(database, outbox, **fields)
    assert caught.value.field == field
    assert await messages(database) == []
    assert not await database.read(ClientKey.objects.exists)


async def test_quote_is_accepted_once_however_often_it_is_asked(database, outbox):
    await database.write(quote)
    lease_id = await accept(database, outbox, claim=claim())
    with pytest.raises(NotPossible, match="was used for a contract before"):
        await accept(database, outbox)
    assert await database.read(lambda: list(Purchase.objects.values_list("pk", flat=True))) == [lease_id]


async def test_refresh_names_the_leases_key(database, outbox):
    lease = await database.write(lambda: bought(nonce=NONCE))
    refresh_id = await services.contract_refresh(
        outbox=outbox, database=database, pubkey=SELLER, nonce=NONCE, price="100", claim=None
    )
    (message,) = await messages(database)
    assert body_of(message)["pubkey"] == lease.public_key
    assert body_of(message)["type"] == bodies.REFRESH
    purchase = await database.read(Purchase.objects.get)
    assert (purchase.pk, purchase.lease_id) == (refresh_id, lease.pk)
    assert (purchase.state, purchase.automatic) == (PurchaseState.ASKED, False)


# the list


def test_list_tells_of_what_was_bought(tables):
    lease = bought()
    (shown,) = services.lease_list(limit=10)
    assert 0 < shown.pop("seconds_left") <= 600
    assert shown == {
        "role": "bought",
        "id": str(lease.pk),
        "pubkey": SELLER,
        "nonce": lease.nonce,
        "price": str(PRICE_SAT),
        "state": "active",
        "address": "10.77.0.2/32",
        "endpoint": "192.0.2.1:51820",
        "server_pub_key": SERVER_KEY,
        "public_key": lease.public_key,
        "expires_at": lease.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "path": lease.path,
        "seconds": 0,
        "paid_sat": 0,
        "payment_hash": "",
    }


def paid(
    lease: PurchasedLease, number: int, state: PurchaseState, *, kind: str = "refresh", settled: bool = False
) -> None:
    payment_hash = bytes([number] * 32)
    Purchase.objects.create(
        id=lease.pk if kind == "contract" else uuid4(),
        kind=kind,
        seller=SELLER,
        lease_id=lease.pk,
        nonce=lease.nonce,
        price_sat=10**number,
        hourly_price_sat=PRICE_SAT,
        seconds=2 * 10**number,
        public_key=lease.public_key,
        payment_hash=payment_hash,
        state=state,
    )
    if settled:
        InvoicePayment.objects.create(
            payee=SELLER,
            payment_hash=payment_hash,
            payment_request="lnsb1",
            amount_msat=10**number * 1000,
            fee_limit_msat=0,
            cost_msat=10**number * 1000,
            state=InvoicePayment.State.SETTLED,
        )


def test_list_tells_what_was_paid_for_a_lease_with_its_refreshes(tables):
    lease = bought()
    paid(lease, 1, PurchaseState.DONE, kind="contract")
    paid(lease, 2, PurchaseState.PAID)
    # Paid, and never told of; then what was not paid.
    paid(lease, 3, PurchaseState.REFUSED, settled=True)
    paid(lease, 4, PurchaseState.REFUSED)
    paid(lease, 5, PurchaseState.PAYING)
    bought()
    by_id = {row["id"]: row for row in services.lease_list(limit=10)}
    shown = by_id.pop(str(lease.pk))
    assert (shown["seconds"], shown["paid_sat"]) == (2_220, 1_110)
    assert shown["payment_hash"] == "01" * 32
    (other,) = by_id.values()
    assert (other["seconds"], other["paid_sat"], other["payment_hash"]) == (0, 0, "")


def test_list_tells_what_was_paid_for_a_lease_that_was_sold(tables):
    lease = sold(LeaseState.ACTIVE)
    for number, (kind, state) in enumerate(
        (("contract", "settled"), ("refresh", "settled"), ("refresh", "canceled"), ("refresh", "held"))
    ):
        Term.objects.create(
            lease=lease,
            kind=kind,
            contract_id=uuid4(),
            buyer=BUYER,
            price_sat=10**number,
            seconds=2 * 10**number,
            secret=bytes(32),
            payment_hash=bytes([number] * 32),
            state=state,
        )
    (shown,) = services.lease_list(limit=10, role="sold")
    assert (shown["seconds"], shown["paid_sat"], shown["payment_hash"]) == (22, 11, "00" * 32)


def test_list_of_states_and_of_one_node(tables):
    running = bought()
    ended = bought(state=BoughtState.ENDED, left_seconds=600)
    of_other = bought(seller=OTHER)
    assert set(ids(services.lease_list(limit=10))) == {str(running.pk), str(of_other.pk)}
    assert ids(services.lease_list(limit=10, state="ended")) == [str(ended.pk)]
    assert len(services.lease_list(limit=10, state="all")) == 3
    assert ids(services.lease_list(limit=10, pubkey=OTHER)) == [str(of_other.pk)]
    (shown,) = services.lease_list(limit=10, state="ended")
    assert (shown["seconds_left"], shown["path"]) == (0, "")


def test_list_is_limited_to_the_newest(tables):
    now = timezone.now()
    rows = [bought(created_at=now - timedelta(seconds=age)) for age in (30, 10, 20)]
    newest = [str(rows[1].pk), str(rows[2].pk)]
    assert ids(services.lease_list(limit=2)) == newest
    sale = sold(LeaseState.ACTIVE, created_at=now - timedelta(seconds=15))
    assert ids(services.lease_list(limit=2, role="all")) == [newest[0], str(sale.contract_id)]


def test_list_tells_of_what_was_sold(tables):
    lease = sold(LeaseState.ACTIVE)
    sold(LeaseState.CONTRACTED, expires_at=None)
    sold(LeaseState.CANCELED, expires_at=None)
    over = sold(LeaseState.QUARANTINED)
    (shown,) = services.lease_list(limit=10, role="sold")
    assert (shown["id"], shown["pubkey"], shown["state"]) == (str(lease.contract_id), BUYER, "active")
    assert (shown["address"], shown["public_key"]) == ("10.77.0.3/32", lease.wg_key)
    (shown,) = services.lease_list(limit=10, role="sold", state="ended")
    assert (shown["id"], shown["state"], shown["seconds_left"]) == (str(over.contract_id), "ended", 0)
    assert len(services.lease_list(limit=10, role="sold", state="all")) == 2
    assert services.lease_list(limit=10, role="sold", pubkey=OTHER) == []


# the file


def test_file_has_the_private_key_of_the_contract(tables):
    pair = new_key_pair()
    lease = bought(public_key=pair.public)
    ClientKey.objects.create(contract_id=lease.pk, sealed=sealing.seal(pair.private))
    assert services.lease_file(lease_id=lease.pk).splitlines() == [
        "[Interface]",
        f"PrivateKey = {pair.private}",
        "Address = 10.77.0.2/32",
        "",
        "[Peer]",
        f"PublicKey = {SERVER_KEY}",
        "AllowedIPs = 0.0.0.0/0",
        "Endpoint = 192.0.2.1:51820",
        "PersistentKeepalive = 25",
    ]


def test_there_is_no_file_without_lease_or_key(tables, monkeypatch):
    with pytest.raises(NoFile, match="there is no lease"):
        services.lease_file(lease_id=uuid4())
    lease = bought(state=BoughtState.ENDED)
    with pytest.raises(NoFile, match="its key was forgotten"):
        services.lease_file(lease_id=lease.pk)
    ClientKey.objects.create(contract_id=lease.pk, sealed=sealing.seal(new_key_pair().private))
    monkeypatch.setattr(django_settings, "SECRET_KEY", "another secret")
    with pytest.raises(NoFile, match="sealed under another secret"):
        services.lease_file(lease_id=lease.pk)


def test_file_as_a_picture():
    image = services.as_qr("[Interface]\nPrivateKey = x\n")
    assert image.startswith("<?xml")
    assert "<svg" in image
    assert image != services.as_qr("[Interface]\nPrivateKey = y\n")
