"""The socket service on whole nodes: the UDP relay over REST and gRPC, its life over restarts, SendSocket."""

import json
import os
import re
import signal
import socket
import time
import uuid
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from coincurve import PrivateKey

from protos import socket_pb2, socket_pb2_grpc
from tests.support.admin import ACCOUNT, AdminPages
from tests.support.nodes import SERVICES, Node
from tests.support.ports import free_range
from tests.support.records import item, packet, sealed
from tests.support.scrapes import value
from tests.support.streams import WebsocketStream, data_of, grpc_stream, nothing_told
from tests.support.udp import UdpClient, introduce

START, STOP, SEND = "/v1/socket/start", "/v1/socket/stop", "/v1/socket/sendRequest"


def start(node: Node) -> dict:
    reply = node.post(START)
    assert reply.status == 200, reply.body
    return reply.json


def ports(told: dict) -> tuple[int, int]:
    assert (told["protocol"], told["ip"]) == ("udp", "127.0.0.1")
    return int(told["port1"].removeprefix(":")), int(told["port2"].removeprefix(":"))


def clients(told: dict) -> tuple[UdpClient, UdpClient]:
    first, second = ports(told)
    return UdpClient(first), UdpClient(second)


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def json_of(told: dict) -> bytes:
    """Exactly what a `socket` event's data is."""
    text = f'"protocol":"udp","ip":"127.0.0.1","port1":"{told["port1"]}","port2":"{told["port2"]}"'
    return b'{"recordId":"SOCKET",' + text.encode() + b"}"


@pytest.fixture
def relay(alice):
    """What StartSocket on alice told."""
    yield start(alice)
    assert alice.post(STOP).json == {}


def test_datagrams_both_ways(relay):
    first, second = clients(relay)
    with first, second:
        introduce(first, second)
        for datagram in (b"hello", b"", b"x" * 65_507):
            first.say(datagram)
            assert second.hear() == datagram
            second.say(datagram)
            assert first.hear() == datagram


def test_start_and_stop_are_safe_to_repeat(alice):
    told = start(alice)
    assert start(alice) == told == alice.post(START, b"{}").json
    assert not any(map(is_free, ports(told)))
    for _ in range(2):
        reply = alice.post(STOP)
        assert (reply.status, reply.json) == (200, {})
        # On a slow machine the pump may still be ending.
        alice.wait_until(lambda: all(map(is_free, ports(told))))


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/x-www-form-urlencoded"}])
def test_rest_without_a_body_and_with_a_form_type(alice, bob, headers):
    told = alice.post(START, None, headers).json
    assert list(told) == ["protocol", "ip", "port1", "port2"]
    assert re.fullmatch(r":\d+", told["port1"])
    assert re.fullmatch(r":\d+", told["port2"])
    with WebsocketStream(bob) as stream:
        message_id = alice.post(SEND, json.dumps({"pubkey": bob.pubkey}).encode(), headers).json["id"]
        event = stream.until(lambda event: event["id"] == message_id)[-1]
    assert alice.post(STOP, None, headers).json == {}
    assert data_of(event) == json_of(told)
    assert (event["serviceType"], event["fromPubkey"], event["amount"]) == ("socket", alice.pubkey, "1")


def test_by_grpc(alice, bob):
    with grpc.insecure_channel(alice.grpc) as channel, grpc_stream(bob) as events:
        stub = socket_pb2_grpc.SocketStub(channel)
        told = stub.StartSocket(socket_pb2.StartSocketRequest())
        sent = stub.SendSocket(socket_pb2.SendSocketRequest(pubkey=bob.pubkey))
        event = next(event for event in events if event.id == sent.id)
        assert stub.StopSocket(socket_pb2.StopSocketRequest()) == socket_pb2.StopSocketResponse()
    assert event.service_type == "socket"
    assert event.data == json_of({"port1": told.port1, "port2": told.port2})
    assert uuid.UUID(sent.id).version == 4


def test_send_twice_under_one_key_is_once(alice, bob, relay):
    key, body = {"Idempotency-Key": uuid.uuid4().hex}, {"pubkey": bob.pubkey}
    first = alice.post(SEND, body, key).json["id"]
    bob.wait_until(lambda: bob.get(f"/v1/message/{first}").status == 200)
    alice.post(STOP)
    # Accepted is accepted, whatever became of the relay.
    assert alice.post(SEND, body, key).json["id"] == first
    assert alice.post(SEND, {"pubkey": "02" + "ab" * 32}, key).status in (400, 409)


def test_without_a_relay_there_is_nothing_to_send(alice, bob):
    alice.post(STOP)
    reply = alice.post(SEND, {"pubkey": bob.pubkey})
    assert (reply.status, reply.json["code"]) == (400, 9)
    assert "StartSocket" in reply.json["message"]


@pytest.mark.parametrize("body", [None, {}, {"pubkey": "02"}, {"pubkey": "own"}])
def test_pubkeys_that_are_none(alice, relay, body):
    if body and body.get("pubkey") == "own":
        body = {"pubkey": alice.pubkey}
    reply = alice.post(SEND, body)
    assert (reply.status, reply.json["code"]) == (400, 3)
    assert reply.json["message"].startswith("pubkey: ")


