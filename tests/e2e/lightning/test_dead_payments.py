"""Payments that an lnd calls under way for good, as kill -9 at the wrong instant leaves them: what is told of them, and how
messages and calls go on.
"""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.support.admin import ACCOUNT, AdminPages
from tests.support.commands import run
from tests.support.networks import Network, simulated_network
from tests.support.nodes import Node
from tests.support.streams import send

QUIET_SECONDS = 2
EXTRA = {"lightning": {"dead_payment_seconds": QUIET_SECONDS}, "sqlite3": ACCOUNT}
# lnd tells whole seconds: one that was started less than this after a payment does not surely know that it was.
ROUNDING_SECONDS = 2.0


@pytest.fixture
def world(tmp_path) -> Iterator[Network]:
    with simulated_network(tmp_path / "network") as network:
        yield network


@pytest.fixture
def sender(world, tmp_path) -> Iterator[Node]:
    with Node(world.nodes["alice"], tmp_path / "alice", extra=EXTRA) as node:
        yield node


@pytest.fixture
def receiver(world, tmp_path) -> Iterator[Node]:
    with Node(world.nodes["bob"], tmp_path / "bob") as node:
        yield node


def restart_lnd(world: Network, name: str = "alice") -> None:
    """A while after what was sent before."""
    time.sleep(ROUNDING_SECONDS)
    world.command("down", node=name)
    world.command("up", node=name)


def payments(world: Network, name: str = "alice") -> int:
    return next(node["payments"] for node in world.command("info") if node["name"] == name)


def strand_message(world: Network, sender: Node, receiver: Node) -> str:
    """A message in a payment that alice's lnd has lost, and bob's lnd away, so that it cannot be given up yet."""
    world.command("strand", count=1, node="bob")
    before = payments(world)
    message_id = send(sender, receiver)
    sender.wait_until(lambda: payments(world) > before)
    restart_lnd(world)
    world.command("down", node="bob")
    return message_id


def dead_payments(node: Node) -> int:
    return node.get("/v1/node").json["deadPayments"]


def received(node: Node, message_id: str) -> int:
    ids = [message["id"] for message in node.get("/v1/messages?direction=in").json["messages"]]
    return ids.count(message_id)


def test_message_goes_on_after_a_dead_payment(world, sender, receiver):
    message_id = strand_message(world, sender, receiver)
    sender.wait_until(lambda: dead_payments(sender) == 1)
    sender.wait_until(lambda: "lnd holds a dead payment" in sender.message(message_id)["error"])
    assert sender.message(message_id)["state"] == "in_flight"
    assert any("dead payments" in warning for warning in sender.get("/v1/node").json["warnings"])
    assert "\nimpervious_lnd_dead_payments 1.0\n" in sender.get("/metrics").body.decode()
    told = run("doctor", config=sender.config_path, cwd=sender.directory).out
    assert "lnd holds dead payments" in " ".join(told.split())
    world.command("up", node="bob")
    ended = sender.ended(message_id)
    assert (ended["state"], ended["attempts"], ended["error"]) == ("settled", "2", "")
    assert dead_payments(sender) == 0
    receiver.wait_until(lambda: received(receiver, message_id))
    assert received(receiver, message_id) == 1


def test_node_that_is_killed_meanwhile_goes_on_too(world, sender, receiver):
    message_id = strand_message(world, sender, receiver)
    sender.wait_until(lambda: dead_payments(sender) == 1)
    sender.kill()
    world.command("up", node="bob")
    sender.start()
    ended = sender.ended(message_id)
    assert (ended["state"], ended["attempts"]) == ("settled", "2")
    receiver.wait_until(lambda: received(receiver, message_id))
    assert received(receiver, message_id) == 1


def test_dead_payment_of_an_invoice_is_told_and_given_up_once_its_route_has_expired(world, sender, receiver):
    invoice = receiver.post("/v1/lightning/generateinvoice", {"amount": 21}).json["invoice"]
    world.command("strand", count=1, node="bob")
    before = payments(world)
    with ThreadPoolExecutor() as pool:
        paying = pool.submit(sender.post, "/v1/lightning/payinvoice", {"invoice": invoice})
        sender.wait_until(lambda: payments(world) > before)
        restart_lnd(world)
        sender.wait_until(lambda: dead_payments(sender) == 1)

        def waited() -> str:
            return sender.post("/v1/lightning/payinvoice", {"invoice": invoice, "timeout": 1}).json["message"]

        sender.wait_until(lambda: "given up after block" in waited())
        assert "still under way" in waited()
        world.command("mine", blocks=1_000)
        refused = paying.result()
    assert refused.status == 400, refused.body
    assert "not paid: lnd held a dead payment" in refused.json["message"]
    assert "ask the payee for a new one" in refused.json["message"]
    # lnd never pays this hash again: the answer stays the same.
    again = sender.post("/v1/lightning/payinvoice", {"invoice": invoice})
    assert (again.status, again.json) == (400, refused.json)
    check = receiver.post("/v1/lightning/checkinvoice", {"invoice": invoice}).json
    assert (check["paid"], check["state"]) == (False, "open")


