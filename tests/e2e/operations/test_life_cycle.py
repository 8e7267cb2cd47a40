"""From the first second of a process to its last: what is served while lnd is away, SIGHUP, and an end in order."""

import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from websockets.exceptions import ConnectionClosed

from tests.support.daphnes import Daphne
from tests.support.networks import Network, simulated_network
from tests.support.nodes import GUARD_SECONDS, Node
from tests.support.streams import SEND, WebsocketStream, b64

SERVICE_RESTART = 1012


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
        assert metric(node, "impervious_lnd_reachable") == "0.0"
        assert metric(node, "impervious_ready") == "0.0"
        refused = node.post(SEND, message)
        assert (refused.status, refused.json["code"]) == (503, 14)
        assert "the node waits for lnd at" in refused.json["message"]
        stream = WebsocketStream(node)
    finally:
        own_network.command("up", node="alice")
    node.wait_until(lambda: "IMPD started!" in node.log)
    with stream:
        sent = node.post(SEND, message)
        assert sent.status == 200
        assert stream.of(sent.json["id"])["serviceType"] == "delivery"
    assert metric(node, "impervious_lnd_reachable") == "1.0"


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


@contextmanager
def call_without_end(own_network: Network, node: Node, directory: Path) -> Iterator[list]:
    """A call that pays an invoice, whose payment the recipient holds; what its caller is told in the end."""
    told: list = []
    with Node(own_network.nodes["bob"], directory / "bob") as recipient:
        invoice = recipient.post("/v1/lightning/generateinvoice", {"amount": 5}).json["invoice"]
        own_network.command("hold", node="bob")
        before = payments(own_network)

        def pay() -> None:
            try:
                told.append(node.post("/v1/lightning/payinvoice", {"invoice": invoice}))
            except OSError as error:
                told.append(error)

        calling = threading.Thread(target=pay)
        calling.start()
        try:
            node.wait_until(lambda: payments(own_network) > before)
            yield told
            calling.join()
        finally:
            own_network.command("release", node="bob")


def payments(own_network: Network) -> int:
    """Which alice's lnd has begun."""
    return next(node["payments"] for node in own_network.command("info") if node["name"] == "alice")


UNANSWERED = "calls that were not answered in time"


@pytest.mark.parametrize("process", ["runimpd", "daphne"])
def test_a_call_that_does_not_end_is_answered_at_the_end_of_a_stop(own_network, node, tmp_path, process):
    with node:
        beside = Daphne(node)
        ending = node if process == "runimpd" else beside
        if ending is beside:
            beside.start()
        with call_without_end(own_network, ending, tmp_path) as told:
            ending.stop()
    assert UNANSWERED in ending.log
    assert (told[0].status, told[0].json["code"]) == (503, 14)
    assert "Idempotency-Key" in told[0].json["message"]


@pytest.mark.parametrize("process", ["runimpd", "daphne"])
def test_a_second_signal_waits_for_no_call(own_network, node, tmp_path, process):
    with node:
        beside = Daphne(node)
        ending = node if process == "runimpd" else beside
        if ending is beside:
            beside.start()
        with call_without_end(own_network, ending, tmp_path):
            ending.process.send_signal(signal.SIGTERM)
            ending.wait_until(lambda: not listens(ending))
            assert ending.stop() in (0, -signal.SIGTERM)
    assert UNANSWERED not in ending.log
    assert "Traceback" not in ending.log


def listens(node: Node) -> bool:
    try:
        node.http_connection().connect()
    except OSError:
        return False
    return True


def test_a_daphne_tells_systemd_when_it_listens(node, tmp_path):
    address = tmp_path / "notify"
    with node, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(GUARD_SECONDS)
        beside = Daphne(node)
        beside.environ = beside.environ | {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "3000000"}
        with beside.serving():
            assert systemd.recv(1000) == b"READY=1"
            assert listens(beside)
            assert [systemd.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3


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
