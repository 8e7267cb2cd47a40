"""The same Idempotency-Key and request give the same id, and nothing is sent twice."""

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from protos import messaging_pb2, messaging_pb2_grpc
from tests.support.networks import new_network, start_simulated
from tests.support.nodes import Node

pytestmark = pytest.mark.sql


def fresh_key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


def test_same_request_same_id(alice, bob):
    body, key = {"msg": "b25jZQ==", "pubkey": bob.pubkey}, fresh_key()
    first, second = alice.post("/v1/message/send", body, key), alice.post("/v1/message/send", body, key)
    assert first.status == 200
    assert first.json == second.json
    assert alice.post("/v1/message/send", body).json != first.json


def test_another_request_is_refused(alice, bob):
    key = fresh_key()
    alice.post("/v1/message/send", {"msg": "b25jZQ==", "pubkey": bob.pubkey}, key)
    other = alice.post("/v1/message/send", {"msg": "dHdpY2U=", "pubkey": bob.pubkey}, key)
    assert (other.status, other.json["code"]) == (409, 6)
    assert "Idempotency-Key" in other.json["message"]


def test_concurrent_requests_make_one_message(alice, bob):
    body, key = {"msg": "b25jZQ==", "pubkey": bob.pubkey}, fresh_key()
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: alice.post("/v1/message/send", body, key), range(48)))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.json["id"] for reply in replies}) == 1


def test_key_is_shared_by_rest_and_grpc_and_survives_kill(alice, bob):
    key = fresh_key()
    by_rest = alice.post("/v1/message/send", {"msg": "b25jZQ==", "pubkey": bob.pubkey}, key).json["id"]
    alice.kill()
    alice.start()
    with grpc.insecure_channel(alice.grpc) as channel:
        by_grpc = messaging_pb2_grpc.MessagingStub(channel).SendMessage(
            messaging_pb2.SendMessageRequest(msg=b"once", pubkey=bob.pubkey),
            metadata=(("idempotency-key", key["Idempotency-Key"]),),
        )
    assert by_grpc.id == by_rest


def test_key_that_is_none(alice, bob):
    reply = alice.post(
        "/v1/message/send", {"msg": "b25jZQ==", "pubkey": bob.pubkey}, {"Idempotency-Key": "x" * 256}
    )
    assert reply.status == 400
    assert "Idempotency-Key" in reply.json["message"]


def test_what_was_accepted_is_not_refused_for_a_balance_that_it_spent(tmp_path):
    simulated = new_network(tmp_path / "network", ["alice", "bob"])
    asyncio.run(start_simulated(simulated))
    try:
        with Node(simulated.nodes["alice"], tmp_path / "alice") as alice:
            amount = int(alice.get("/v1/node").json["spendableSat"]) - 100
            body = {"msg": "b25jZQ==", "pubkey": simulated.nodes["bob"].pubkey, "amount": amount}
            key = fresh_key()
            first = alice.post("/v1/message/send", body, key)
            alice.wait_until(lambda: int(alice.get("/v1/node").json["spendableSat"]) < amount)
            assert alice.post("/v1/message/send", body, key).json == first.json
            assert alice.post("/v1/message/send", body, fresh_key()).json["code"] == 9
    finally:
        asyncio.run(simulated.stop())


def test_one_table_for_all_that_takes_a_key(alice, bob):
    """Messages, payments and invoices under one key: the first has it, the others are told, and nobody else fails."""
    made = bob.post("/v1/lightning/generateinvoice", {"amount": 1}).json["invoice"]
    for _ in range(10):
        key = fresh_key()
        calls = [
            ("/v1/message/send", {"msg": "b25jZQ==", "pubkey": bob.pubkey}, key),
            ("/v1/lightning/payinvoice", {"invoice": made}, key),
            ("/v1/lightning/generateinvoice", {"amount": 3}, key),
        ] + [("/v1/message/send", {"msg": "b3RoZXI=", "pubkey": bob.pubkey}, fresh_key())] * 6
        with ThreadPoolExecutor(9) as pool:
            colliding, others = [], []
            for number, reply in enumerate(pool.map(lambda call: alice.post(*call), calls)):
                (colliding if number < 3 else others).append((reply.status, reply.json.get("code")))
        assert sorted(colliding) == sorted([(200, None), (409, 6), (409, 6)])
        assert {status for status, _ in others} == {200}


def test_invoice_is_made_once_for_a_key(alice, bob):
    key = {"Idempotency-Key": "Bestellung 7 \N{SNOWMAN}".encode().decode("latin-1") + uuid.uuid4().hex}
    path, body = "/v1/lightning/generateinvoice", {"amount": 3, "memo": "tea"}
    first = alice.post(path, body, key)
    assert first.status == 200
    assert alice.post(path, body | {"expiresIn": 86_400}, key).json == first.json
    other = alice.post(path, {"amount": 4}, key)
    assert (other.status, other.json["code"]) == (409, 6)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/messages"), ("GET", "/v1/node"), ("POST", "/v1/socket/stop")]
)
def test_call_that_cannot_keep_to_a_key_says_so(alice, method, path):
    reply = alice.request(method, path, None, fresh_key())
    assert (reply.status, reply.json["code"]) == (400, 3)
    assert reply.json["message"].startswith("Idempotency-Key: is not for ")


def test_key_in_bytes_over_grpc_is_that_of_rest(alice, bob):
    key = f"\N{SNOWMAN}{uuid.uuid4().hex}"
    header = {"Idempotency-Key": key.encode().decode("latin-1")}
    by_rest = alice.post("/v1/message/send", {"msg": "b25jZQ==", "pubkey": bob.pubkey}, header).json["id"]
    with grpc.insecure_channel(alice.grpc) as channel:
        by_grpc = messaging_pb2_grpc.MessagingStub(channel).SendMessage(
            messaging_pb2.SendMessageRequest(msg=b"once", pubkey=bob.pubkey.upper(), amount=1),
            metadata=(("idempotency-key-bin", key.encode()),),
        )
    assert by_grpc.id == by_rest
