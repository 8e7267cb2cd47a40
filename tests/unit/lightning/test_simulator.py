"""The pure parts of the simulator, and its rules without gRPC. Its gRPC is tested by the conformance tests."""

import asyncio
import hashlib
import shlex

import pytest
import yaml
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from lightning import signature
from lightning.simulator import bolt11, credentials, onion, signing
from lightning.simulator.config_file import BASE_PORT, service_ports, write_config
from lightning.simulator.errors import CallError, StartError
from lightning.simulator.graph import MAX_HTLCS, Search
from lightning.simulator.invoices import Order
from lightning.simulator.payments import INCORRECT_DETAILS, INSUFFICIENT_BALANCE, NO_ROUTE
from lightning.simulator.services import make_services
from lightning.simulator.store import Store
from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2

GUARD_SECONDS = 600
KEYSEND = 5482373484
KEY = PrivateKey(b"\x07" * 32)


def network_of(*names, path=":memory:", topology="chain", private=()):
    services = make_services(Store(path))
    services.network.ensure_nodes(list(names), topology, private)
    return services


def keysend(target, *, preimage=b"\x01" * 32, amount=1000, fee_limit=10_000, size=None):
    records = {KEYSEND: preimage} | ({400_000: bytes(size)} if size is not None else {})
    return router_pb2.SendPaymentRequest(
        dest=target.pubkey,
        amt_msat=amount,
        payment_hash=hashlib.sha256(preimage).digest(),
        dest_custom_records=records,
        dest_features=[lightning_pb2.TLV_ONION_OPT],
        fee_limit_msat=fee_limit,
    )


async def pay(services, sender, request):
    _, stream = services.payments.send(sender, request)
    async for payment in stream:
        if payment.status in (lightning_pb2.Payment.SUCCEEDED, lightning_pb2.Payment.FAILED):
            stream.close()
            return payment
    raise AssertionError("the stream ended before the payment")


# room in the onion


@pytest.mark.parametrize(("hops", "room"), [(1, 1207), (2, 1156), (3, 1105)])
def test_one_record_at_one_sat_fills_the_onion_exactly(hops, room):
    records = {KEYSEND: bytes(32), 400_000: bytes(room)}
    assert onion.record_room(hops, records, 1000) == 0
    assert onion.record_room(hops, records | {400_000: bytes(room + 1)}, 1000) == -1


def test_a_larger_amount_takes_a_byte_a_hop():
    records = {KEYSEND: bytes(32), 400_000: bytes(1000)}
    assert onion.record_room(3, records, 65_535) - onion.record_room(3, records, 65_536) == 3


@pytest.mark.parametrize(
    ("value", "size"), [(0, 1), (0xFC, 1), (0xFD, 3), (0xFFFF, 3), (0x10000, 5), (2**32, 9)]
)
def test_varint_size(value, size):
    assert onion.varint_size(value) == size


# signatures


def test_a_signature_is_deterministic_and_verified_by_the_nodes_own_code():
    text = signing.sign_message(KEY, b"hello")
    assert text == signing.sign_message(KEY, b"hello")
    assert len(text) == 104
    compact = signature.compact_from_zbase32(text)
    assert signature.verify(message=b"hello", compact=compact, pubkey=KEY.public_key.format())
    assert signing.recover_signer(b"hello", text) == KEY.public_key.format()


def test_what_is_no_signature_recovers_to_no_key():
    assert signing.recover_signer(b"hello", "garbage") is None
    assert signing.recover_signer(b"hello", "y" * 104) is None
    assert signing.recover_signer(b"other", signing.sign_message(KEY, b"hello")) != KEY.public_key.format()
    with pytest.raises(CallError, match="need a message to sign"):
        signing.sign_message(KEY, b"")


# payment requests


def test_the_amounts_of_bolt11s_own_examples():
    # 2500u, 20m and 9678785340p of the specification's examples.
    for amount, text in ((250_000_000, "2500u"), (2_000_000_000, "20m"), (967_878_534, "9678785340p")):
        assert bolt11._encode_amount(amount) == text
        assert bolt11._decode_amount(text) == amount