def test_payment_that_is_held_is_no_dead_one(world, sender, receiver):
    world.command("hold", node="bob")
    before = payments(world)
    message_id = send(sender, receiver)
    sender.wait_until(lambda: payments(world) > before)
    restart_lnd(world)
    world.command("strand", count=1, node="carol")
    dead_id = sender.post("/v1/message/send", {"msg": "aGk=", "pubkey": world.nodes["carol"].pubkey}).json[
        "id"
    ]
    sender.wait_until(lambda: payments(world) > before + 1)
    restart_lnd(world)
    # The other one was looked at as often.
    ended = sender.ended(dead_id)
    assert (ended["state"], int(ended["attempts"]) > 1) == ("settled", True)
    assert sender.message(message_id)["state"] == "in_flight"
    world.command("release", node="bob")
    ended = sender.ended(message_id)
    assert (ended["state"], ended["attempts"]) == ("settled", "1")


def test_message_of_a_dead_payment_is_given_up_at_the_command_line(world, sender, receiver):
    message_id = strand_message(world, sender, receiver)
    sender.wait_until(lambda: dead_payments(sender) == 1)
    sender.wait_until(lambda: sender.get("/health/ready").json["warnings"])
    health = sender.get("/health/ready")
    assert (health.status, health.json["status"]) == (200, "degraded")
    assert health.json["warnings"][0]["reason"] == "dead_payments"
    (payment,) = sender.get(f"/v1/message/{message_id}/payments").json["payments"]
    assert (payment["state"], payment["messages"]) == ("in_flight", "1")

    def message(*arguments: str):
        return run("message", message_id, *arguments, config=sender.config_path, cwd=sender.directory)

    assert payment["paymentHash"] in message().out
    unasked = message("--give-up")
    assert (unasked.code, "say --yes" in unasked.err) == (1, True)
    assert sender.message(message_id)["state"] == "in_flight"
    assert "lnd may still pay" in message("--give-up", "--yes").out
    given_up = sender.message(message_id)
    assert (given_up["state"], "given up by the operator" in given_up["error"]) == ("failed", True)
    world.command("up", node="bob")
    sender.wait_until(lambda: not dead_payments(sender))
    sender.wait_until(lambda: "it was not delivered" in sender.message(message_id)["error"])
    ended = sender.message(message_id)
    assert (ended["state"], ended["attempts"]) == ("failed", "1")
    assert received(receiver, message_id) == 0


def test_message_that_is_given_up_in_the_admin_is_settled_if_lnd_pays_it(world, sender, receiver):
    world.command("hold", node="bob")
    message_id = send(sender, receiver)
    sender.wait_until(lambda: sender.message(message_id)["state"] == "in_flight")
    admin = AdminPages(sender)
    messages = "messaging/message/?state__exact=in_flight"
    key = re.search(r'name="_selected_action" value="(\d+)"', admin.page(messages))[1]
    form = {"action": "give_up", "_selected_action": key, "csrfmiddlewaretoken": admin.token(messages)}
    assert message_id in admin.page(messages, **form)
    assert sender.message(message_id)["state"] == "in_flight"
    assert "Asked the node to give up: 1." in admin.page(messages, **form, confirmed="yes")
    sender.wait_until(lambda: sender.message(message_id)["state"] == "failed")
    sender.wait_until(lambda: "lnd may still pay" in admin.page("messaging/messageaction/"))
    assert "messages give up" in admin.page("nodeapi/auditentry/")
    world.command("release", node="bob")
    sender.wait_until(lambda: sender.message(message_id)["state"] == "settled")
    receiver.wait_until(lambda: received(receiver, message_id))


def test_message_that_waits_is_given_up_by_a_call(world, sender, receiver):
    world.command("down", node="bob")
    message_id = send(sender, receiver)
    sender.wait_until(lambda: sender.message(message_id)["state"] == "retrying")
    path = f"/v1/message/{message_id}/give-up"
    assert sender.post(path, {}).json == {"id": message_id, "mayCostMsat": "0"}
    again = sender.post(path, {})
    assert (again.status, again.json["message"]) == (400, "id: the message has ended: it is failed")
    unknown = sender.post(f"/v1/message/{uuid4()}/give-up", {})
    assert (unknown.status, "no message was sent under the id" in unknown.json["message"]) == (404, True)
