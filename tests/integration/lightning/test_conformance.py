"""What the node relies on in lnd: one set of cases, run against the simulator, against its rules in this process, as unit
tests use them (tests/support/fake_lnd.py), and against real lnd nodes.

The network is alice – bob – carol – dave, 10,000,000 sat in each channel, half on either side; dave takes no keysend.
"""

import asyncio
import base64
import functools
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
from coincurve import PrivateKey, PublicKey

from lightning import macaroon
from lightning.rpcs import Rpc
from lightning.simulator.process import LndNode
from protos.invoicesrpc import invoices_pb2
from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2
from tests.support import real_lnd
from tests.support.fake_lnd import connected
from tests.support.lnd_rpc import PREIMAGE_RECORD, ChannelClient, keysend_request, secure_channel
from tests.support.networks import new_network
from tests.support.real_lnd import RealNetwork

NAMES = ["alice", "bob", "carol", "dave"]
WITHOUT_KEYSEND = "dave"
RECORD = 400_000
KEYSEND_BIT = 55
# A hang guard, nothing else.
GUARD_SECONDS = 600
NOT_RUN = "real_lnd: lnd and btcd are not on PATH; not run"

UNKNOWN = grpc.StatusCode.UNKNOWN
NOT_FOUND = grpc.StatusCode.NOT_FOUND
ALREADY_EXISTS = grpc.StatusCode.ALREADY_EXISTS

Invoice = lightning_pb2.Invoice
Payment = lightning_pb2.Payment
NO_ROUTE = lightning_pb2.FAILURE_REASON_NO_ROUTE
INCORRECT_DETAILS = lightning_pb2.FAILURE_REASON_INCORRECT_PAYMENT_DETAILS


@dataclass(frozen=True)
class Endpoint:
    """One node as its clients see it. `open_channel` takes the macaroon in hex; "" sends none."""

    pubkey: str
    macaroon_hex: str
    open_channel: Callable[[str], grpc.aio.Channel]


class Net:
    """A client of each node; `pubkey` and `macaroon` by name, in hex."""

    def __init__(self, endpoints: dict[str, Endpoint]):
        self.pubkey = {name: endpoints[name].pubkey for name in NAMES}
        self.macaroon = {name: endpoints[name].macaroon_hex for name in NAMES}
        self._endpoints = endpoints
        self.clients = {name: self.client(name, self.macaroon[name]) for name in NAMES}
        self.alice, self.bob, self.carol, self.dave = self.clients.values()

    def client(self, name: str, macaroon_hex: str) -> ChannelClient:
        """Another one, to be closed."""
        return ChannelClient(self._endpoints[name].open_channel(macaroon_hex))

    async def close(self) -> None:
        for client in self.clients.values():
            await client.close()


def endpoint(node: LndNode) -> Endpoint:
    return Endpoint(
        pubkey=node.pubkey,
        macaroon_hex=node.macaroon_path.read_bytes().hex(),
        open_channel=lambda macaroon_hex: secure_channel(node, macaroon_hex=macaroon_hex),
    )


@asynccontextmanager
async def real_network(directory):
    async with RealNetwork(directory, NAMES, without_keysend=[WITHOUT_KEYSEND]) as network:
        yield {name: endpoint(node) for name, node in network.nodes.items()}


@asynccontextmanager
async def simulated_network(directory):
    async with new_network(directory, NAMES) as network:
        await network.control.set_keysend(WITHOUT_KEYSEND, on=False)
        yield {name: endpoint(node) for name, node in network.nodes.items()}


@asynccontextmanager
async def network_in_memory(directory):
    nodes = dict(zip(NAMES, connected(*NAMES), strict=True))
    nodes[WITHOUT_KEYSEND].node.accepts_keysend = False
    yield {
        name: Endpoint(lnd.pubkey, lnd.server.macaroon.hex(), lnd.server.channel)
        for name, lnd in nodes.items()
    }


NETWORKS = {"in_memory": network_in_memory, "simulator": simulated_network, "real_lnd": real_network}


@pytest.fixture(
    scope="module", params=["in_memory", "simulator", pytest.param("real_lnd", marks=pytest.mark.real_lnd)]
)
def net(request, tmp_path_factory):
    """Runs a coroutine function of a Net on the network's own event loop; `case` makes a test of such a function."""
    if request.param == "real_lnd" and not real_lnd.available():
        # Skipped from here, all cases stand in one line of pytest's summary.
        yield lambda function: pytest.skip(NOT_RUN)
        return
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def start() -> Net:
            endpoints = await stack.enter_async_context(
                NETWORKS[request.param](tmp_path_factory.mktemp(request.param))
            )
            clients = Net(endpoints)
            stack.push_async_callback(clients.close)
            return clients

        clients = runner.run(start())
        try:
            yield lambda function: runner.run(asyncio.wait_for(function(clients), GUARD_SECONDS))
        finally:
            runner.run(stack.aclose())


def case(function):
    """A test of an async function of a Net."""

    @functools.wraps(function)
    def test(net, **arguments):
        net(lambda clients: function(clients, **arguments))

    return test


# Tools


async def refused(awaitable) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value.code(), caught.value.details()


def preimage_and_hash() -> tuple[bytes, bytes]:
    preimage = os.urandom(32)
    return preimage, hashlib.sha256(preimage).digest()


def outcome(payment: Payment) -> tuple[str, str]:
    reason = lightning_pb2.PaymentFailureReason.Name(payment.failure_reason)
    return Payment.PaymentStatus.Name(payment.status), reason.removeprefix("FAILURE_REASON_")


class Events:
    """An open invoice stream."""

    def __init__(self, call):
        self._call = call

    async def next(self) -> Invoice:
        return await self._call.read()

    async def next_of(self, r_hash: bytes) -> Invoice:
        while True:
            invoice = await self.next()
            if invoice.r_hash == r_hash:
                return invoice


@asynccontextmanager
async def watching(client: ChannelClient, *, settle_index: int = 0) -> AsyncIterator[Events]:
    """A stream that surely tells all from now on: lnd has told a marker invoice on it."""
    call = client.subscribe(settle_index=settle_index)
    events = Events(call)
    try:
        markers = set()
        reading = asyncio.ensure_future(events.next())
        while True:
            added = await client.lightning.AddInvoice(Invoice(memo="marker", value=1))
            markers.add(added.r_hash)
            await asyncio.wait({reading}, timeout=0.5)
            if reading.done():
                invoice = reading.result()
                if invoice.r_hash in markers:
                    break
                reading = asyncio.ensure_future(events.next())
        yield events
    finally:
        call.cancel()


