"""A client that has nothing of ours but the published protos."""

import subprocess
import sys
from pathlib import Path

from tests.support.nodes import ROOT
from tests.support.streams import WebsocketStream, data_of

CLIENT = """
import sys
import grpc
from protos import messaging_pb2, messaging_pb2_grpc, websocket_pb2, websocket_pb2_grpc

address, recipient = sys.argv[1:]
with grpc.insecure_channel(address) as channel:
    stream = websocket_pb2_grpc.WebsocketStub(channel).Subscribe(websocket_pb2.SubscribeRequest(), timeout=240)
    stream.initial_metadata()
    request = messaging_pb2.SendMessageRequest(msg=b"from a generated client", pubkey=recipient, amount=2)
    sent = messaging_pb2_grpc.MessagingStub(channel).SendMessage(request)
    event = next(event for event in stream if event.id == sent.id)
    print(sent.id, event.service_type, event.amount)
    stream.cancel()
"""


def generate_code(target: Path) -> None:
    """Run protoc from the root, because two files named lightning.proto would clash."""
    protos = [str(path.relative_to(ROOT)) for path in (ROOT / "protos").rglob("*.proto")]
    outputs = [f"--python_out={target}", f"--grpc_python_out={target}"]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *protos], cwd=ROOT, check=True
    )


def test_client_generated_from_the_protos(alice, bob, tmp_path):
    generate_code(tmp_path)
    (tmp_path / "client.py").write_text(CLIENT)
    with WebsocketStream(bob) as stream:
        run = subprocess.run(
            [sys.executable, "client.py", alice.grpc, bob.pubkey],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        event = stream.of(run.stdout.split()[0])
    assert run.stdout.split() == [event["id"], "delivery", "2"]
    assert data_of(event) == b"from a generated client"