def test_the_node_tells_the_service(alice):
    services = {
        service["serviceType"]: service["state"] for service in alice.get("/v1/node").json["services"]
    }
    assert services["socket"] == "running"


@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        b"[]",
        b'{"recordId":"SOCKET"}',
        b'{"recordId":"SOCKET","protocol":"udp","ip":"x"}',
        b"{" * 900,
    ],
)
def test_a_message_that_is_none_is_dropped_counted_and_logged(alice, bob, network, body):
    number = SERVICES["socket"]
    recipient = bytes.fromhex(bob.pubkey)
    record = sealed(PrivateKey(), packet(item(body)), recipient=recipient, record_number=number)

    def dropped():
        return value(bob, "impervious_records_dropped_total", service="socket", reason="no_socket_offer")

    before = dropped()
    with nothing_told(alice, bob):
        assert network.pay("alice", bob.pubkey, {number: record})["status"] == "SUCCEEDED"
    bob.wait_until(lambda: dropped() == before + 1)
    bob.wait_until(lambda: '"reason": "no_socket_offer"' in bob.log)


def test_what_a_stranger_adds_is_not_published(alice, bob, network):
    number = SERVICES["socket"]
    told = {"port1": ":1", "port2": ":2"}
    made = item(json.dumps(json.loads(json_of(told)) | {"more": "x" * 500}, indent=1).encode())
    record = sealed(PrivateKey(), packet(made), recipient=bytes.fromhex(bob.pubkey), record_number=number)
    with WebsocketStream(bob) as stream:
        network.pay("alice", bob.pubkey, {number: record})
        event = stream.of(str(uuid.UUID(bytes=made.id)))
    assert event["serviceType"] == "socket"
    assert data_of(event) == json_of(told)


@pytest.fixture
def own_node(network, tmp_path):
    """A function that starts a node of the test's own with this `socket` section. Nobody else takes its relay's ports while
    it is away.
    """
    nodes, own_range = [], free_range(20)

    def start_node(**settings) -> Node:
        ports = {"port_range": [own_range[0], own_range[-1]]}
        extra = {"socket": ports | settings, "sqlite3": ACCOUNT}
        node = Node(network.nodes["carol"], tmp_path / "carol", extra=extra)
        nodes.append(node)
        return node.start()

    yield start_node
    for node in nodes:
        node.kill()


@pytest.mark.parametrize("end", [Node.kill, Node.stop])
def test_restart_keeps_ports_and_clients(own_node, end):
    node = own_node()
    told = start(node)
    first, second = clients(told)
    with first, second:
        introduce(first, second)
        node.wait_until(lambda: "nobody yet" not in last_run(node).values())
        end(node)
        # After a kill the pump may take longer to notice than the node waits for its ports.
        while not all(map(is_free, ports(told))):
            time.sleep(0.05)
        node.start()
        assert start(node) == told
        first.say(b"still here")
        assert second.hear() == b"still here"


def test_what_was_stopped_stays_stopped(own_node, bob):
    node = own_node()
    told = start(node)
    node.post(STOP)
    node.kill()
    node.start()
    assert "StartSocket" in node.post(SEND, {"pubkey": bob.pubkey}).json["message"]
    node.wait_until(lambda: all(map(is_free, ports(told))))


def last_run(node: Node) -> dict[str, str]:
    """The admin's page of the newest relay."""
    pages = AdminPages(node)
    newest = re.search(r"/admin/nodeapi/relayrun/(\d+)/change/", pages.page("nodeapi/relayrun/"))[1]
    return pages.fields(f"nodeapi/relayrun/{newest}/change/")


def test_the_admin_shows_it(own_node):
    node = own_node()
    told = start(node)
    shown = last_run(node)
    assert shown["UDP ports"] == f"{told['port1']} and {told['port2']}"
    assert shown["Spoke on port 1"] == shown["Spoke on port 2"] == "nobody yet"
    assert shown["Ended (UTC)"] == "–"
    first, second = clients(told)
    with first, second:
        introduce(first, second)
        for _ in range(10):
            first.say(b"12345")
            second.hear()
        # A pump that does not get to end within two seconds tells nothing more.
        node.wait_until(lambda: int(last_run(node)["Datagrams 1 → 2"]) > 10)
        node.post(STOP)
        shown = last_run(node)
        assert (shown["Spoke on port 1"], shown["Spoke on port 2"]) == (
            f"127.0.0.1:{first.port}",
            f"127.0.0.1:{second.port}",
        )
    assert int(shown["Datagrams 1 → 2"]) > 10
    assert int(shown["Bytes 1 → 2"]) > 50
    assert shown["End cause"] == "stopped"
    assert shown["Ended (UTC)"] != "–"