async def backlog(client: ChannelClient, settle_index: int, count: int) -> list[Invoice]:
    call = client.subscribe(settle_index=settle_index)
    try:
        return [await call.read() for _ in range(count)]
    finally:
        call.cancel()


async def settled_keysend(payer: ChannelClient, net: Net, payee: str, **arguments) -> Invoice:
    """The payee's invoice of a keysend of 1 sat that succeeded."""
    preimage, payment_hash = preimage_and_hash()
    payment = await payer.keysend(net.pubkey[payee], {RECORD: b"x"}, preimage=preimage, **arguments)
    assert payment.status == Payment.SUCCEEDED
    return await lookup(net.clients[payee], payment_hash)


async def lookup(client: ChannelClient, payment_hash: bytes) -> Invoice:
    return await client.lightning.LookupInvoice(lightning_pb2.PaymentHash(r_hash=payment_hash))


async def channels_of(client: ChannelClient, peer_hex: str = "") -> list[lightning_pb2.Channel]:
    request = lightning_pb2.ListChannelsRequest(peer=bytes.fromhex(peer_hex))
    return list((await client.lightning.ListChannels(request)).channels)


async def query_routes(
    client: ChannelClient, pubkey: str, records: dict[int, bytes], *, amount_sat=1, fee_limit_sat=10
):
    request = lightning_pb2.QueryRoutesRequest(
        pub_key=pubkey,
        amt=amount_sat,
        fee_limit=lightning_pb2.FeeLimit(fixed=fee_limit_sat),
        dest_custom_records={**records, PREIMAGE_RECORD: bytes(32)},
        dest_features=[lightning_pb2.TLV_ONION_OPT],
    )
    return await client.lightning.QueryRoutes(request)


# The node and the graph


@case
async def test_get_info(net):
    for name in NAMES:
        info = await net.clients[name].lightning.GetInfo(lightning_pb2.GetInfoRequest())
        assert info.identity_pubkey == net.pubkey[name]
        assert info.alias == name
        assert info.num_active_channels == (1 if name in ("alice", "dave") else 2)
        assert info.num_peers >= 1
        assert info.block_height > 0
        assert info.synced_to_chain
        assert info.version
        assert len(info.chains) == 1
        assert info.chains[0].network
        assert (KEYSEND_BIT in info.features) == (name != WITHOUT_KEYSEND)
        if name != WITHOUT_KEYSEND:
            assert info.features[KEYSEND_BIT].name == "keysend"
            assert info.features[KEYSEND_BIT].is_known
            assert not info.features[KEYSEND_BIT].is_required


def spoil_last_byte(macaroon_hex: str) -> str:
    """The signature stands at a macaroon's end."""
    return macaroon_hex[:-2] + f"{int(macaroon_hex[-2:], 16) ^ 1:02x}"


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        pytest.param(
            spoil_last_byte,
            "verification failed: signature mismatch after caveat verification",
            id="wrong signature",
        ),
        pytest.param(lambda right: "", "expected 1 macaroon, got 0", id="none"),
        pytest.param(lambda right: "no hex", "encoding/hex: invalid byte: U+006E 'n'", id="no hex"),
        pytest.param(
            lambda right: "00ff", "cannot determine data format of binary-encoded macaroon", id="no macaroon"
        ),
    ],
)
@case
async def test_wrong_macaroon(net, spoil, text):
    async with net.client("alice", spoil(net.macaroon["alice"])) as client:
        code, details = await refused(client.lightning.GetInfo(lightning_pb2.GetInfoRequest()))
    assert (code, details) == (UNKNOWN, text)


async def bake(client: ChannelClient, *permissions: tuple[str, str]) -> str:
    """In hexadecimal digits."""
    wanted = [
        lightning_pb2.MacaroonPermission(entity=entity, action=action) for entity, action in permissions
    ]
    return (
        await client.lightning.BakeMacaroon(lightning_pb2.BakeMacaroonRequest(permissions=wanted))
    ).macaroon


def check_request(macaroon_hex: str, rpc: Rpc) -> lightning_pb2.CheckMacPermRequest:
    entity, action = rpc.permission
    return lightning_pb2.CheckMacPermRequest(
        macaroon=bytes.fromhex(macaroon_hex),
        permissions=[lightning_pb2.MacaroonPermission(entity=entity, action=action)],
        fullMethod=rpc.path,
    )


@case
async def test_permissions_of_the_calls_that_the_node_makes(net):
    told = (
        await net.alice.lightning.ListPermissions(lightning_pb2.ListPermissionsRequest())
    ).method_permissions
    for rpc in Rpc:
        assert [(one.entity, one.action) for one in told[rpc.path].permissions] == [rpc.permission], rpc


@pytest.mark.parametrize(
    "permission", [("uri", Rpc.GET_INFO.path), Rpc.GET_INFO.permission], ids=["by name", "by kind"]
)
@case
async def test_macaroon_that_permits_less(net, permission):
    baked = await bake(net.alice, permission)
    assert macaroon.decode(bytes.fromhex(baked)).permissions == {permission}
    assert macaroon.not_permitted(bytes.fromhex(baked), [Rpc.GET_INFO, Rpc.LIST_CHANNELS]) == [
        Rpc.LIST_CHANNELS
    ]
    async with net.client("alice", baked) as client:
        await client.lightning.GetInfo(lightning_pb2.GetInfoRequest())
        denied = (UNKNOWN, "permission denied")
        assert await refused(client.lightning.ListChannels(lightning_pb2.ListChannelsRequest())) == denied
        check = check_request(baked, Rpc.GET_INFO)
        assert await refused(client.lightning.CheckMacaroonPermissions(check)) == denied


