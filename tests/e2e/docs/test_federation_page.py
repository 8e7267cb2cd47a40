"""docs/federation.md says nothing that is not so: its examples run, and give what the page shows."""

import json

import pytest

from tests.support.doc_examples import Page
from tests.support.federations import federate, running, state
from tests.support.networks import simulated_network


def shape(value):
    """The keys of a JSON value, all the way down."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value[:1]] if isinstance(value, list) else type(value).__name__


@pytest.fixture
def network(tmp_path):
    with simulated_network(tmp_path / "network") as running_network:
        yield running_network


def test_the_page(network, tmp_path):
    with running(network, tmp_path, bob=federate("Alice"), carol=federate("Bob")) as (alice, bob):
        environ = {"ALICE": f"http://{alice.http}", "BOB": f"http://{bob.http}", "BOB_PUBKEY": bob.pubkey}
        page = Page("federation.md", **environ)
        assert [block.language for block in page.blocks] == ["sh", "json", "python", "sh", "json", "sh", "sh"]
        ask, event, wait, members, listed, broadcast, leave = page.blocks
        run = page.run_block
        assert set(json.loads(run(ask))) == {"id", "amountSat"}
        alice.wait_until(lambda: state(alice, bob) == state(bob, alice) == "member")
        assert run(wait) == "accept Bob\n"
        first, _ = run(members).replace("}{", "}\n{").splitlines()
        assert shape(json.loads(first)) == shape(json.loads(listed.text))
        assert set(json.loads(event.text)) == {"type", "pubkey", "imp_id", "expires_at", "reason"}
        sent = json.loads(run(broadcast))
        assert [message["pubkey"] for message in sent["messages"]] == [bob.pubkey]
        assert json.loads(run(broadcast)) == sent
        assert set(json.loads(run(leave))) == {"id"}
        alice.wait_until(lambda: state(alice, bob) == state(bob, alice) == "left")