def test_ports_that_were_taken_meanwhile(own_node):
    node = own_node()
    told = start(node)
    node.kill()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
        while not is_free(ports(told)[0]):
            pass
        squatter.bind(("127.0.0.1", ports(told)[0]))
        node.start()
        with WebsocketStream(node, "?after=0&service=relay") as stream:
            event = stream.event()
        moved = start(node)
    assert moved["port1"] != told["port1"]
    assert json.loads(data_of(event)) == {"state": "moved", **moved}
    assert "the relay has other ports now" in node.log
    first, second = clients(moved)
    with first, second:
        introduce(first, second)


def test_the_pump_is_started_again_when_it_dies(own_node):
    node = own_node()
    told = start(node)
    first, second = clients(told)
    with first, second:
        introduce(first, second)
        node.wait_until(lambda: "nobody yet" not in last_run(node).values())
        (pump,) = pumps_of(node)
        os.kill(pump, signal.SIGKILL)
        node.wait_until(lambda: pump not in pumps_of(node))
        first.say(b"as if nothing had happened")
        assert second.hear() == b"as if nothing had happened"
    assert pumps_of(node) not in ([], [pump])
    assert start(node) == told


def pumps_of(node: Node) -> list[int]:
    tasks = Path(f"/proc/{node.process.pid}/task")
    found = [int(word) for task in tasks.iterdir() for word in read(task / "children").split()]
    return [pid for pid in found if b"pump.py" in read(Path(f"/proc/{pid}/cmdline"))]


def read(path: Path) -> bytes:
    """Empty when the process or thread is gone."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_settings_reach_the_relay(own_node):
    own_range = free_range(10)
    text = f"{own_range[0]}-{own_range[-1]}"
    node = own_node(port_range=text, pin=False, max_bytes_per_second=100_000)
    told = start(node)
    assert all(port in own_range for port in ports(told))
    first, second = clients(told)
    with first, second, UdpClient(ports(told)[0]) as third:
        introduce(first, second)
        third.say(b"the newest has the port")
        assert second.hear() == b"the newest has the port"
        second.say(b"answer")
        assert third.hear() == b"answer"

        def some_are_dropped() -> bool:
            """800,000 bytes come at once, if the system has room for them; what is not let through is counted."""
            for _ in range(40):
                third.say(b"x" * 20_000)
            return int(last_run(node)["Datagrams not passed on"]) > 1

        node.wait_until(some_are_dropped)


def test_a_range_without_room(own_node):
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as squatter:
        squatter.bind(("127.0.0.1", 0))
        port = squatter.getsockname()[1]
        node = own_node(port_range=[port, port + 1])
        reply = node.post(START)
    assert (reply.status, reply.json["code"]) == (400, 9)
    assert reply.json["message"].startswith("socket.port_range: ")


def test_idle_it_ends_and_tells(own_node):
    node = own_node(idle_seconds=1)
    with WebsocketStream(node, "?service=relay") as stream:
        told = start(node)
        event = stream.event()
    assert json.loads(data_of(event)) == {"state": "ended", "cause": "idle"}
    node.wait_until(lambda: all(map(is_free, ports(told))))
    assert last_run(node)["End cause"] == "idle"
    assert node.post(STOP).json == {}
    start(node)


def test_service_that_is_off(network, tmp_path):
    rows = [
        {"service_type": name, "active": name != "socket", "custom_record_number": number}
        for name, number in SERVICES.items()
    ]
    with Node(network.nodes["carol"], tmp_path / "off") as node:
        told = start(node)
        node.kill()
        node.config_path.write_text(json.dumps(node._config() | {"service_list": rows}))
        node.start()
        for path in (START, STOP, SEND):
            reply = node.post(path, {"pubkey": PrivateKey().public_key.format().hex()})
            assert (reply.status, reply.json["code"]) == (400, 9), reply.body
            assert reply.json["message"] == "the service socket is off on this node"
        node.wait_until(lambda: all(map(is_free, ports(told))))
        node.wait_until(lambda: "is not started: the service socket is off" in node.log)


def test_key_without_the_scope(network, tmp_path):
    (tmp_path / "reader.key").write_text("reader-key-with-enough-characters")
    entry = {"name": "reader", "key_file": str(tmp_path / "reader.key"), "scopes": ["read", "pay"]}
    with Node(network.nodes["carol"], tmp_path / "keys", extra={"server": {"api_keys": [entry]}}) as node:
        for path in (START, STOP, SEND):
            assert node.post(path).status == 401
            reply = node.post(path, None, {"Authorization": "Bearer reader-key-with-enough-characters"})
            assert (reply.status, reply.json["code"]) == (403, 7)
            assert "send" in reply.json["message"]


def test_it_listens_on_all_addresses_only_for_an_address_of_all(own_node):
    node = own_node(server_ip="203.0.113.5")
    told = node.post(START).json
    assert told["ip"] == "203.0.113.5"
    assert listening_on(told["port1"]) == "00000000"


def test_it_listens_on_loopback_for_loopback(relay):
    assert listening_on(relay["port1"]) == "0100007F"


def listening_on(port: str) -> str:
    """The address in the kernel's own list of UDP sockets."""
    suffix = f"{int(port[1:]):04X}"
    rows = [line.split()[1].split(":") for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return next(address for address, local_port in rows if local_port == suffix)
