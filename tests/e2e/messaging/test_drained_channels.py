"""A node whose public channel receives nothing now, and which has a private one with room: it is paid and answered."""

import asyncio

import pytest

from tests.support.commands import run
from tests.support.networks import Network, new_network, start_simulated
from tests.support.nodes import Node
from tests.support.streams import WebsocketStream, data_of, send

GENERATE, PAY = "/v1/lightning/generateinvoice", "/v1/lightning/payinvoice"
CAPACITY_SAT, PRIVATE_SAT = 1_000_000, 900_000


@pytest.fixture
def world(tmp_path):
    """alice – hub = bob: of hub's two channels with bob the public one has nothing left on hub's side."""
    simulated = new_network(tmp_path / "network", ["alice", "hub", "bob"], topology="none")
    asyncio.run(start_simulated(simulated))
    try:
        network = Network(simulated)
        network.command("open_channel", a="alice", b="hub")
        network.command("open_channel", a="hub", b="bob", capacity_sat=CAPACITY_SAT, remote_sat=CAPACITY_SAT)
        network.command(
            "open_channel",
            a="hub",
            b="bob",
            capacity_sat=CAPACITY_SAT,
            remote_sat=CAPACITY_SAT - PRIVATE_SAT,
            private=True,
        )
        yield network
    finally:
        asyncio.run(simulated.stop())


@pytest.fixture
def sender(world, tmp_path):
    with Node(world.nodes["alice"], tmp_path / "alice") as node:
        yield node


@pytest.fixture
def receiver(world, tmp_path):
    with Node(world.nodes["bob"], tmp_path / "bob") as node:
        yield node


def test_its_invoices_are_paid(sender, receiver):
    for amount in (1, 500_000):
        invoice = receiver.post(GENERATE, {"amount": amount}).json["invoice"]
        paid = sender.post(PAY, {"invoice": invoice})
        assert paid.status == 200, paid.body
    any_amount = receiver.post(GENERATE, {}).json["invoice"]
    paid = sender.post(PAY, {"invoice": any_amount, "amount": 1_000})
    assert paid.status == 200, paid.body


def test_it_is_answered(sender, receiver):
    with WebsocketStream(sender) as stream:
        question = send(receiver, sender, b"question")
        stream.until(lambda event: event["id"] == question)
    with WebsocketStream(receiver) as stream:
        answer = send(sender, receiver, b"answer", replyToId=question)
        event = stream.until(lambda event: event["id"] == answer)[-1]
    assert (data_of(event), event["replyToId"]) == (b"answer", question)


def test_it_warns(receiver):
    told = receiver.get("/v1/node").json
    assert int(told["receivableSat"]) > PRIVATE_SAT - 20_000
    assert any(warning.startswith("the public channels receive nothing") for warning in told["warnings"])
    doctor = run("doctor", config=receiver.config_path, cwd=receiver.directory).out
    assert "the public channels receive nothing" in " ".join(doctor.split())


def test_caller_asks_for_hints(world, receiver):
    """Also where the public channel could receive it."""
    world.command("open_channel", a="alice", b="bob", capacity_sat=CAPACITY_SAT, remote_sat=0)
    receiver.wait_until(
        lambda: not any("public channels" in warning for warning in receiver.get("/v1/node").json["warnings"])
    )
    plain = receiver.post(GENERATE, {"amount": 21}).json["invoice"]
    hinted = receiver.post(GENERATE, {"amount": 21, "private": True}).json["invoice"]
    assert len(hinted) > len(plain) + 80
    wrong = receiver.post(GENERATE, {"amount": 21, "private": "yes please"})
    assert (wrong.status, wrong.json["message"].partition(":")[0]) == (400, "private"), wrong.body