@case
async def test_what_a_macaroon_permits(net):
    admin = net.macaroon["alice"]
    baked = await bake(net.alice, ("uri", Rpc.GET_INFO.path))
    for rpc in Rpc:
        assert (await net.alice.lightning.CheckMacaroonPermissions(check_request(admin, rpc))).valid
    assert (await net.alice.lightning.CheckMacaroonPermissions(check_request(baked, Rpc.GET_INFO))).valid
    for asked, text in ((baked, "permission denied"), (spoil_last_byte(baked), "verification failed")):
        check = check_request(asked, Rpc.SEND_PAYMENT)
        code, details = await refused(net.alice.lightning.CheckMacaroonPermissions(check))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith(text)


@pytest.mark.parametrize(
    ("permissions", "text"),
    [
        ([], "permission list cannot be empty"),
        ([("uri", "/lnrpc.Lightning/NoSuchCall")], "invalid permission action"),
        ([("info", "erase")], "invalid permission action"),
        ([("weather", "read")], "invalid permission entity"),
    ],
)
@case
async def test_macaroon_that_is_not_baked(net, permissions, text):
    code, details = await refused(bake(net.alice, *permissions))
    assert code == UNKNOWN
    assert details.startswith(text)


@case
async def test_get_node_info(net):
    for name in ("bob", "carol", "dave"):
        request = lightning_pb2.NodeInfoRequest(pub_key=net.pubkey[name])
        info = await net.alice.lightning.GetNodeInfo(request)
        assert info.node.pub_key == net.pubkey[name]
        assert info.node.alias == name
        assert info.num_channels == (1 if name == "dave" else 2)
        assert (KEYSEND_BIT in info.node.features) == (name != WITHOUT_KEYSEND)


@case
async def test_get_node_info_of_an_unknown_node(net):
    request = lightning_pb2.NodeInfoRequest(pub_key=PrivateKey().public_key.format().hex())
    assert await refused(net.alice.lightning.GetNodeInfo(request)) == (NOT_FOUND, "unable to find node")


@case
async def test_list_channels(net):
    (channel,) = await channels_of(net.alice)
    assert channel.active
    assert not channel.private
    assert channel.remote_pubkey == net.pubkey["bob"]
    assert channel.capacity == 10_000_000
    assert channel.local_constraints.chan_reserve_sat == 100_000
    assert channel.remote_constraints.chan_reserve_sat == 100_000
    assert 0 < channel.local_balance + channel.remote_balance <= channel.capacity
    assert [other.chan_id for other in await channels_of(net.bob, net.pubkey["alice"])] == [channel.chan_id]
    assert len(await channels_of(net.bob)) == 2


@case
async def test_get_chan_info(net):
    (channel,) = await channels_of(net.alice)
    edge = await net.carol.lightning.GetChanInfo(lightning_pb2.ChanInfoRequest(chan_id=channel.chan_id))
    assert [edge.node1_pub, edge.node2_pub] == sorted([net.pubkey["alice"], net.pubkey["bob"]])
    for policy in (edge.node1_policy, edge.node2_policy):
        assert (policy.time_lock_delta, policy.fee_base_msat, policy.fee_rate_milli_msat) == (80, 1000, 1)


@case
async def test_get_chan_info_of_an_unknown_channel(net):
    asking = net.alice.lightning.GetChanInfo(lightning_pb2.ChanInfoRequest(chan_id=1))
    assert await refused(asking) == (NOT_FOUND, "edge not found")


@case
async def test_channel_balance_follows_payments(net):
    async def balance() -> lightning_pb2.ChannelBalanceResponse:
        return await net.alice.lightning.ChannelBalance(lightning_pb2.ChannelBalanceRequest())

    before = await balance()
    assert before.local_balance.sat == sum(channel.local_balance for channel in await channels_of(net.alice))
    assert before.local_balance.msat // 1000 == before.local_balance.sat
    payment = await net.alice.keysend(net.pubkey["carol"], {RECORD: b"x"}, amount_sat=1000)
    assert payment.status == Payment.SUCCEEDED

    async def moved() -> bool:
        after = await balance()
        paid = payment.value_msat + payment.fee_msat
        return (before.local_balance.msat - after.local_balance.msat, after.remote_balance.msat) == (
            paid,
            before.remote_balance.msat + paid,
        )

    while not await moved():
        await asyncio.sleep(0.02)


# Keysend


@case
async def test_keysend_over_one_hop(net):
    preimage, payment_hash = preimage_and_hash()
    records = {RECORD: b"\x00\xff binary", RECORD + 1: b"", 2**32 + 5: b"other"}
    async with watching(net.bob) as events:
        payment = await net.alice.keysend(net.pubkey["bob"], records, amount_sat=12, preimage=preimage)
        opened = await events.next_of(payment_hash)
        settled = await events.next_of(payment_hash)

    assert outcome(payment) == ("SUCCEEDED", "NONE")
    assert (payment.payment_hash, payment.payment_preimage) == (payment_hash.hex(), preimage.hex())
    assert (payment.value_sat, payment.value_msat, payment.fee_sat, payment.fee_msat) == (12, 12_000, 0, 0)
    assert payment.payment_request == ""
    assert payment.creation_time_ns > 0
    assert payment.payment_index > 0

    for invoice in (opened, settled):
        assert invoice.is_keysend
        assert not invoice.is_amp
        assert invoice.payment_request == ""
        assert (invoice.value, invoice.value_msat) == (12, 12_000)
        assert invoice.creation_date > 0
    assert opened.state == Invoice.OPEN
    assert (opened.settle_index, opened.settle_date, opened.amt_paid_msat, len(opened.htlcs)) == (0, 0, 0, 0)
    assert settled.state == Invoice.SETTLED
    assert settled.add_index == opened.add_index > 0
    assert settled.settle_index > 0
    assert settled.settle_date > 0
    assert settled.r_preimage == preimage
    assert (settled.amt_paid_sat, settled.amt_paid_msat) == (12, 12_000)

    (htlc,) = settled.htlcs
    assert htlc.state == lightning_pb2.InvoiceHTLCState.SETTLED
    assert htlc.amt_msat == 12_000
    assert htlc.chan_id == (await channels_of(net.alice))[0].chan_id
    assert htlc.accept_time > 0
    assert htlc.resolve_time > 0
    assert htlc.custom_records[PREIMAGE_RECORD] == preimage
    assert {number: htlc.custom_records[number] for number in records} == records


@case
async def test_indices_count_up_by_one(net):
    first = await settled_keysend(net.alice, net, "bob")
    second = await settled_keysend(net.alice, net, "bob")
    assert second.add_index == first.add_index + 1
    assert second.settle_index == first.settle_index + 1
    assert second.htlcs[0].htlc_index == first.htlcs[0].htlc_index + 1


