"""docs/adding-a-service.md, done to a copy of the code as it says: the service is there, and answers."""

import json
from pathlib import Path

import pytest
import yaml

from tests.support.code import copy_of_the_code
from tests.support.doc_examples import Block, Page
from tests.support.networks import simulated_network
from tests.support.nodes import SERVICES, Node
from tests.support.streams import WebsocketStream, data_of


def apply(example: Block, root: Path) -> None:
    """Writes a file that the block names or, where a line is named too, puts the block behind that line."""
    name, _, anchor = example.title.partition(" ")
    path = root / name
    if not anchor:
        path.parent.mkdir(exist_ok=True)
        path.write_text(example.text)
        return
    lines = path.read_text().splitlines(keepends=True)
    (place,) = [number for number, line in enumerate(lines) if line.startswith(anchor)]
    path.write_text("".join([*lines[: place + 1], example.text, *lines[place + 1 :]]))


@pytest.fixture
def network(tmp_path):
    """Of its own: on the lnds of others two nodes would answer."""
    with simulated_network(tmp_path / "network") as network:
        yield network


def test_the_page(network, tmp_path):
    root = copy_of_the_code(tmp_path / "code")
    page = Page("adding-a-service.md").blocks
    for example in page:
        if example.language == "python":
            apply(example, root)
    (row,) = [yaml.safe_load(example.text)[0] for example in page if example.language == "yaml"]
    (use,) = [example for example in page if example.language == "sh"]
    services = [
        {"service_type": name, "active": True, "custom_record_number": n} for name, n in SERVICES.items()
    ]
    extra = {"service_list": [*services, row]}
    with (
        Node(network.nodes["bob"], tmp_path / "alice", extra=extra, root=root) as alice,
        Node(network.nodes["carol"], tmp_path / "bob", extra=extra, root=root) as bob,
        WebsocketStream(alice, "?service=echo") as at_alice,
        WebsocketStream(bob, "?service=echo") as at_bob,
    ):
        started = Page("adding-a-service.md", ALICE=f"http://{alice.http}", BOB_PUBKEY=bob.pubkey)
        message_id = json.loads(started.run_block(use))["id"]
        asked, answered = at_bob.event(), at_alice.event()
        assert (asked["id"], data_of(asked)) == (message_id, b"hello")
        assert (answered["replyToId"], data_of(answered), answered["serviceType"]) == (
            message_id,
            b"HELLO",
            "echo",
        )
        bob.wait_until(lambda: '"answers": 1' in bob.log)
        described = alice.get("/v1/openapi.json").json["paths"]["/v1/echo/send"]["post"]
        assert described["summary"]
        assert described["requestBody"]["content"]["application/json"]["example"]
        alice.post("/v1/echo/send", {"msg": "/w==", "pubkey": bob.pubkey})
        bob.wait_until(lambda: '"no_ascii"' in bob.log)
