"""The examples of the pages on signing, invoices and the raw bytes of a stream do what the pages say."""

import json

import pytest

from tests.support.doc_examples import Page
from tests.support.streams import nothing_told


@pytest.fixture
def environ(alice, bob) -> dict[str, str]:
    # Some examples print the first event that they see.
    with nothing_told(alice, bob):
        pass
    return {
        "ALICE": alice.http,
        "BOB": bob.http,
        "ALICE_GRPC": alice.grpc,
        "BOB_GRPC": bob.grpc,
        "BOB_KEY": bob.pubkey,
    }


def test_signing(alice, environ):
    page = Page("signing.md", **environ)
    assert len(json.loads(page.run("/v1/sign\n"))["signature"]) == 104
    assert json.loads(page.run("/v1/verify")) == {"result": True, "pubkey": alice.pubkey}
    assert page.run("SigningStub") == "True\n"
    assert not page.left


def test_invoices(bob, environ):
    page = Page("invoices.md", **environ)
    replies = page.run("INVOICE=$(").replace("}{", "}\n{").splitlines()
    shown = page.output("INVOICE=$(").splitlines()
    for reply, example in zip(replies, shown, strict=True):
        assert json.loads(reply).keys() == json.loads(example).keys()
    paid, checked = map(json.loads, replies)
    assert (paid["payee"], checked["paid"], checked["memo"]) == (bob.pubkey, True, "two coffees")
    assert page.run("LightningStub") == "True 64\n"
    assert page.run("?service=lightning") == "True 21\n"
    assert not page.left


def test_websocket(bob, environ):
    page = Page("websocket.md", **environ)
    message_id = json.loads(page.run("curl"))["id"]
    # It is the first event that the next example would see.
    bob.wait_until(lambda: bob.get(f"/v1/message/{message_id}").status == 200)
    assert page.run("?service=websocket") == "True b'\\x00\\x01 anything' 2\n"
    assert page.run("WebsocketStub") == "36\n"
    assert not page.left


def test_messages(alice, bob, environ):
    page = Page("messages.md", **environ)
    assert json.loads(page.run('"amount":"5"')).keys() == json.loads(page.output('"amount":"5"')).keys()
    assert json.loads(page.run("/v1/message/$ID"))["message"]["pubkey"] == bob.pubkey
    assert page.run("are you there?") == "yes\n"
    assert page.run("MessagingStub") == "36\n"
    first, second = page.run("Idempotency-Key").replace("}{", "}\n{").splitlines()
    assert first == second
    estimated = json.loads(page.run("/v1/message/estimate"))
    assert estimated.keys() == json.loads(page.output("/v1/message/estimate")).keys()
    alice.wait_until(
        lambda: alice.get(f"/v1/message/{json.loads(first)['id']}").json["message"]["state"] == "settled"
    )
    assert {row["state"] for row in json.loads(page.run("state=settled"))["messages"]} == {"settled"}
    assert not page.left