@pytest.mark.parametrize(("amount_sat", "fee_msat"), [(1, 1000), (100_000, 1100)])
@case
async def test_keysend_over_two_hops_costs_a_fee(net, amount_sat, fee_msat):
    preimage, payment_hash = preimage_and_hash()
    payment = await net.alice.keysend(
        net.pubkey["carol"], {RECORD: b"far"}, amount_sat=amount_sat, preimage=preimage
    )
    assert outcome(payment) == ("SUCCEEDED", "NONE")
    assert (payment.value_msat, payment.fee_msat, payment.fee_sat) == (
        amount_sat * 1000,
        fee_msat,
        fee_msat // 1000,
    )
    invoice = await lookup(net.carol, payment_hash)
    assert invoice.amt_paid_msat == invoice.htlcs[0].amt_msat == amount_sat * 1000


@case
async def test_payment_updates(net):
    request = keysend_request(net.pubkey["carol"], {RECORD: b"x"}, no_inflight_updates=False)
    statuses = [payment.status async for payment in net.alice.router.SendPaymentV2(request)]
    assert statuses[-1] == Payment.SUCCEEDED
    assert statuses[:-1]
    assert set(statuses[:-1]) == {Payment.IN_FLIGHT}


@case
async def test_fee_limit_of_nothing_is_no_route(net):
    payment = await net.alice.keysend(net.pubkey["carol"], {RECORD: b"x"}, fee_limit_sat=0)
    assert outcome(payment) == ("FAILED", "NO_ROUTE")
    payment = await net.alice.keysend(net.pubkey["bob"], {RECORD: b"x"}, fee_limit_sat=0)
    assert outcome(payment) == ("SUCCEEDED", "NONE")


@pytest.mark.parametrize(
    ("payee", "record_number", "amount_sat", "text"),
    [
        pytest.param("bob", RECORD, 0, "amount must be specified", id="amount 0"),
        pytest.param("alice", RECORD, 1, "self-payments not allowed", id="to itself"),
        pytest.param(
            "bob", 65535, 1, "no custom records with types below 65536 allowed", id="record below 65536"
        ),
    ],
)
@case
async def test_keysend_that_is_refused(net, payee, record_number, amount_sat, text):
    code, details = await refused(
        net.alice.keysend(net.pubkey[payee], {record_number: b"x"}, amount_sat=amount_sat)
    )
    assert (code, details) == (UNKNOWN, text)


@case
async def test_lowest_record_type(net):
    payment = await net.alice.keysend(net.pubkey["bob"], {65536: b"x"})
    assert payment.status == Payment.SUCCEEDED


@pytest.mark.parametrize(
    ("payee", "amount_sat", "room"),
    [("bob", 1, 1207), ("carol", 1, 1156)],
)
@case
async def test_room_for_one_record(net, payee, amount_sat, room):
    payment = await net.alice.keysend(net.pubkey[payee], {RECORD: bytes(room)}, amount_sat=amount_sat)
    assert outcome(payment) == ("SUCCEEDED", "NONE")
    payment = await net.alice.keysend(net.pubkey[payee], {RECORD: bytes(room + 1)}, amount_sat=amount_sat)
    assert outcome(payment) == ("FAILED", "NO_ROUTE")


@pytest.mark.parametrize(
    ("payee", "hops", "amount_sat", "room", "fees_msat"),
    [
        ("bob", 1, 1, 1207, 0),
        ("bob", 1, 65, 1207, 0),
        ("bob", 1, 66, 1206, 0),
        ("carol", 2, 1, 1156, 1000),
        ("carol", 2, 100_000, 1152, 1100),
        ("dave", 3, 1, 1105, 2000),
    ],
)
@case
async def test_query_routes_tells_whether_records_fit(net, payee, hops, amount_sat, room, fees_msat):
    answer = await query_routes(net.alice, net.pubkey[payee], {RECORD: bytes(room)}, amount_sat=amount_sat)
    (route,) = answer.routes
    assert len(route.hops) == hops
    assert route.hops[-1].pub_key == net.pubkey[payee]
    assert route.total_fees_msat == fees_msat
    too_long = query_routes(net.alice, net.pubkey[payee], {RECORD: bytes(room + 1)}, amount_sat=amount_sat)
    assert await refused(too_long) == (UNKNOWN, "unable to find a path to destination")


@case
async def test_query_routes_to_an_unknown_node(net):
    stranger = PrivateKey().public_key.format().hex()
    asking = query_routes(net.alice, stranger, {RECORD: b"x"})
    assert await refused(asking) == (UNKNOWN, "unable to find a path to destination")


@case
async def test_keysend_to_an_unknown_node(net):
    payment = await net.alice.keysend(PrivateKey().public_key.format().hex(), {RECORD: b"x"})
    assert outcome(payment) == ("FAILED", "NO_ROUTE")


@case
async def test_keysend_to_a_node_that_takes_none(net):
    payment = await net.alice.keysend(net.pubkey[WITHOUT_KEYSEND], {RECORD: b"x"})
    assert outcome(payment) == ("FAILED", "INCORRECT_PAYMENT_DETAILS")


@case
async def test_keysend_over_the_balance(net):
    payment = await net.alice.keysend(net.pubkey["bob"], {RECORD: b"x"}, amount_sat=9_000_000)
    assert outcome(payment) == ("FAILED", "INSUFFICIENT_BALANCE")


@case
async def test_known_hash(net):
    preimage, payment_hash = preimage_and_hash()
    paid = await net.alice.keysend(net.pubkey["bob"], {RECORD: b"x"}, preimage=preimage)
    assert paid.status == Payment.SUCCEEDED
    again = net.alice.keysend(net.pubkey["bob"], {RECORD: b"x"}, preimage=preimage)
    assert await refused(again) == (ALREADY_EXISTS, "invoice is already paid")
    tracked = await net.alice.track(payment_hash)
    for payment in (tracked, paid):
        # lnd's attempts, which are no part of our protos, are told with other times.
        payment.DiscardUnknownFields()
    assert tracked == paid