@given(st.integers(0, 2**40), st.text(max_size=60), st.integers(1, 10**7), st.booleans())
def test_a_payment_request_comes_back_as_it_was(amount, description, expiry, hinted):
    hint = bolt11.HopHint(KEY.public_key.format(), 16_000_000 << 40, 1000, 1, 80)
    asked = bolt11.PaymentRequest(
        payment_hash=b"\x05" * 32,
        amount=amount,
        timestamp=1_800_000_000,
        expiry=expiry,
        description=description,
        cltv_expiry=80,
        payment_addr=b"\x06" * 32,
        hints=(hint,) if hinted else (),
        destination=KEY.public_key.format(),
    )
    text = bolt11.encode(asked, KEY)
    assert text.startswith("lnsb")
    assert bolt11.decode(text) == asked
    assert bolt11.decode(text.upper()) == asked


@given(st.text(max_size=80))
def test_what_is_no_payment_request_is_refused(text):
    with pytest.raises(CallError):
        bolt11.decode(text)


def test_a_changed_payment_request_is_refused():
    asked = bolt11.PaymentRequest(payment_hash=bytes(32), amount=5000, timestamp=1, payment_addr=bytes(32))
    text = bolt11.encode(asked, KEY)
    with pytest.raises(CallError, match="checksum"):
        bolt11.decode(text[:40] + ("q" if text[40] != "q" else "p") + text[41:])
    with pytest.raises(CallError, match="network"):
        bolt11.decode("lnbc" + text[4:])


# routes


def search(services, source, target, amount=1000, fee_limit=10_000, **more):
    node = services.network.node
    asked = Search(node(source).id, node(target).id, amount, fee_limit, final_size=200, **more)
    return services.network.graph.find_route(asked)


def test_a_direct_peer_costs_nothing_and_each_hop_between_its_fee():
    services = network_of("alice", "bob", "carol", "dave")
    assert [hop.amount for hop in search(services, "alice", "bob")] == [1000]
    assert [hop.amount for hop in search(services, "alice", "dave")] == [3000, 2000, 1000]
    assert [hop.amount for hop in search(services, "alice", "carol", 10_000_000)] == [10_001_010, 10_000_000]
    assert search(services, "alice", "dave", fee_limit=1999) is None


def test_the_reserve_cannot_be_sent():
    services = network_of("alice", "bob")
    assert search(services, "alice", "bob", 4_900_000_000)
    assert search(services, "alice", "bob", 4_900_000_001) is None


def test_a_direction_carries_483_htlcs():
    services = network_of("alice", "bob")
    channel, alice = services.network.graph.of(1)[0], services.network.node("alice")
    indices = [channel.lock(alice.id, 1000) for _ in range(MAX_HTLCS)]
    assert indices == list(range(MAX_HTLCS))
    assert search(services, "alice", "bob") is None
    assert search(services, "bob", "alice")
    channel.resolve(alice.id, 1000, settled=True)
    assert search(services, "alice", "bob")
    assert sum(channel.balances) + 1000 * channel.in_flight[0] == channel.capacity_sat * 1000


def test_a_private_channel_wants_a_hint_from_strangers():
    services = network_of("alice", "bob", "carol", private=["carol"])
    bob, carol = services.network.node("bob"), services.network.node("carol")
    channel = services.network.graph.of(carol.id)[0]
    assert search(services, "bob", "carol")
    assert search(services, "carol", "alice")
    assert search(services, "alice", "carol") is None
    for channel_id in (channel.id, channel.alias):
        assert search(services, "alice", "carol", hints={(bob.id, channel_id)})
    assert not services.network.graph.knows(1, carol.id)


@pytest.mark.parametrize(("topology", "channels"), [("chain", 3), ("star", 3), ("full", 6), ("none", 0)])
def test_topologies(topology, channels):
    services = network_of("a", "b", "c", "d", topology=topology)
    assert len(services.network.graph.channels) == channels


def test_names_and_topologies_that_are_none_are_refused():
    with pytest.raises(StartError, match="no name"):
        network_of("../x")
    with pytest.raises(StartError, match="no topology"):
        network_of("a", "b", topology="ring")


# payments and invoices


def test_a_keysend_moves_the_money_and_settles_an_invoice():
    async def scene():
        services = network_of("alice", "bob", "carol")
        alice, carol = services.network.node("alice"), services.network.node("carol")
        stream = services.invoices.subscribe(carol, 0, 0)
        payment = await pay(services, alice, keysend(carol, size=100))
        told = [item async for item, _ in _take(stream, 2)]
        assert (payment.status, payment.fee_msat, payment.failure_reason) == (2, 1000, 0)
        assert [(item.state, item.add_index, item.settle_index) for item in told] == [(0, 1, 0), (1, 1, 1)]
        assert not told[0].htlcs
        assert told[1].htlcs[0].custom_records[400_000] == bytes(100)
        assert [channel.balances for channel in services.network.graph.channels.values()] == [
            [4_999_998_000, 5_000_002_000],
            [4_999_999_000, 5_000_001_000],
        ]

    asyncio.run(scene())


