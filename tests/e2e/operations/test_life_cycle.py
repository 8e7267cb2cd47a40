"""From the first second of a process to its last: what is served while lnd is away, SIGHUP, and an end in order."""

import asyncio
import dataclasses
import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from uuid import uuid4

import pytest
import yaml
from websockets.exceptions import ConnectionClosed

from impervious_site.version import VERSION
from lightning.client import LndClient
from lightning.rpcs import Rpc, bake_line
from nodeapi import codec
from nodeapi.doors import UNFINISHED
from protos import node_pb2, node_pb2_grpc
from protos.lnrpc import lightning_pb2
from tests.support import commands
from tests.support.daphnes import Daphne
from tests.support.databases import execute
from tests.support.macaroons import all_but, baked, uris
from tests.support.networks import Network, simulated_network
from tests.support.nodes import GUARD_SECONDS, Node
from tests.support.streams import SEND, WebsocketStream, b64

SERVICE_RESTART = 1012
PAY = "/v1/lightning/payinvoice"
ANOTHER_SIGNAL = "another signal ends it at once"


@pytest.fixture(scope="module")
def own_network(tmp_path_factory) -> Iterator[Network]:
    with simulated_network(tmp_path_factory.mktemp("network")) as network:
        yield network


@pytest.fixture
def node(own_network, tmp_path) -> Iterator[Node]:
    node = Node(own_network.nodes["alice"], tmp_path / "node")
    yield node
    if node.running:
        node.kill()


def metric(node: Node, name: str) -> str:
    lines = node.get("/metrics").body.decode().splitlines()
    return next((line.split()[-1] for line in lines if line.startswith(f"{name} ")), "")


def is_served(node: Node) -> bool:
    try:
        return node.get("/v1/messages").status == 200
    except OSError:
        return False


def test_what_is_served_while_lnd_is_locked(own_network, node):
    message = {"msg": b64(b"hello"), "pubkey": own_network.nodes["bob"].pubkey}
    own_network.command("lock", node="alice")
    try:
        node.launch()
        node.wait_until(lambda: is_served(node))
        # It has asked lnd by then.
        node.wait_until(lambda: node.get("/v1/node").json["state"] == "waiting for lnd")
        assert metric(node, "impervious_lnd_reachable") == "0.0"
        assert metric(node, "impervious_ready") == "0.0"
        refused = node.post(SEND, message)
        assert (refused.status, refused.json["code"]) == (503, 14)
        assert "is locked: run `lncli unlock`" in refused.json["message"]
        unready = node.get("/health/ready").json
        assert [(reason["part"], reason["reason"]) for reason in unready["reasons"]] == [("lnd", "locked")]
        with node.channel() as channel, Daphne(node).serving() as beside:
            over_grpc = node_pb2_grpc.NodeStub(channel).GetInfo(node_pb2.GetInfoRequest())
            for told in (
                node.get("/v1/node").json,
                beside.get("/v1/node").json,
                codec.json_from_message(over_grpc),
            ):
                assert (told["state"], told["pubkey"], told["version"]) == ("waiting for lnd", "", VERSION)
                assert told["warnings"] == [refused.json["message"]]
            late = beside.post(SEND, message)
            assert (late.status, late.json) == (503, refused.json)
        shown = commands.run("status", config=node.config_path, cwd=node.directory)
        assert shown.code == 0
        assert "waiting for lnd" in shown.out
        assert "is locked" in shown.out
        examined = commands.run("doctor", "--json", config=node.config_path, cwd=node.directory)
        words = [finding["words"] for finding in examined.json["findings"]]
        assert any("has not started yet: lnd at" in line for line in words)
        stream = WebsocketStream(node)
    finally:
        own_network.command("up", node="alice")
    node.wait_until(lambda: "IMPD started!" in node.log)
    with stream:
        sent = node.post(SEND, message)
        assert sent.status == 200
        assert stream.of(sent.json["id"])["serviceType"] == "delivery"
    assert metric(node, "impervious_lnd_reachable") == "1.0"
    assert node.get("/v1/node").json["state"] == "running"