@case
async def test_failed_hash_may_be_paid_again(net):
    preimage, _ = preimage_and_hash()
    failed = await net.alice.keysend(net.pubkey["carol"], {RECORD: b"x"}, fee_limit_sat=0, preimage=preimage)
    assert outcome(failed) == ("FAILED", "NO_ROUTE")
    paid = await net.alice.keysend(net.pubkey["carol"], {RECORD: b"x"}, preimage=preimage)
    assert outcome(paid) == ("SUCCEEDED", "NONE")


@case
async def test_track_a_failed_payment(net):
    preimage, payment_hash = preimage_and_hash()
    await net.alice.keysend(net.pubkey["carol"], {RECORD: b"x"}, fee_limit_sat=0, preimage=preimage)
    assert outcome(await net.alice.track(payment_hash)) == ("FAILED", "NO_ROUTE")


@case
async def test_track_an_unknown_hash(net):
    assert await refused(net.alice.track(os.urandom(32))) == (NOT_FOUND, "payment isn't initiated")


@case
async def test_payment_goes_on_without_its_client(net):
    preimage, payment_hash = preimage_and_hash()
    request = keysend_request(
        net.pubkey["carol"], {RECORD: b"x"}, preimage=preimage, no_inflight_updates=False
    )
    async with watching(net.carol) as events:
        call = net.alice.router.SendPaymentV2(request)
        assert (await call.read()).status == Payment.IN_FLIGHT
        call.cancel()
        assert (await events.next_of(payment_hash)).state == Invoice.OPEN
        assert (await events.next_of(payment_hash)).state == Invoice.SETTLED
    assert outcome(await net.alice.track(payment_hash)) == ("SUCCEEDED", "NONE")


# Invoice streams and lists


@case
async def test_subscription_without_settle_index_tells_no_backlog(net):
    await settled_keysend(net.alice, net, "bob")
    call = net.bob.subscribe()
    try:
        reading = asyncio.ensure_future(call.read())
        markers = set()
        while not reading.done():
            markers.add((await net.bob.lightning.AddInvoice(Invoice(memo="marker", value=1))).r_hash)
            await asyncio.wait({reading}, timeout=0.5)
        assert reading.result().r_hash in markers
    finally:
        call.cancel()


@case
async def test_subscription_resumes_after_settle_index(net):
    invoices = [await settled_keysend(net.alice, net, "bob") for _ in range(4)]
    told = await backlog(net.bob, invoices[0].settle_index, 3)
    assert [invoice.r_hash for invoice in told] == [invoice.r_hash for invoice in invoices[1:]]
    assert all(
        invoice.state == Invoice.SETTLED and RECORD in invoice.htlcs[0].custom_records for invoice in told
    )


@case
async def test_subscription_goes_on_after_its_backlog(net):
    first, second = [await settled_keysend(net.alice, net, "bob") for _ in range(2)]
    preimage, payment_hash = preimage_and_hash()
    call = net.bob.subscribe(settle_index=first.settle_index)
    try:
        assert (await call.read()).r_hash == second.r_hash
        await net.alice.keysend(net.pubkey["bob"], {RECORD: b"x"}, preimage=preimage)
        told = [await call.read(), await call.read()]
        assert [(invoice.r_hash, invoice.state) for invoice in told] == [
            (payment_hash, Invoice.OPEN),
            (payment_hash, Invoice.SETTLED),
        ]
    finally:
        call.cancel()


@case
async def test_cursor_ahead_mutes_settled_events(net):
    last = await settled_keysend(net.alice, net, "bob")
    async with watching(net.bob, settle_index=last.settle_index + 1000) as events:
        muted = await settled_keysend(net.alice, net, "bob")
        after = await settled_keysend(net.alice, net, "bob")
        assert (await events.next_of(muted.r_hash)).state == Invoice.OPEN
        # The next event of all is of the next payment: nothing told that the first one was settled.
        following = await events.next()
        assert (following.r_hash, following.state) == (after.r_hash, Invoice.OPEN)


@case
async def test_preimage_is_paid_again_by_another_node(net):
    before = await settled_keysend(net.alice, net, "bob")
    preimage, payment_hash = preimage_and_hash()
    async with watching(net.bob) as events:
        await net.alice.keysend(net.pubkey["bob"], {RECORD: b"first"}, preimage=preimage)
        assert (await events.next_of(payment_hash)).state == Invoice.OPEN
        once = await events.next_of(payment_hash)
        again = await net.carol.keysend(
            net.pubkey["bob"], {RECORD: b"again"}, amount_sat=2, preimage=preimage
        )
        assert outcome(again) == ("SUCCEEDED", "NONE")
        twice = await lookup(net.bob, payment_hash)
        later = await settled_keysend(net.alice, net, "bob")
        # Live, nothing tells of the second payment: the next event of all is the next invoice's.
        following = await events.next()
        assert (following.r_hash, following.state) == (later.r_hash, Invoice.OPEN)

    assert once.settle_index == before.settle_index + 1
    assert twice.state == Invoice.SETTLED
    assert (twice.add_index, twice.settle_index) == (once.add_index, once.settle_index + 1)
    assert twice.amt_paid_msat == 3000
    settled = lightning_pb2.InvoiceHTLCState.SETTLED
    paid = sorted((htlc.amt_msat, htlc.custom_records[RECORD], htlc.state) for htlc in twice.htlcs)
    assert paid == [(1000, b"first", settled), (2000, b"again", settled)]
    assert len({(htlc.chan_id, htlc.htlc_index) for htlc in twice.htlcs}) == 2

    told = await backlog(net.bob, before.settle_index, 3)
    assert [(invoice.r_hash, invoice.settle_index) for invoice in told] == [
        (payment_hash, twice.settle_index),
        (payment_hash, twice.settle_index),
        (later.r_hash, later.settle_index),
    ]


async def list_invoices(client: ChannelClient, **arguments) -> tuple[list[int], int, int]:
    answer = await client.lightning.ListInvoices(lightning_pb2.ListInvoiceRequest(**arguments))
    return (
        [invoice.add_index for invoice in answer.invoices],
        answer.first_index_offset,
        answer.last_index_offset,
    )


