"""A node with no more than the macaroon that `./impervious macaroon` prints the line for, and with less."""

import asyncio

import pytest
import yaml

from lightning.client import LndClient, LndError, Trouble
from lightning.rpcs import ONLY_FOR, Rpc, bake_line, calls_for
from nodeapi.lnd_status import LndStatus
from tests.support.macaroons import all_but, baked, printed, uris
from tests.support.networks import simulated_network
from tests.support.nodes import Node
from tests.support.streams import WebsocketStream, is_end, send


@pytest.fixture(scope="module")
def own_network(tmp_path_factory):
    with simulated_network(tmp_path_factory.mktemp("network")) as network:
        yield network


def services(**active: bool) -> dict:
    numbers = {"vpn": 200000, "message": 400000}
    return {
        "service_list": [
            {"service_type": name, "active": is_active, "custom_record_number": numbers[name]}
            for name, is_active in active.items()
        ]
    }


def write_config(path, sections: dict) -> None:
    lnd = {"ip": "127.0.0.1", "port": 10009, "admin_macaroon": "not-baked-yet.macaroon"}
    path.write_text(yaml.safe_dump({"lightning": {"lnd_node": lnd}, **sections}))


def test_line_is_for_the_services_that_are_active(tmp_path):
    # The macaroon's file is named already, here and there, and not there yet.
    write_config(tmp_path / "node.yml", services(vpn=False, message=True))
    environ = {"IMPD_LIGHTNING__LND_NODE__ADMIN_MACAROON": "nowhere"}
    assert (
        printed("--config", "node.yml", cwd=tmp_path, environ=environ)
        == bake_line(calls_for({"message"})) + "\n"
    )
    assert printed("--config", "node.yml", "--all", cwd=tmp_path) == bake_line(Rpc) + "\n"


def test_node_works_with_the_macaroon_of_the_line(own_network, tmp_path):
    lnd = baked(own_network.nodes["alice"], tmp_path, uris(bake_line(Rpc)))
    with Node(lnd, tmp_path / "alice") as alice, Node(own_network.nodes["bob"], tmp_path / "bob") as bob:
        with WebsocketStream(alice) as stream:
            for body in (b"short", bytes(range(256)) * 20):
                message_id = send(alice, bob, body)
                stream.until(is_end(message_id))
                assert alice.get(f"/v1/message/{message_id}").json["message"]["state"] == "settled"
            answer = send(bob, alice)
            stream.until(lambda event: event["id"] == answer)
        assert alice.get(f"/v1/message/estimate?pubkey={bob.pubkey}&size=20000").json["reachable"]
        signature = alice.post("/v1/sign", {"msg": "hello"}).json["signature"]
        assert (
            alice.post("/v1/verify", {"msg": "hello", "signature": signature}).json["pubkey"] == alice.pubkey
        )
        for payer, payee in ((alice, bob), (bob, alice)):
            invoice = payee.post("/v1/lightning/generateinvoice", {"amount": 21}).json["invoice"]
            paid = payer.post("/v1/lightning/payinvoice", {"invoice": invoice})
            assert paid.status == 200, paid.body
            assert payee.post("/v1/lightning/checkinvoice", {"invoice": invoice}).json["paid"]
        assert alice.get("/v1/node").json["warnings"] == bob.get("/v1/node").json["warnings"]
        assert "does not permit" not in alice.log
        assert "permission" not in alice.log


def test_start_with_too_weak_a_macaroon_names_what_is_missing(own_network, tmp_path):
    lnd = baked(own_network.nodes["carol"], tmp_path, all_but(Rpc.GET_NODE_INFO, Rpc.SETTLE_INVOICE))
    log = Node(lnd, tmp_path / "carol").refused_start()
    assert "does not permit GetNodeInfo, SettleInvoice" in log
    assert "`./impervious macaroon` prints the line" in log


async def connect(lnd, calls: list[Rpc]) -> None:
    client = LndClient(
        host=lnd.host,
        port=lnd.port,
        tls_cert=lnd.tls_cert_path.read_bytes(),
        macaroon_hex=lnd.macaroon_path.read_bytes().hex(),
    )
    try:
        await LndStatus(client).connect(expected_pubkey="", calls=calls)
    finally:
        await client.close()


@pytest.mark.parametrize("may_ask", [True, False], ids=["asking lnd", "reading it"])
@pytest.mark.parametrize(
    "missing", [rpc for rpc in Rpc if rpc is not Rpc.CHECK_MACAROON], ids=lambda rpc: rpc.method
)
def test_each_call_is_missed_by_name(own_network, tmp_path, missing, may_ask):
    lacking = [missing] if may_ask else [missing, Rpc.CHECK_MACAROON]
    lnd = baked(own_network.nodes["carol"], tmp_path, all_but(*lacking))
    with pytest.raises(LndError) as caught:
        asyncio.run(connect(lnd, list(Rpc)))
    assert caught.value.trouble is Trouble.MACAROON
    assert f"does not permit {missing.method} " in str(caught.value)


def test_the_question_itself_is_not_missed(own_network, tmp_path):
    asyncio.run(connect(baked(own_network.nodes["carol"], tmp_path, all_but(Rpc.CHECK_MACAROON)), list(Rpc)))


def test_calls_of_a_service_that_is_off_are_not_missed(own_network, tmp_path):
    lnd = baked(own_network.nodes["carol"], tmp_path, all_but(*ONLY_FOR))
    asyncio.run(connect(lnd, calls_for({"message"})))