def test_sighup_takes_up_what_it_can(own_network, node):
    with node, Daphne(node) as beside, WebsocketStream(node) as stream, WebsocketStream(beside) as there:
        tree = yaml.safe_load(node.config_path.read_text())
        node.config_path.write_text(yaml.safe_dump(tree | {"logging": {"level": "debug"}}))
        for process in (node, beside):
            process.process.send_signal(signal.SIGHUP)
            process.wait_until(lambda process=process: "SIGHUP: log levels" in process.log)
        node.config_path.write_text("lightning: 5")
        node.process.send_signal(signal.SIGHUP)
        node.wait_until(lambda: "SIGHUP: the configuration cannot be used" in node.log)
        sent = node.post(SEND, {"msg": b64(b"hello"), "pubkey": own_network.nodes["bob"].pubkey})
        for each in (stream, there):
            assert each.of(sent.json["id"])["serviceType"] == "delivery"


def test_sighup_takes_up_a_macaroon(own_network, node):
    """One that does not permit what the node calls is refused, and those of before go on."""
    alice, bob = own_network.nodes["alice"], own_network.nodes["bob"]
    lnd = baked(alice, node.directory, uris(bake_line(Rpc)))
    good = lnd.macaroon_path.read_bytes()
    own = node.directory / "own.macaroon"
    own.write_bytes(alice.macaroon_path.read_bytes())
    own.chmod(0o600)
    node.lnd = dataclasses.replace(alice, macaroon_path=own)
    node.configure({})
    with node:
        own.write_bytes(baked(alice, node.directory, all_but(Rpc.SEND_PAYMENT)).macaroon_path.read_bytes())
        node.process.send_signal(signal.SIGHUP)
        node.wait_until(lambda: "SIGHUP: the configuration cannot be used" in node.log)
        assert "does not permit SendPaymentV2" in node.log
        ready = node.get("/health/ready").json
        assert [(warning["part"], warning["reason"]) for warning in ready["warnings"]] == [
            ("configuration", "refused")
        ]
        assert node.get("/v1/node").json["lndReachable"]
        own.write_bytes(good)
        node.process.send_signal(signal.SIGHUP)
        node.wait_until(lambda: "lnd's macaroon were read again" in node.log)
        assert node.get("/health/ready").json["status"] == "ready"
        sent = node.post(SEND, {"msg": b64(b"hello"), "pubkey": bob.pubkey})
        assert node.ended(sent.json["id"])["state"] == "settled"
        assert node.log.count('"ERROR"') == 1