@case
async def test_list_invoices_page_by_page(net):
    added = [await net.carol.lightning.AddInvoice(Invoice(memo=f"{number}", value=1)) for number in range(5)]
    a, b, c, d, e = (invoice.add_index for invoice in added)
    assert [b, c, d, e] == [a + 1, a + 2, a + 3, a + 4]
    assert await list_invoices(net.carol, index_offset=a - 1, num_max_invoices=2) == ([a, b], a, b)
    assert await list_invoices(net.carol, index_offset=b, num_max_invoices=2) == ([c, d], c, d)
    assert await list_invoices(net.carol, index_offset=d, num_max_invoices=2) == ([e], e, e)
    assert await list_invoices(net.carol, index_offset=e, num_max_invoices=2) == ([], 0, 0)
    assert await list_invoices(net.carol, index_offset=e + 1000, num_max_invoices=2) == ([], 0, 0)
    # Reversed, 0 is the end: the newest ones, told in the order of their making.
    assert await list_invoices(net.carol, num_max_invoices=2, reversed=True) == ([d, e], d, e)
    assert await list_invoices(net.carol, index_offset=d, num_max_invoices=2, reversed=True) == ([b, c], b, c)


@case
async def test_list_invoices_tells_records(net):
    paid = await settled_keysend(net.alice, net, "carol")
    request = lightning_pb2.ListInvoiceRequest(index_offset=paid.add_index - 1, num_max_invoices=1)
    (listed,) = (await net.carol.lightning.ListInvoices(request)).invoices
    assert listed == paid
    assert listed.htlcs[0].custom_records[RECORD] == b"x"


@case
async def test_list_pending_invoices(net):
    added = await net.carol.lightning.AddInvoice(Invoice(value=1))
    paid = await settled_keysend(net.alice, net, "carol")
    indices, _, _ = await list_invoices(net.carol, index_offset=added.add_index - 1, pending_only=True)
    assert indices == [added.add_index]
    assert paid.add_index == added.add_index + 1


# Invoices


@case
async def test_invoice_is_made_decoded_paid_and_looked_up(net):
    added = await net.carol.lightning.AddInvoice(Invoice(memo="a café", value=21, expiry=600))
    assert len(added.r_hash) == len(added.payment_addr) == 32
    assert added.payment_request.startswith("lnsb")

    request = await net.alice.lightning.DecodePayReq(
        lightning_pb2.PayReqString(pay_req=added.payment_request)
    )
    assert (request.destination, request.payment_hash) == (net.pubkey["carol"], added.r_hash.hex())
    assert (request.num_satoshis, request.num_msat, request.description) == (21, 21_000, "a café")
    assert (request.expiry, request.payment_addr) == (600, added.payment_addr)
    assert request.timestamp > 0
    assert request.cltv_expiry > 0

    waiting = await lookup(net.carol, added.r_hash)
    assert (waiting.state, waiting.memo, waiting.value, waiting.is_keysend) == (
        Invoice.OPEN,
        "a café",
        21,
        False,
    )
    assert (waiting.payment_request, waiting.add_index) == (added.payment_request, added.add_index)
    assert (waiting.expiry, waiting.creation_date, waiting.settle_index) == (600, request.timestamp, 0)

    payment = await net.alice.pay(pay_request(added.payment_request, {RECORD: b"with it"}))
    assert outcome(payment) == ("SUCCEEDED", "NONE")
    assert (payment.payment_request, payment.value_sat, payment.fee_msat) == (added.payment_request, 21, 1000)

    paid = await lookup(net.carol, added.r_hash)
    assert (paid.state, paid.amt_paid_sat, paid.amt_paid_msat) == (Invoice.SETTLED, 21, 21_000)
    assert paid.r_preimage.hex() == payment.payment_preimage
    assert hashlib.sha256(paid.r_preimage).digest() == added.r_hash
    assert paid.settle_index > 0
    assert paid.settle_date > 0
    assert [htlc.custom_records.get(RECORD) for htlc in paid.htlcs] == [b"with it"]

    again = net.alice.pay(pay_request(added.payment_request))
    assert await refused(again) == (ALREADY_EXISTS, "invoice is already paid")


@case
async def test_invoice_without_amount(net):
    added = await net.bob.lightning.AddInvoice(Invoice())
    request = await net.alice.lightning.DecodePayReq(
        lightning_pb2.PayReqString(pay_req=added.payment_request)
    )
    assert (request.num_satoshis, request.num_msat) == (0, 0)
    refusal = await refused(net.alice.pay(pay_request(added.payment_request)))
    assert refusal == (UNKNOWN, "amount must be specified when paying a zero amount invoice")
    payment = await net.alice.pay(pay_request(added.payment_request, amt=5))
    assert outcome(payment) == ("SUCCEEDED", "NONE")
    assert (await lookup(net.bob, added.r_hash)).amt_paid_sat == 5


@case
async def test_look_up_an_unknown_invoice(net):
    # An lnd on bbolt that never had any invoice says "there are no existing invoices".
    await net.alice.lightning.AddInvoice(Invoice(value=1))
    refusal = await refused(lookup(net.alice, os.urandom(32)))
    assert refusal == (NOT_FOUND, "unable to locate invoice")


@case
async def test_decode_what_is_no_invoice(net):
    code, _ = await refused(
        net.alice.lightning.DecodePayReq(lightning_pb2.PayReqString(pay_req="lnsb1nothing"))
    )
    assert code is UNKNOWN


def pay_request(
    payment_request: str, records: dict[int, bytes] | None = None, **arguments
) -> router_pb2.SendPaymentRequest:
    return router_pb2.SendPaymentRequest(
        payment_request=payment_request,
        dest_custom_records=records or {},
        fee_limit_sat=10,
        timeout_seconds=60,
        no_inflight_updates=True,
        **arguments,
    )


# Hold invoices


@asynccontextmanager
async def watched_hold(client: ChannelClient, *, value: int = 100, expiry: int = 3600):
    """A hold invoice: its preimage, its hash, the answer of AddHoldInvoice, and its stream."""
    preimage, payment_hash = preimage_and_hash()
    request = invoices_pb2.AddHoldInvoiceRequest(memo="held", hash=payment_hash, value=value, expiry=expiry)
    added = await client.invoices.AddHoldInvoice(request)
    call = client.invoices.SubscribeSingleInvoice(
        invoices_pb2.SubscribeSingleInvoiceRequest(r_hash=payment_hash)
    )
    try:
        yield preimage, payment_hash, added, call
    finally:
        call.cancel()