def test_a_known_hash_is_refused_but_not_a_failed_one():
    async def scene():
        services = network_of("alice", "bob")
        alice, bob = services.network.nodes
        bob.accepts_keysend = False
        assert (await pay(services, alice, keysend(bob))).failure_reason == INCORRECT_DETAILS
        bob.accepts_keysend = True
        assert (await pay(services, alice, keysend(bob))).status == 2
        with pytest.raises(CallError, match="invoice is already paid"):
            await pay(services, alice, keysend(bob))

    asyncio.run(scene())


def test_a_settled_preimage_paid_again_gets_a_new_settle_index_and_the_backlog_tells_it_twice():
    async def scene():
        services = network_of("alice", "bob", "carol")
        alice, bob, carol = services.network.nodes
        for sender, preimage in ((alice, b"\x01" * 32), (alice, b"\x02" * 32), (carol, b"\x02" * 32)):
            assert (await pay(services, sender, keysend(bob, preimage=preimage))).status == 2
        backlog = services.invoices.subscribe(bob, 0, 1)
        twice = [item async for item, _ in _take(backlog, 2)]
        assert [item.settle_index for item in twice] == [3, 3]
        assert len({(htlc.chan_id, htlc.htlc_index) for htlc in twice[0].htlcs}) == 2

    asyncio.run(scene())


def test_a_settled_preimage_is_not_paid_again_for_less():
    async def scene():
        services = network_of("alice", "bob", "carol")
        alice, bob, carol = services.network.nodes
        assert (await pay(services, alice, keysend(bob, amount=2000))).status == 2
        assert (await pay(services, carol, keysend(bob, amount=1999))).failure_reason == INCORRECT_DETAILS

    asyncio.run(scene())


def test_why_a_payment_fails():
    async def scene():
        services = network_of("alice", "bob", "carol")
        alice, bob, carol = services.network.nodes

        async def reason(request):
            return (await pay(services, alice, request)).failure_reason

        assert await reason(keysend(carol, fee_limit=0)) == NO_ROUTE
        assert await reason(keysend(carol, size=1157)) == NO_ROUTE
        assert await reason(keysend(bob, amount=5_000_000_000)) == INSUFFICIENT_BALANCE
        wrong = keysend(bob)
        wrong.dest_custom_records[KEYSEND] = b"\x09" * 32
        assert await reason(wrong) == INCORRECT_DETAILS
        assert (
            sum(services.network.graph.channels[c].balances[0] for c in services.network.graph.channels)
            == 10**10
        )

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"amt_msat": 0}, "amount must be specified"),
        ({"amt": 1}, "mutually exclusive"),
        ({"amt_msat": -1}, "amount cannot be negative"),
        ({"dest_custom_records": {65535: b""}}, "no custom records with types below 65536 allowed"),
        ({"payment_hash": b"x"}, "invalid hash length of 1, want 32"),
        ({"dest": b"x"}, "invalid vertex length of 1, want 33"),
    ],
)
def test_requests_lnd_refuses(change, text):
    services = network_of("alice", "bob")
    alice, bob = services.network.nodes
    request = keysend(bob)
    request.MergeFrom(router_pb2.SendPaymentRequest(**change))
    for name in change:
        if name != "dest_custom_records":
            setattr(request, name, change[name])
    with pytest.raises(CallError, match=text):
        services.payments.send(alice, request)


def test_a_hold_invoice_waits_for_its_owner_over_a_restart(tmp_path):
    preimage = b"\x03" * 32
    payment_hash = hashlib.sha256(preimage).digest()

    async def accept():
        services = network_of("alice", "bob", path=tmp_path / "db")
        alice, bob = services.network.nodes
        invoice = services.invoices.add(bob, lightning_pb2.Invoice(value=5))
        order = _hold_order(payment_hash)
        held = services.invoices.add_order(bob, order)
        assert invoice.add_index + 1 == held.add_index
        services.payments.send(alice, router_pb2.SendPaymentRequest(payment_request=held.payment_request))
        async with asyncio.timeout(GUARD_SECONDS):
            while services.invoices.lookup(bob, payment_hash).state != lightning_pb2.Invoice.ACCEPTED:
                await asyncio.sleep(0.01)

    async def settle():
        services = network_of("alice", "bob", path=tmp_path / "db")
        alice, bob = services.network.nodes
        services.payments.resume()
        channel = services.network.graph.of(alice.id)[0]
        assert channel.in_flight == [1, 0]
        services.payments.settle_invoice(bob, preimage)
        services.payments.settle_invoice(bob, preimage)
        assert services.network.store.payment(alice.id, payment_hash).payment_preimage == preimage.hex()
        assert (channel.in_flight, channel.balances) == ([0, 0], [4_999_995_000, 5_000_005_000])
        with pytest.raises(CallError, match="invoice already settled"):
            services.payments.cancel_invoice(bob, payment_hash)

    asyncio.run(accept())
    asyncio.run(settle())