@contextmanager
def callers(node: Node, pubkey: str, count: int = 8) -> Iterator[list]:
    """Clients that send until the node listens no more: statuses, and what was said to whom no answer came."""
    seen: list = []

    def post() -> None:
        while True:
            try:
                connection = node.http_connection()
                connection.connect()
            except OSError:
                return
            try:
                body = {"msg": b64(b"hello"), "pubkey": pubkey}
                connection.request("POST", SEND, json.dumps(body))
                reply = connection.getresponse()
                seen.append((reply.status, reply.read()))
            except OSError as error:
                seen.append((0, repr(error)))
                return
            finally:
                connection.close()

    threads = [threading.Thread(target=post) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("process", ["runimpd", "daphne"])
def test_a_stop_answers_what_has_begun_and_ends_streams(own_network, node, process):
    with node:
        beside = Daphne(node)
        ending = node if process == "runimpd" else beside
        if ending is beside:
            beside.start()
        with WebsocketStream(ending) as stream:
            with callers(ending, own_network.nodes["bob"].pubkey) as seen:
                ending.wait_until(lambda: len(seen) > 20)
                assert ending.stop() in (0, -signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    stream.text()
        assert closed.value.rcvd.code == SERVICE_RESTART
        assert "stopping" in closed.value.rcvd.reason
    statuses = {status for status, _ in seen}
    assert statuses <= {200, 503}, [one for one in seen if one[0] not in (200, 503)]


@pytest.fixture
def held_invoice(own_network) -> Iterator[str]:
    """Of bob, at whom payments stay under way."""
    bob = own_network.nodes["bob"]
    own_network.command("hold", node="bob")
    yield asyncio.run(invoice_of(bob))
    own_network.command("release", node="bob")


async def invoice_of(lnd) -> str:
    client = LndClient(
        host=lnd.host,
        port=lnd.port,
        tls_cert=lnd.tls_cert_path.read_bytes(),
        macaroon_hex=lnd.macaroon_path.read_bytes().hex(),
    )
    try:
        return (await client.add_invoice(lightning_pb2.Invoice(value=21))).payment_request
    finally:
        await client.close()


def attempts(node: Node) -> int:
    return execute(node.database_url, "SELECT count(*) FROM invoices_invoicepayment")[0][0]


@pytest.mark.parametrize("process", ["runimpd", "daphne"])
def test_a_call_that_outlasts_the_stop_is_told_so_and_goes_on(own_network, node, held_invoice, process):
    """By REST and by gRPC; with the same Idempotency-Key its caller finds it again."""
    key = {"Idempotency-Key": str(uuid4())}
    with node, ThreadPoolExecutor() as pool:
        beside = Daphne(node)
        ending = node if process == "runimpd" else beside
        if ending is beside:
            beside.start()
        paying = pool.submit(ending.post, PAY, {"invoice": held_invoice}, key)
        slow = ending.http_connection()
        slow.putrequest("POST", SEND)
        slow.putheader("Content-Length", "1000")
        slow.endheaders(b"{")
        node.wait_until(lambda: attempts(node) == 1)
        assert ending.stop() in (0, -signal.SIGTERM)
        assert slow.getresponse().status == 503
        answer = paying.result()
        assert (answer.status, answer.json["code"], answer.json["message"]) == (503, 14, UNFINISHED)
        own_network.command("release", node="bob")
        ending.start()
        again = ending.post(PAY, {"invoice": held_invoice}, key)
        assert again.status == 200, again.body
        assert again.json["preimage"]
        assert attempts(node) == 1


@pytest.mark.parametrize(
    ("process", "number"),
    [("runimpd", signal.SIGTERM), ("runimpd", signal.SIGINT), ("daphne", signal.SIGTERM)],
)
def test_a_second_signal_ends_a_stop_at_once(own_network, node, held_invoice, process, number):
    with node, ThreadPoolExecutor() as pool:
        beside = Daphne(node)
        ending = node if process == "runimpd" else beside
        if ending is beside:
            beside.start()
        paying = pool.submit(ending.post, PAY, {"invoice": held_invoice})
        node.wait_until(lambda: attempts(node) == 1)
        told = len(ending.log)
        ending.process.send_signal(signal.SIGTERM)
        ending.wait_until(lambda: ANOTHER_SIGNAL in ending.log[told:])
        ending.process.send_signal(number)
        assert ending.process.wait(GUARD_SECONDS) == -number
        with pytest.raises((ConnectionError, HTTPException)):
            paying.result()
        assert "Traceback" not in ending.log
        assert "not answered in time" not in ending.log


@pytest.fixture
def supervisor(tmp_path) -> Iterator[socket.socket]:
    """What systemd listens on for a unit of Type=notify."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(GUARD_SECONDS)
        yield receiver


@pytest.mark.parametrize("process", ["runimpd", "daphne"])
def test_systemd_is_told_of_readiness_life_and_end(node, supervisor, process):
    """Ready is what listens, and the signs of life come from the event loop: one that stands still gives none."""
    environ = {"NOTIFY_SOCKET": supervisor.getsockname(), "WATCHDOG_USEC": "300000"}

    def until_told(line: bytes) -> None:
        while line not in supervisor.recv(10_000).split(b"\n"):
            pass

    watched = Node(node.lnd, node.directory, environ=environ) if process == "runimpd" else Daphne(node)
    watched.environ = environ
    if process == "daphne":
        node.start()
    watched.launch()
    try:
        until_told(b"READY=1")
        assert watched.get("/health/live").status == 200
        for _ in range(2):
            until_told(b"WATCHDOG=1")
        watched.process.send_signal(signal.SIGTERM)
        until_told(b"STOPPING=1")
        assert watched.process.wait(GUARD_SECONDS) in (0, -signal.SIGTERM)
    finally:
        watched.kill()
