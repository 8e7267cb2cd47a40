"""The node driven as clients of 2021 did: by the published protos alone, by curl lines, by a simple websocket client.

protos_2021/ holds the interface of v0.1.4: those names and numbers, and nothing that came later.
"""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tests.support.nodes import ROOT
from tests.support.streams import GUARD_SECONDS, WebsocketStream, b64, data_of

HERE = Path(__file__).parent
PROTOS = HERE / "protos_2021"
NAMES = sorted(path.stem for path in PROTOS.glob("*.proto"))
JAVASCRIPT = HERE / "javascript"


def run(command: list, **options) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=2 * GUARD_SECONDS, check=False, **options
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def protoc(*arguments: str, cwd: Path) -> None:
    run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *arguments], cwd=cwd)


def interface(folder: Path, proto: str, target: Path) -> dict[str, object]:
    """Each method with its types, each field with its number, type and label, by full name."""
    protoc(f"--descriptor_set_out={target}", proto, cwd=folder)
    file = FileDescriptorSet.FromString(target.read_bytes()).file[0]
    found: dict[str, object] = {}
    for service in file.service:
        for method in service.method:
            types = (method.input_type, method.output_type, method.client_streaming, method.server_streaming)
            found[f"/{file.package}.{service.name}/{method.name}"] = types
    for message in file.message_type:
        for field in message.field:
            found[f"{file.package}.{message.name}.{field.name}"] = (field.number, field.type, field.label)
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if (ROOT / "protos" / f"{name}.proto").exists()])
def test_what_was_published_is_unchanged(name, tmp_path):
    published = interface(PROTOS, f"{name}.proto", tmp_path / "published")
    today = interface(ROOT, f"protos/{name}.proto", tmp_path / "today")
    assert published
    assert published.items() <= today.items()


def test_python_stubs(alice, bob, tmp_path):
    protoc(
        f"--python_out={tmp_path}",
        f"--grpc_python_out={tmp_path}",
        *(f"{name}.proto" for name in NAMES),
        cwd=PROTOS,
    )
    shutil.copy(HERE / "python_client.py", tmp_path)
    told = json.loads(
        run([sys.executable, "python_client.py", alice.grpc, bob.grpc, bob.pubkey], cwd=tmp_path)
    )
    assert told == {
        "id": told["id"],
        "event": [told["id"], alice.pubkey, "from Python", 3],
        "result": True,
        "preimage": 64,
        "paid": True,
    }


@pytest.mark.skipif(
    not (shutil.which("node") and (JAVASCRIPT / "node_modules").exists()),
    reason="JavaScript: no node, or no packages (npm ci in tests/e2e/clients/javascript); not run",
)
def test_javascript(alice, bob):
    told = json.loads(
        run(["node", "client.js", PROTOS, alice.grpc, bob.grpc, bob.http, bob.pubkey], cwd=JAVASCRIPT)
    )
    event, frame = told["event"], told["frame"]
    assert (event["id"], event["from_pubkey"], event["data"], event["amount"]) == (
        told["id"],
        alice.pubkey,
        "from JavaScript",
        "3",
    )
    assert (frame["id"], frame["fromPubkey"], frame["data"]) == (
        told["id"],
        alice.pubkey,
        b64(b"from JavaScript"),
    )
    assert (told["result"], told["preimage"], told["paid"]) == (True, 64, True)


def curl(node, path: str, *body: str) -> dict:
    """As people typed it: `curl -d` sends a form type."""
    return json.loads(run(["curl", "-sS", f"http://{node.http}{path}", *body]))


def test_curl_lines_with_a_form_type(alice, bob):
    with WebsocketStream(bob) as stream:
        body = f'{{"msg":"aGVsbG8=","pubkey":"{bob.pubkey}","reply_to_id":""}}'
        sent = curl(alice, "/v1/message/send", "-d", body)
        assert sent.keys() == {"id"}
        assert data_of(stream.of(sent["id"])) == b"hello"
    signature = curl(alice, "/v1/sign", "-d", '{"msg":"hello"}')["signature"]
    assert (
        curl(alice, "/v1/verify", "-d", json.dumps({"msg": "hello", "signature": signature}))["result"]
        is True
    )
    invoice = curl(bob, "/v1/lightning/generateinvoice", "-d", '{"amount":"10","memo":"by curl"}')["invoice"]
    assert curl(bob, "/v1/lightning/checkinvoice", "-d", json.dumps({"invoice": invoice}))["paid"] is False
    # A client of then sends a field that is none.
    paid = curl(
        alice, "/v1/lightning/payinvoice", "-d", json.dumps({"pubkey": bob.pubkey, "invoice": invoice})
    )
    assert len(paid["preimage"]) == 64
    assert curl(bob, "/v1/lightning/checkinvoice", "-d", json.dumps({"invoice": invoice}))["paid"] is True
    assert curl(alice, "/v1/lightning/payinvoice", "-d", '{"invoice":"none"}')["code"] == 3


def test_websocket_client_that_greets(alice, bob):
    with WebsocketStream(bob) as stream:
        stream.connection.send("something")
        sent = curl(
            alice,
            "/v1/message/send",
            "-d",
            json.dumps({"msg": b64(b"hi"), "pubkey": bob.pubkey, "amount": 2}),
        )
        event = stream.of(sent["id"])
        stream.connection.send(b"\x00 something else")
        again = curl(alice, "/v1/message/send", "-d", json.dumps({"msg": b64(b"ho"), "pubkey": bob.pubkey}))
        second = stream.of(again["id"])
    known = {name: event[name] for name in ("id", "replyToId", "fromPubkey", "data", "serviceType", "amount")}
    assert known == {
        "id": sent["id"],
        "replyToId": "",
        "fromPubkey": alice.pubkey,
        "data": "aGk=",
        "serviceType": "message",
        "amount": "2",
    }
    assert (second["id"], base64.b64decode(second["data"])) == (again["id"], b"ho")