@asynccontextmanager
async def held(client: ChannelClient, *, value: int = 100):
    """The same, when the stream's OPEN is read."""
    async with watched_hold(client, value=value) as (preimage, payment_hash, added, call):
        opened = await call.read()
        assert (opened.state, opened.r_hash, opened.value) == (Invoice.OPEN, payment_hash, value)
        yield preimage, payment_hash, added, call


@case
async def test_channels_tell_what_they_hold_and_for_how_long_they_are_watched(net):
    async with held(net.bob) as (preimage, payment_hash, added, single):
        paying = asyncio.ensure_future(net.alice.pay(pay_request(added.payment_request)))
        assert (await single.read()).state == Invoice.ACCEPTED
        (own,) = await channels_of(net.alice)
        assert own.lifetime >= 0
        htlc = next(htlc for htlc in own.pending_htlcs if htlc.hash_lock == payment_hash)
        assert (htlc.incoming, htlc.amount) == (False, 100)
        (far,) = await channels_of(net.bob, net.pubkey["alice"])
        assert next(htlc for htlc in far.pending_htlcs if htlc.hash_lock == payment_hash).incoming

        tracking = net.alice.router.TrackPaymentV2(router_pb2.TrackPaymentRequest(payment_hash=payment_hash))
        payment = await anext(aiter(tracking))
        tracking.cancel()
        assert payment.status == Payment.IN_FLIGHT
        (attempt,) = payment.htlcs
        height = (await net.alice.lightning.GetInfo(lightning_pb2.GetInfoRequest())).block_height
        assert attempt.status == lightning_pb2.HTLCAttempt.IN_FLIGHT
        assert attempt.route.total_time_lock > height

        pending = await net.alice.lightning.PendingChannels(lightning_pb2.PendingChannelsRequest())
        assert not pending.pending_force_closing_channels
        assert not pending.waiting_close_channels

        await settle(net.bob, preimage)
        (attempt,) = (await paying).htlcs
        assert attempt.status == lightning_pb2.HTLCAttempt.SUCCEEDED

        async def is_gone() -> bool:
            (own,) = await channels_of(net.alice)
            return payment_hash not in {htlc.hash_lock for htlc in own.pending_htlcs}

        # The payer has the preimage before both sides have signed the channel's next state.
        async with asyncio.timeout(GUARD_SECONDS):
            while not await is_gone():
                await asyncio.sleep(0.01)


async def settle(client: ChannelClient, preimage: bytes):
    return await client.invoices.SettleInvoice(invoices_pb2.SettleInvoiceMsg(preimage=preimage))


async def cancel(client: ChannelClient, payment_hash: bytes):
    return await client.invoices.CancelInvoice(invoices_pb2.CancelInvoiceMsg(payment_hash=payment_hash))


@case
async def test_hold_invoice_is_accepted_then_settled(net):
    async with watching(net.carol) as events, held(net.carol) as (preimage, payment_hash, added, single):
        assert added.payment_request.startswith("lnsb")
        assert added.add_index > 0
        assert len(added.payment_addr) == 32
        paying = asyncio.ensure_future(net.alice.pay(pay_request(added.payment_request, {RECORD: b"order"})))
        accepted = await single.read()
        assert accepted.state == Invoice.ACCEPTED
        (htlc,) = accepted.htlcs
        assert (htlc.state, htlc.amt_msat) == (lightning_pb2.InvoiceHTLCState.ACCEPTED, 100_000)
        assert htlc.custom_records[RECORD] == b"order"
        assert accepted.settle_index == 0
        looked_up = await lookup(net.carol, payment_hash)
        assert looked_up.state == Invoice.ACCEPTED
        assert looked_up.htlcs[0].custom_records[RECORD] == b"order"

        tracking = net.alice.router.TrackPaymentV2(router_pb2.TrackPaymentRequest(payment_hash=payment_hash))
        updates = aiter(tracking)
        assert (await anext(updates)).status == Payment.IN_FLIGHT
        again = await refused(net.alice.pay(pay_request(added.payment_request)))
        assert again == (ALREADY_EXISTS, "payment is in transition")

        await settle(net.carol, preimage)
        await settle(net.carol, preimage)
        settled = await single.read()
        assert (settled.state, settled.amt_paid_msat, settled.r_preimage) == (
            Invoice.SETTLED,
            100_000,
            preimage,
        )
        assert settled.settle_index > 0
        payment = await paying
        assert outcome(payment) == ("SUCCEEDED", "NONE")
        assert payment.payment_preimage == preimage.hex()
        assert [update.status async for update in updates][-1] == Payment.SUCCEEDED

        assert await refused(cancel(net.carol, payment_hash)) == (UNKNOWN, "invoice already settled")
        # The stream of all invoices told nothing of ACCEPTED.
        told = [await events.next_of(payment_hash), await events.next_of(payment_hash)]
        assert [invoice.state for invoice in told] == [Invoice.OPEN, Invoice.SETTLED]


@case
async def test_hold_invoice_is_accepted_then_canceled(net):
    async with held(net.carol) as (preimage, payment_hash, added, single):
        paying = asyncio.ensure_future(net.alice.pay(pay_request(added.payment_request, {RECORD: b"order"})))
        assert (await single.read()).state == Invoice.ACCEPTED
        await cancel(net.carol, payment_hash)
        canceled = await single.read()
        assert canceled.state == Invoice.CANCELED
        assert [htlc.state for htlc in canceled.htlcs] == [lightning_pb2.InvoiceHTLCState.CANCELED]
        assert outcome(await paying) == ("FAILED", "INCORRECT_PAYMENT_DETAILS")
        assert await refused(settle(net.carol, preimage)) == (UNKNOWN, "invoice already canceled")


@case
async def test_hold_invoice_is_canceled_before_it_is_paid(net):
    async with held(net.carol) as (_, payment_hash, added, single):
        await cancel(net.carol, payment_hash)
        assert (await single.read()).state == Invoice.CANCELED
        await cancel(net.carol, payment_hash)
        payment = await net.alice.pay(pay_request(added.payment_request))
        assert outcome(payment) == ("FAILED", "INCORRECT_PAYMENT_DETAILS")


@case
async def test_hold_invoice_that_nobody_paid_is_not_settled(net):
    async with held(net.carol) as (preimage, _, _, _):
        refusal = await refused(settle(net.carol, preimage))
        assert refusal == (UNKNOWN, "invoice still open")


