"""TLS on both ports, and beside them: as clients see it, also while the certificate is exchanged."""

import dataclasses
import socket
import ssl
from pathlib import Path

import grpc
import pytest

from impervious_site.config import load_config
from nodeapi.cli.client import Door, NodeClient, NodeError, ask_http, find_key
from protos import messaging_pb2
from tests.support.admin import ACCOUNT
from tests.support.certificates import Authority, self_signed
from tests.support.daphnes import Daphne
from tests.support.nodes import GUARD_SECONDS, Node
from tests.support.streams import LineStream, WebsocketStream, data_of, grpc_stream, messaging, send

KEY = "a-key-with-more-than-20-characters"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
METADATA = (("x-api-key", KEY),)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("certificate")


@pytest.fixture(scope="module")
def node(network, tmp_path_factory, files):
    """carol's node over TLS, with a key."""
    server = self_signed(files)
    with Node(
        network.nodes["carol"],
        tmp_path_factory.mktemp("tls"),
        extra={"server": server, "sqlite3": ACCOUNT},
        # As ./impervious starts it, which tells a person where it listens.
        environ={"IMPD_SERVER__API_KEY": KEY, "IMPD_LAUNCHED": "1"},
        tls_cert=files / "server.cert",
    ) as running:
        yield running


def shown(node: Node) -> tuple[str, str]:
    """The certificates that new connections to gRPC and to HTTP are shown, as PEM."""
    return certificate_at(node.grpc_port, "h2"), certificate_at(node.http_port, "http/1.1")


def certificate_at(port: int, protocol: str) -> str:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS) as raw,
        context.wrap_socket(raw) as connection,
    ):
        return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True)).strip()


