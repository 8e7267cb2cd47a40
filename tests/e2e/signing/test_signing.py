"""Signatures by the node's key: made by lnd, verified here."""

import base64
import hashlib

import grpc
import pytest
from coincurve import PrivateKey

from protos import signing_pb2, signing_pb2_grpc
from tests.support.nodes import SERVICES, Node
from tests.support.streams import GUARD_SECONDS, WebsocketStream, is_end

SIGN, VERIFY = "/v1/sign", "/v1/verify"
TO_ZBASE32 = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "ybndrfg8ejkmcpqxot1uwisza345h769")
STRANGER = PrivateKey(b"\x0b" * 32)


def as_text(raw: bytes) -> str:
    return base64.b32encode(raw).decode().translate(TO_ZBASE32)


def signed(key: PrivateKey, message: str) -> str:
    """As lnd signs."""
    digest = hashlib.sha256(hashlib.sha256(b"Lightning Signed Message:" + message.encode()).digest()).digest()
    made = key.sign_recoverable(digest, hasher=None)
    return as_text(bytes([31 + made[64]]) + made[:64])


def sign(node: Node, msg: str) -> str:
    reply = node.post(SIGN, {"msg": msg})
    assert reply.status == 200, reply.body
    return reply.json["signature"]


def verify(node: Node, msg: str, signature: str, **fields) -> tuple[bool, str]:
    reply = node.post(VERIFY, {"msg": msg, "signature": signature, **fields})
    assert reply.status == 200, reply.body
    return reply.json["result"], reply.json["pubkey"]


@pytest.mark.parametrize(
    "msg", ["hello", " spaces stay ", "line\nand \0 NUL", "grüße 😀", "x" * 100_000], ids=repr
)
def test_what_is_signed_is_verified_here_and_elsewhere(alice, bob, msg):
    signature = sign(alice, msg)
    assert len(signature) == 104
    assert verify(alice, msg, signature) == (True, alice.pubkey)
    assert verify(bob, msg, signature) == (True, alice.pubkey)
    assert verify(bob, msg, signature, pubkey=alice.pubkey.upper()) == (True, alice.pubkey)
    assert verify(bob, msg, signature, pubkey=bob.pubkey) == (False, alice.pubkey)


def test_another_message_is_another_key(alice):
    signature = sign(alice, "pay 1")
    result, pubkey = verify(alice, "pay 1 ", signature)
    assert (result, pubkey != alice.pubkey, len(pubkey)) == (False, True, 66)


def test_stranger_is_believed_only_when_asked_for(alice):
    pubkey = STRANGER.public_key.format().hex()
    signature = signed(STRANGER, "hello")
    assert verify(alice, "hello", signature) == (False, pubkey)
    assert verify(alice, "hello", signature, pubkey=pubkey) == (True, pubkey)


def test_node_that_is_a_peer_but_not_in_the_graph(alice):
    key = PrivateKey()
    pubkey = key.public_key.format().hex()
    signature = signed(key, "hello")
    assert verify(alice, "hello", signature) == (False, pubkey)
    with WebsocketStream(alice) as stream:
        message_id = alice.post("/v1/message/send", {"msg": "aGk=", "pubkey": pubkey}).json["id"]
        stream.until(is_end(message_id))
    assert verify(alice, "hello", signature) == (True, pubkey)


BAD_SIGNATURES = {
    "none": ("", "missing"),
    "short": ("y" * 103, "103 characters"),
    "long": ("y" * 10_000, "10000 characters"),
    "not zbase32": ("l" * 104, "zbase32 (character 1)"),
    "capitals": (as_text(bytes([31]) + bytes([7]) * 64).upper(), "zbase32"),
    "other alphabet": ("ü" * 104, "zbase32"),
    "header 0": (as_text(bytes(65)), "first byte is 0"),
    "header 35": (as_text(bytes([35]) + bytes([7]) * 64), "first byte is 35"),
    "r and s zero": (as_text(bytes([31]) + bytes(64)), "no key"),
    "s zero": (as_text(bytes([31]) + bytes([7]) * 32 + bytes(32)), "no key"),
    "r and s too large": (as_text(bytes([31]) + b"\xff" * 64), "no key"),
    "no such point": (as_text(bytes([31]) + bytes(31) + b"\x05" + bytes([7]) * 32), "no key"),
    "r beyond the field": (as_text(bytes([33]) + bytes([7]) * 64), ""),
}