def test_a_failed_transaction_tells_nobody():
    store, told = Store(":memory:"), []
    with pytest.raises(RuntimeError), store.transaction():
        store.add_node("x", b"")
        store.after_commit(lambda: told.append(1))
        raise RuntimeError
    assert (told, store.nodes()) == ([], [])


# files


def test_config_is_kept_as_edited_until_the_pubkey_differs(tmp_path):
    def write(pubkey, lnd_port):
        return write_config(tmp_path, name="a", pubkey=pubkey, lnd_port=lnd_port, ports=(8881, 8882))

    path = write("02aa", 10001)
    assert path.stat().st_mode & 0o777 == 0o600
    password = yaml.safe_load(path.read_text())["sqlite3"]["password"]
    path.write_text(path.read_text().replace("127.0.0.1:8882", "127.0.0.1:7777"))
    write("02aa", 20001)
    edited = yaml.safe_load(path.read_text())
    assert edited["server"]["http_addr"] == "127.0.0.1:7777"
    assert edited["lightning"]["lnd_node"]["port"] == 20001
    assert edited["vpn"]["server_port"] == 51820
    write("02bb", 20001)
    anew = yaml.safe_load(path.read_text())
    assert anew["server"]["http_addr"] == "127.0.0.1:8882"
    assert anew["sqlite3"]["password"] != password


def test_ports_of_the_nodes_on_top():
    assert [service_ports(index) for index in range(3)] == [(8881, 8882), (9991, 9992), (9993, 9994)]
    assert service_ports(1, 2000) == (11991, 11992)


@pytest.mark.parametrize("base_port", [BASE_PORT, 20001])
def test_no_port_of_a_large_network_is_given_twice(base_port):
    on_top = [port for index in range(90) for port in service_ports(index, base_port - BASE_PORT)]
    of_lnd = [base_port + index for index in range(90)]
    assert len({*on_top, *of_lnd}) == 270


def test_the_nodes_on_top_move_along_with_the_network(tmp_path):
    def write(base_port, index=1):
        path = write_config(
            tmp_path,
            name="b",
            pubkey="02aa",
            lnd_port=base_port + index,
            ports=service_ports(index, base_port - BASE_PORT),
        )
        server = yaml.safe_load(path.read_text())["server"]
        return server["grpc_addr"], server["http_addr"]

    assert write(BASE_PORT) == ("127.0.0.1:9991", "127.0.0.1:9992")
    assert write(20001) == ("127.0.0.1:19991", "127.0.0.1:19992")
    assert write(BASE_PORT) == ("127.0.0.1:9991", "127.0.0.1:9992")


def test_printed_commands_can_be_pasted(tmp_path):
    home = tmp_path / "my network"
    home.mkdir()
    path = write_config(home, name="a", pubkey="02aa", lnd_port=BASE_PORT, ports=service_ports(0))
    first_line = path.read_text().splitlines()[0]
    assert shlex.split(first_line.partition("Start it: ")[2]) == ["./impervious", "--config", str(path)]


def test_secrets_are_made_once_and_private(tmp_path):
    first = credentials.ensure_secret(tmp_path / "admin.macaroon")
    assert first == credentials.ensure_secret(tmp_path / "admin.macaroon")
    assert credentials.ensure_tls(tmp_path) == credentials.ensure_tls(tmp_path)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in tmp_path.iterdir())
    assert credentials.same_macaroon(first.hex().upper(), first.hex())
    assert not credentials.same_macaroon("", first.hex())


async def _take(stream, count):
    number = 0
    async for item in stream:
        number += 1
        yield item, number
        if number == count:
            return


def _hold_order(payment_hash):
    return Order(
        payment_hash=payment_hash, preimage=b"", amount=5000, memo="", expiry=0, cltv_expiry=0, private=False
    )