def test_all_doors_speak_tls(node, bob):
    assert node.get("/v1/node", AUTHORIZED).json["pubkey"] == node.pubkey
    assert node.get("/v1/node").status == 401
    with messaging(node) as stub:
        stub.ListMessages(messaging_pb2.ListMessagesRequest(), metadata=METADATA)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ListMessages(messaging_pb2.ListMessagesRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with (
        WebsocketStream(node, additional_headers=AUTHORIZED) as websocket,
        LineStream(node, headers=AUTHORIZED) as lines,
        grpc_stream(node, METADATA) as call,
    ):
        message_id = send(bob, node, b"over TLS")
        for stream in (websocket, lines):
            event = stream.event()
            while event["id"] != message_id:
                event = stream.event()
            assert data_of(event) == b"over TLS"
        assert message_id in (event.id for event in call)


def test_commands_speak_tls(node, tmp_path):
    config = load_config(node.config_path, node.environ)
    door = Door.of(config, find_key(config, scopes=frozenset({"read"}), key_file=None))
    with NodeClient(door) as client:
        assert client.info().pubkey == node.pubkey
    # It gives the node three seconds, and then tells nothing.
    assert node.wait_until(lambda: ask_http(door))[1]["pubkey"] == node.pubkey
    self_signed(tmp_path)
    stranger = dataclasses.replace(door, tls_cert=(tmp_path / "server.cert").read_bytes())
    with (
        NodeClient(stranger) as client,
        pytest.raises(NodeError, match=r"does not show the certificate in server\.tls_cert"),
    ):
        client.info()
    assert ask_http(stranger) is None


def test_nothing_but_tls(node):
    plain = Node.__new__(Node)
    plain.__dict__.update(node.__dict__, tls_cert=None)
    with pytest.raises(ConnectionError):
        plain.get("/v1/node", AUTHORIZED)
    with plain.channel() as channel, pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(timeout=3)


@pytest.mark.parametrize("door", ["http", "grpc"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
def test_old_versions_of_tls_are_refused(node, door, version):
    context = ssl.create_default_context(cafile=node.tls_cert)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2" if door == "grpc" else "http/1.1"])
    port = node.grpc_port if door == "grpc" else node.http_port
    with socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS) as raw:
        if version is ssl.TLSVersion.TLSv1_2:
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as connection:
                assert connection.version() == "TLSv1.2"
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_admin_cookies_are_secure(node):
    cookie = node.get("/admin/login/").headers["set-cookie"]
    assert cookie.startswith("csrftoken=")
    assert "Secure" in cookie


def test_what_the_node_says_of_itself_is_of_https(node):
    assert f'"http": "https://{node.http}"' in node.log


def test_a_new_pair_is_taken_up_and_streams_go_on(node, bob, files):
    before = shown(node)
    assert set(before) == {(files / "server.cert").read_text().strip()}
    with (
        WebsocketStream(node, additional_headers=AUTHORIZED) as websocket,
        grpc_stream(node, METADATA) as call,
    ):
        self_signed(files)
        after = (files / "server.cert").read_text().strip()
        assert shown(node) == (after, after) != before
        assert node.get("/v1/node", AUTHORIZED).status == 200
        with messaging(node) as stub:
            stub.ListMessages(messaging_pb2.ListMessagesRequest(), metadata=METADATA)
        message_id = send(bob, node, b"over the connections from before")
        websocket.until(lambda event: event["id"] == message_id)
        assert message_id in (event.id for event in call)


def test_half_a_pair_leaves_the_old_one_in_use_and_is_told_once(node, files):
    before, told = shown(node), node.log.count("stays in use")
    cert, key = Authority().issue("node.example")
    for unusable in (cert, cert[: len(cert) // 2], b"", None):
        write(files / "server.cert", unusable)
        for _ in range(3):
            assert shown(node) == before
    assert node.log.count("stays in use") == told + 1
    write(files / "server.cert", cert)
    assert shown(node) == before
    write(files / "server.key", key)
    leaf = cert.decode().split("-----END")[0] + "-----END CERTIFICATE-----"
    assert shown(node) == (leaf, leaf)
    assert node.log.count("stays in use") == told + 1
    self_signed(files)
    assert node.get("/v1/node", AUTHORIZED).status == 200


def write(path: Path, content: bytes | None) -> None:
    """In place, or away."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


class TlsDaphne(Daphne):
    """A daphne beside the engine, itself over TLS by an endpoint of Twisted's."""

    def endpoint(self) -> list[str]:
        server = self.extra["server"]
        return [
            "-e",
            f"ssl:{self.http_port}:privateKey={server['tls_key']}:certKey={server['tls_cert']}:interface=127.0.0.1",
        ]


def test_daphnes_beside_find_the_engine_whatever_its_certificate_names(network, bob, tmp_path):
    """Also after it was exchanged for that of an authority that nobody here trusts, and the engine was started again."""
    engine = Node(
        network.nodes["carol"],
        tmp_path / "engine",
        extra={"server": self_signed(tmp_path)},
        environ={"IMPD_SERVER__API_KEY": KEY},
        arguments=("--no-http",),
        tls_cert=tmp_path / "server.cert",
    )
    body = {"msg": "aGVsbG8=", "pubkey": bob.pubkey}
    with engine, TlsDaphne(engine) as over_tls, Daphne(plain_view(engine)) as plain:
        for daphne in (over_tls, plain):
            assert daphne.post("/v1/message/send", body).status == 401
            assert daphne.post("/v1/message/send", body, AUTHORIZED).status == 200
            daphne.wait_until(lambda: daphne.get("/health/ready").status == 200)
            assert daphne.get("/metrics/runimpd", AUTHORIZED).status == 200
        with WebsocketStream(over_tls, additional_headers=AUTHORIZED) as stream:
            message_id = send(bob, engine)
            stream.until(lambda event: event["id"] == message_id)
        for name in ("node.example", "*.node.example"):
            cert, key = Authority().issue(name)
            write(tmp_path / "server.key", key)
            write(tmp_path / "server.cert", cert)
            engine.kill()
            engine.start()
            plain.wait_until(lambda: plain.post("/v1/message/send", body, AUTHORIZED).status == 200)


def plain_view(engine: Node) -> Node:
    """The engine, for a daphne that speaks plain HTTP itself, as behind a proxy."""
    view = Node.__new__(Node)
    view.__dict__.update(engine.__dict__, tls_cert=None)
    return view