@case
async def test_hold_invoice_with_a_known_hash(net):
    async with held(net.carol) as (_, payment_hash, _, _):
        again = net.carol.invoices.AddHoldInvoice(
            invoices_pb2.AddHoldInvoiceRequest(hash=payment_hash, value=1)
        )
        assert await refused(again) == (UNKNOWN, "invoice with payment hash already exists")


@case
async def test_hold_invoice_expires(net):
    async with watched_hold(net.carol, expiry=3) as (_, payment_hash, added, single):
        told = [await single.read()]
        # Who stood still since it was made finds it canceled already.
        if told[0].state == Invoice.OPEN:
            told.append(await single.read())
        assert told[-1].state == Invoice.CANCELED
        assert (await lookup(net.carol, payment_hash)).state == Invoice.CANCELED
        code, details = await refused(net.alice.pay(pay_request(added.payment_request)))
        assert code is UNKNOWN
        assert details.startswith("invoice expired. Valid until ")


@pytest.mark.parametrize("action", [settle, cancel])
@case
async def test_hold_invoice_that_does_not_exist(net, action):
    refusal = await refused(action(net.carol, os.urandom(32)))
    assert refusal == (UNKNOWN, "unable to locate invoice")


# Signatures


def zbase32_decode(text: str) -> bytes:
    table = str.maketrans("ybndrfg8ejkmcpqxot1uwisza345h769", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
    return base64.b32decode(text.translate(table))


async def sign(client: ChannelClient, message: bytes) -> str:
    return (await client.lightning.SignMessage(lightning_pb2.SignMessageRequest(msg=message))).signature


async def verify(
    client: ChannelClient, message: bytes, signature: str
) -> lightning_pb2.VerifyMessageResponse:
    request = lightning_pb2.VerifyMessageRequest(msg=message, signature=signature)
    return await client.lightning.VerifyMessage(request)


@pytest.mark.parametrize(
    "message", [b"x", b"\x00\xff" * 3000, "schöne Grüße".encode()], ids=["short", "long", "text"]
)
@case
async def test_signature_is_deterministic_and_verifies_without_lnd(net, message):
    signature = await sign(net.alice, message)
    assert signature == await sign(net.alice, message)
    assert signature != await sign(net.bob, message)
    assert len(signature) == 104
    raw = zbase32_decode(signature)
    header, compact = raw[0], raw[1:]
    digest = hashlib.sha256(hashlib.sha256(b"Lightning Signed Message:" + message).digest()).digest()
    # 31 to 34: the recovery number, for a compressed key.
    recoverable = compact + bytes([header - 31])
    recovered = PublicKey.from_signature_and_message(recoverable, digest, hasher=None)
    assert recovered.format().hex() == net.pubkey["alice"]


@case
async def test_sign_an_empty_message(net):
    assert await refused(sign(net.alice, b"")) == (UNKNOWN, "need a message to sign")


@case
async def test_verify_message(net):
    message = secrets.token_bytes(100)
    signature = await sign(net.alice, message)
    answer = await verify(net.carol, message, signature)
    assert (answer.valid, answer.pubkey) == (True, net.pubkey["alice"])
    answer = await verify(net.carol, message + b"!", signature)
    assert not answer.valid
    assert len(answer.pubkey) == 66
    assert answer.pubkey != net.pubkey["alice"]


@pytest.mark.parametrize(
    "garbage", ["", "y" * 104, "y" * 103, "nosignature"], ids=["empty", "zeros", "short", "text"]
)
@case
async def test_verify_what_is_no_signature(net, garbage):
    answer = await verify(net.carol, b"message", garbage)
    assert (answer.valid, answer.pubkey) == (False, "")


@pytest.mark.parametrize(("garbage", "place"), [("no signature", 2), ("0" * 104, 0)])
@case
async def test_verify_what_is_no_zbase32(net, garbage, place):
    text = f"failed to decode signature: illegal z-base-32 data at input byte {place}"
    assert await refused(verify(net.carol, b"message", garbage)) == (UNKNOWN, text)


# Custom messages between peers


async def send_custom(client: ChannelClient, peer_hex: str, number: int, data: bytes):
    request = lightning_pb2.SendCustomMessageRequest(peer=bytes.fromhex(peer_hex), type=number, data=data)
    return await client.lightning.SendCustomMessage(request)


@case
async def test_custom_message_reaches_a_peer(net):
    call = net.bob.lightning.SubscribeCustomMessages(lightning_pb2.SubscribeCustomMessagesRequest())
    try:
        reading = asyncio.ensure_future(call.read())
        while not reading.done():
            await send_custom(net.alice, net.pubkey["bob"], 32768, b"are you there?")
            await asyncio.wait({reading}, timeout=0.5)
        assert reading.result().data == b"are you there?"
        sent = [(32768, b"\x00\xff"), (65535, b""), (40_000, os.urandom(65_533))]
        for number, data in sent:
            await send_custom(net.alice, net.pubkey["bob"], number, data)
        told = []
        while len(told) < len(sent):
            message = await call.read()
            assert message.peer.hex() == net.pubkey["alice"]
            if message.data != b"are you there?":
                told.append((message.type, message.data))
        assert told == sent
    finally:
        call.cancel()


@case
async def test_custom_message_to_a_node_that_is_no_peer(net):
    refusal = await refused(send_custom(net.alice, net.pubkey["carol"], 32768, b"x"))
    assert refusal == (NOT_FOUND, "peer is not connected")


@case
async def test_custom_message_of_a_type_of_the_protocol(net):
    refusal = await refused(send_custom(net.alice, net.pubkey["bob"], 32767, b"x"))
    assert refusal[0] is UNKNOWN


@case
async def test_custom_message_that_is_too_long(net):
    """A byte too many costs the connection to the peer, which comes back by itself."""
    text = "message payload is too large - encoded 65534 bytes, but maximum message payload is 65533 bytes"
    too_long = send_custom(net.carol, net.pubkey["dave"], 40_000, bytes(65_534))
    assert await refused(too_long) == (UNKNOWN, text)
    while not all(channel.active for channel in await channels_of(net.carol) + await channels_of(net.dave)):
        await asyncio.sleep(0.05)