@pytest.mark.parametrize("name", BAD_SIGNATURES)
def test_what_is_no_signature(alice, name):
    signature, words = BAD_SIGNATURES[name]
    reply = alice.post(VERIFY, {"msg": "hello", "signature": signature, "pubkey": alice.pubkey})
    assert (reply.status, reply.json["code"]) == (400, 3)
    assert reply.json["message"].startswith("signature: ")
    assert words in reply.json["message"]


@pytest.mark.parametrize("path", [SIGN, VERIFY])
def test_messages_that_are_refused(alice, path):
    fields = {"signature": sign(alice, "hello")}
    for msg, words in (("", "missing or empty"), ("x" * (2**20 + 1), "message.max_bytes")):
        reply = alice.post(path, {"msg": msg, **fields})
        assert reply.status == 400
        assert reply.json["message"].startswith("msg: ")
        assert words in reply.json["message"]
    assert alice.post(path, {"msg": "x" * 10 * 2**20, **fields}).status in (400, 413)
    assert verify(alice, "hello", fields["signature"])[0]


def test_the_node_does_not_sign_what_would_be_its_own_message(alice):
    for msg in ("impervious packet 1", "impervious packet 1" + "\x02" * 100):
        reply = alice.post(SIGN, {"msg": msg})
        assert (reply.status, reply.json["code"]) == (400, 3)
        assert reply.json["message"].startswith("msg: must not begin with")
    assert sign(alice, " impervious packet 1")


def test_grpc(alice):
    with grpc.insecure_channel(alice.grpc) as channel:
        stub = signing_pb2_grpc.SigningStub(channel)
        signature = stub.SignMessage(signing_pb2.SignRequest(msg="hello"), timeout=GUARD_SECONDS).signature
        request = signing_pb2.VerifyRequest(msg="hello", signature=signature)
        reply = stub.VerifySignature(request, timeout=GUARD_SECONDS)
        assert (reply.result, reply.pubkey) == (True, alice.pubkey)
        with pytest.raises(grpc.RpcError) as refused:
            stub.SignMessage(signing_pb2.SignRequest(msg=""), timeout=GUARD_SECONDS)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "msg: is missing or empty"


def test_scopes_and_a_service_that_is_off(network, tmp_path):
    key_file = tmp_path / "reader.key"
    key_file.write_text("k" * 20)
    off = [
        {"service_type": name, "active": name != "sign", "custom_record_number": number}
        for name, number in SERVICES.items()
    ]
    keys = {"api_keys": [{"name": "reader", "key_file": str(key_file), "scopes": ["read"]}]}
    reader = {"Authorization": "Bearer " + "k" * 20}
    with Node(network.nodes["carol"], tmp_path / "reading", extra={"server": keys}) as node:
        assert node.post(SIGN, {"msg": "hello"}, reader).status == 403
        signature = signed(STRANGER, "hello")
        assert node.post(VERIFY, {"msg": "hello", "signature": signature}, reader).status == 200
    with Node(network.nodes["carol"], tmp_path / "off", extra={"service_list": off}) as node:
        for path in (SIGN, VERIFY):
            reply = node.post(path, {"msg": "hello", "signature": "y" * 104})
            assert (reply.status, reply.json["code"]) == (400, 9)
            assert "sign is off" in reply.json["message"]


def test_lnd_is_away(alice, network):
    signature = signed(STRANGER, "hello again")
    network.command("down", node="alice")
    try:
        assert alice.post(SIGN, {"msg": "hello"}).json["code"] == 14
        assert alice.post(VERIFY, {"msg": "hello again", "signature": signature}).json["code"] == 14
    finally:
        network.command("up", node="alice")
    alice.wait_until(lambda: alice.post(SIGN, {"msg": "hello"}).status == 200)
    # What it tells of its lnd follows later.
    alice.wait_until(lambda: alice.get("/v1/node").json["lndReachable"])
