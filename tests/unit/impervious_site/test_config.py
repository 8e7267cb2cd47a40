"""The configuration: the file of 2021 loads, every mistake is told at once, no secret is repeated."""

import datetime
import ipaddress
import json
import logging
import sys
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from impervious_site.config import (
    PLACES,
    Address,
    Config,
    ConfigError,
    find_config,
    load_config,
    simulated_config,
)
from impervious_site.databases import postgres_settings
from impervious_site.logs import logging_settings
from tests.support.certificates import Authority, key_pem, new_key, new_rsa_key, self_signed
from tests.support.examples import examples
from tests.support.nodes import ROOT

PUB_KEY = "02" + "ab" * 32
MACAROON = bytes.fromhex("0201036c6e64") + b"\x07" * 40
KEY = "correct-horse-battery-staple"
EXAMPLE = ROOT / "config" / "example.config.yml"

FILE_OF_2021 = """\
server:
  enabled: true                # gRPC, HTTP and websocket servers on or off
  grpc_addr: 127.0.0.1:8881    # IP:port
  http_addr: 127.0.0.1:8882    # IP:port, HTTP and websocket
sqlite3:
  username: admin
  password: supersecretpassword  # was announced to move to an environment variable or to be generated
service_list:
  - service_type: federate
    active: true
    custom_record_number: 100000
    additional_service_data:
  - service_type: vpn          # 200000
    active: true
    custom_record_number: 200000
    additional_service_data:
  - service_type: websocket    # 300000: in the documentation's file, not in the released template; may be absent
    active: true
    custom_record_number: 300000
    additional_service_data:
  - service_type: message      # 400000
    active: true
    custom_record_number: 400000
    additional_service_data:
  - service_type: socket       # 500000
    active: true
    custom_record_number: 500000
    additional_service_data:
  - service_type: sign         # 800000
    active: true
    custom_record_number: 800000
    additional_service_data:
lightning:
  lnd_node:
    ip: 127.0.0.1              # IP or host name of the LND node
    port: 10001                # its gRPC port
    pub_key: 02…               # checked against GetInfo at start; may be empty
    tls_cert: /path/to/tls.cert            # empty: the system's certificate authorities (hosted nodes)
    admin_macaroon: /path/to/admin.macaroon
federate:
  ttl: 31560000                # seconds after which a federation is deleted
  imp_id: YOUR_IMP_ID          # plain-text name of this node
vpn:
  price: 100                   # sat per hour
  server_ip: 127.0.0.1         # public IP of the VPN server
  server_port: 51820
  subnet: 10.0.0.0/24          # handed to clients; .1 is the server
  server_pub_key: …            # WireGuard public key of the server
  allowed_ips: 0.0.0.0/0       # what clients can reach through it
  binary_path: /usr/bin/wg
  dns: 8.8.8.8
socket:
  server_ip: 1.1.1.1           # public IP of the relay: what is told to others, never bound
"""


@pytest.fixture(scope="session")
def certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lnd")])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
    )
    signed = (
        built.not_valid_before(start).not_valid_after(start.replace(year=2044)).sign(key, hashes.SHA256())
    )
    return signed.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def node(tmp_path: Path, certificate: bytes) -> "NodeFiles":
    return NodeFiles(tmp_path, certificate)


class NodeFiles:
    """A directory with lnd's files, in which configurations are written and loaded."""

    def __init__(self, directory: Path, certificate: bytes) -> None:
        self.directory = directory
        self.path = directory / "node.yml"
        (directory / "tls.cert").write_bytes(certificate)
        (directory / "admin.macaroon").write_bytes(MACAROON)
        self.lnd = {
            "ip": "127.0.0.1",
            "port": 10001,
            "tls_cert": "tls.cert",
            "admin_macaroon": "admin.macaroon",
        }

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def load(self, environ: dict[str, str] | None = None, **sections: object) -> Config:
        """Loads a file of these sections, those of lnd being right unless they are given."""
        lightning = {"lnd_node": self.lnd} | sections.pop("lightning", {})
        return self.load_text(yaml.safe_dump({"lightning": lightning, **sections}), environ)

    def load_text(self, text: str | bytes, environ: dict[str, str] | None = None) -> Config:
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(self.path, environ or {})

    def problems(self, environ: dict[str, str] | None = None, **sections: object) -> list[str]:
        with pytest.raises(ConfigError) as raised:
            self.load(environ, **sections)
        return raised.value.problems

    def text_problems(self, text: str | bytes) -> list[str]:
        with pytest.raises(ConfigError) as raised:
            self.load_text(text)
        return raised.value.problems


def only(problems: list[str], key: str, *words: str) -> None:
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"{key}: "), problems
    for word in words:
        assert word in problems[0], problems


def filled_in(text: str, directory: Path) -> str:
    return text.replace("/path/to", str(directory)).replace("02…", PUB_KEY)


def test_file_of_2021_loads_with_its_placeholders_replaced(node):
    config = node.load_text(filled_in(FILE_OF_2021, node.directory))

    assert not config.simulated
    assert config.path == node.path
    assert config.server.enabled
    assert config.server.api_keys == ()
    assert config.server.grpc_addr == Address("127.0.0.1", 8881)
    assert str(config.server.http_addr) == "127.0.0.1:8882"
    assert config.admin.username == "admin"
    assert config.admin.password.get_secret_value() == "supersecretpassword"
    assert [(service.service_type, service.custom_record_number) for service in config.services] == [
        ("federate", 100_000),
        ("vpn", 200_000),
        ("websocket", 300_000),
        ("message", 400_000),
        ("socket", 500_000),
        ("sign", 800_000),
    ]
    assert all(service.active and service.additional_service_data == {} for service in config.services)
    assert (config.lnd.host, config.lnd.port, config.lnd.pub_key) == ("127.0.0.1", 10001, PUB_KEY)
    assert config.lnd.macaroon_hex.get_secret_value() == MACAROON.hex()
    assert config.lnd.tls_cert.startswith(b"-----BEGIN CERTIFICATE-----")
    assert (config.federate.ttl, config.federate.imp_id) == (31_560_000, "YOUR_IMP_ID")
    assert (config.vpn.price, config.vpn.server_port, config.vpn.subnet) == (
        100,
        51820,
        networks("10.0.0.0/24"),
    )
    assert config.vpn.server_pub_key == ""
    assert config.vpn.binary_path == "/usr/bin/wg"
    assert config.vpn.dns == ("8.8.8.8",)
    assert [str(network) for network in config.vpn.allowed_ips] == ["0.0.0.0/0"]
    assert config.socket.server_ip == "1.1.1.1"
    assert [warning.split(":")[0] for warning in config.warnings] == [
        "sqlite3.password",
        "vpn.server_pub_key",
    ]


def test_file_of_2021_as_it_stands_names_each_placeholder(node):
    problems = node.text_problems(FILE_OF_2021)
    assert [problem.split(":")[0] for problem in problems] == [
        f"lightning.lnd_node.{name}" for name in ("pub_key", "tls_cert", "admin_macaroon")
    ]
    assert all("still the placeholder" in problem and "; must be" in problem for problem in problems)


def test_defaults(node):
    config = node.load()
    assert (config.lightning.max_fee_sat, config.lightning.max_fee_percent) == (10, 5)
    assert config.message.model_dump() == {
        "max_bytes": 1_048_576,
        "in_flight": 256,
        "in_flight_per_peer": 64,
        "expires_seconds": 86_400,
        "incomplete_per_peer": 64,
        "incomplete": 1_024,
        "incomplete_bytes": 67_108_864,
        "incomplete_seconds": 90_000,
    }
    assert config.events.keep_days == 30
    assert config.messages.keep_days is None
    assert config.redis_url is None
    assert config.services == ()
    assert config.database.sqlite_path == node.directory / "node.sqlite3"
    assert config.admin.username is None
    assert config.admin.password is None
    assert config.lnd.pub_key == ""
    assert config.warnings == ()


def test_example_documents_every_key_in_force_and_loads(node):
    config = node.load_text(filled_in(EXAMPLE.read_text(), node.directory))
    assert config.warnings == ()
    assert len(config.services) == 6
    uncommented = EXAMPLE.read_text().replace("# ", "  ")
    for key in (
        "api_keys:",
        "tls_cert_hex:",
        "admin_macaroon_hex:",
        "url:",
        "keep_days:",
        "allowed_origins:",
        "port_range:",
        "max_bytes_per_second:",
        "idle_seconds:",
    ):
        assert key in uncommented


def test_all_problems_are_told_at_once(node):
    problems = node.problems(
        server={"grpc_addr": "localhost:8881", "http_addr": "127.0.0.1:99999", "enabled": "perhaps"},
        lightning={"max_fee_sat": True, "lnd_node": {"ip": "ip", "port": "port", "tls_cert": "nowhere.cert"}},
        service_list=[{"service_type": "chess", "active": True, "custom_record_number": 65_535}],
        vpn={"price": -1, "subnet": "10.0.0.1/24", "dns": "dns.example.com"},
        redis={"url": "http://h"},
    )
    assert {problem.split(": ")[0] for problem in problems} == {
        "server.grpc_addr",
        "server.http_addr",
        "server.enabled",
        "lightning.max_fee_sat",
        "lightning.lnd_node.ip",
        "lightning.lnd_node.port",
        "lightning.lnd_node.tls_cert",
        "lightning.lnd_node.admin_macaroon",
        "service_list[0].service_type",
        "service_list[0].custom_record_number",
        "vpn.price",
        "vpn.subnet",
        "vpn.dns",
        "redis.url",
    }
    assert all("; " in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.2:1", Address("127.0.0.2", 1)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:8881", Address("::1", 8881)),
        ("[::ffff:127.0.0.1]:1", Address(str(ipaddress.ip_address("::ffff:127.0.0.1")), 1)),
    ],
)
def test_loopback_addresses(node, text, address):
    parsed = node.load(server={"grpc_addr": text}).server.grpc_addr
    assert parsed == address
    assert parsed.is_loopback


@pytest.mark.parametrize(
    "text", ["127.0.0.1", ":8881", "::1:8881", "[127.0.0.1]:1", "1.2.3:1", "127.0.0.1:-1", "[]:1", 8881]
)
def test_addresses_that_are_none(node, text):
    only(
        node.problems(server={"grpc_addr": text}),
        "server.grpc_addr",
        "must be IP:port such as 127.0.0.1:8881",
    )


@pytest.mark.parametrize("http", ["127.0.0.1:8881", "[::]:8881"])
def test_both_servers_on_one_address(node, http):
    problems = node.problems({"IMPD_SERVER__API_KEY": KEY}, server={"http_addr": http})
    only(problems, "server.http_addr", "server.grpc_addr")
    assert node.load(server={"http_addr": "127.0.0.1:0", "grpc_addr": "127.0.0.1:0"})


@pytest.mark.parametrize("name", ["grpc_addr", "http_addr"])
@pytest.mark.parametrize("address", ["0.0.0.0:80", "192.168.1.2:80", "[::]:80"])
def test_beyond_loopback_only_with_a_key(node, name, address):
    """Whether there is one in the database is asked at start (nodeapi/keys.py), which says this if there is none."""
    server = {name: address}
    ways = ("IMPD_SERVER__API_KEY", "IMPD_SERVER__API_KEY_FILE", "server.api_keys", "./impervious keys make")
    assert node.load().server.exposed == {}
    exposed = node.load(server=server).server.exposed
    assert exposed.keys() == {name}
    assert all(way in exposed[name] for way in ways)
    (key,) = node.load({"IMPD_SERVER__API_KEY": KEY}, server=server).server.api_keys
    assert (key.name, key.key.get_secret_value(), key.scopes) == (
        "default",
        KEY,
        {"read", "send", "pay", "admin"},
    )


def test_template_password_beyond_loopback(node):
    sqlite3 = {"username": "admin", "password": "supersecretpassword"}
    problems = node.problems(
        {"IMPD_SERVER__API_KEY": KEY}, sqlite3=sqlite3, server={"http_addr": "0.0.0.0:80"}
    )
    only(problems, "sqlite3.password", "everybody knows")


def test_api_keys_from_files(node):
    node.write("one.key", KEY + "\n")
    node.write("two.key", KEY[::-1])
    entries = [
        {"name": "one", "key_file": "one.key", "scopes": ["read", "send"]},
        {
            "name": "two",
            "key_file": str(node.directory / "two.key"),
            "scopes": "read",
            "budget_sat": 0,
            "calls_per_minute": 6,
        },
    ]
    environ = {"IMPD_SERVER__API_KEY_FILE": str(node.write("three.key", "x" * 20))}
    keys = node.load(environ, server={"api_keys": entries}).server.api_keys
    assert [(key.name, key.key.get_secret_value(), sorted(key.scopes)) for key in keys] == [
        ("one", KEY, ["read", "send"]),
        ("two", KEY[::-1], ["read"]),
        ("default", "x" * 20, ["admin", "pay", "read", "send"]),
    ]
    assert [(key.budget_sat, key.calls_per_minute) for key in keys] == [(None, None), (0, 6), (None, None)]


@pytest.mark.parametrize(
    ("change", "key", "word"),
    [
        ({"name": "one"}, "server.api_keys[1].name", "'one', as in server.api_keys[0]"),
        ({"key_file": "one.key"}, "server.api_keys[1].key_file", "the same"),
        ({"key_file": "short.key"}, "server.api_keys[1].key_file", "20 or more"),
        ({"key_file": "./none.key"}, "server.api_keys[1].key_file", "No such file"),
        ({"scopes": ["read", "write"]}, "server.api_keys[1].scopes", "'write' is no scope"),
        ({"scopes": []}, "server.api_keys[1].scopes", "is empty"),
        ({"scopes": None}, "server.api_keys[1].scopes", "is missing"),
        ({"name": "default"}, "server.api_keys", "default"),
        ({"name": "n" * 65}, "server.api_keys[1].name", "1 to 64"),
        ({"name": "two\nlines"}, "server.api_keys[1].name", "printable"),
        ({"budget_sat": -1}, "server.api_keys[1].budget_sat", "from 0"),
        ({"budget_sat": "much"}, "server.api_keys[1].budget_sat", "whole number"),
        ({"calls_per_minute": 0}, "server.api_keys[1].calls_per_minute", "from 1"),
    ],
)
def test_api_keys_that_are_wrong(node, change, key, word):
    node.write("one.key", KEY)
    node.write("two.key", KEY * 2)
    node.write("short.key", "short")
    entries = [
        {"name": "one", "key_file": "one.key", "scopes": ["read"]},
        {"name": "two", "key_file": "two.key", "scopes": ["read"]} | change,
    ]
    only(node.problems({"IMPD_SERVER__API_KEY": "y" * 20}, server={"api_keys": entries}), key, word)


def test_an_empty_api_key_is_not_no_api_key(node):
    only(node.problems({"IMPD_SERVER__API_KEY": ""}), "server.api_key", "20 or more")
    only(
        node.problems({"IMPD_SERVER__API_KEY_FILE": str(node.write("empty", ""))}),
        "server.api_key",
        "20 or more",
    )
    only(node.problems(server={"api_key": KEY}), "server.api_key", "IMPD_SERVER__API_KEY")


def test_message_encoding(node):
    assert node.load().server.message_encoding == "base64"
    assert node.load(server={"message_encoding": "text"}).server.message_encoding == "text"
    assert node.load({"IMPD_SERVER__MESSAGE_ENCODING": "text"}).server.message_encoding == "text"


def test_hosts_and_origins(node):
    server = {
        "allowed_hosts": ["Node.Example.com", "10.0.0.7"],
        "allowed_origins": [
            "HTTPS://App.Example.com:443/",
            "http://10.0.0.7:3000",
            "http://[2001:db8::1]:80",
        ],
    }
    loaded = node.load(server=server).server
    assert loaded.allowed_hosts == ("node.example.com", "10.0.0.7")
    assert loaded.allowed_origins == (
        "https://app.example.com",
        "http://10.0.0.7:3000",
        "http://[2001:db8::1]",
    )
    environ = {
        "IMPD_SERVER__ALLOWED_HOSTS": "a.example, b.example",
        "IMPD_SERVER__ALLOWED_ORIGINS": '["https://c.example"]',
    }
    loaded = node.load(environ, server=server).server
    assert loaded.allowed_hosts == ("a.example", "b.example")
    assert loaded.allowed_origins == ("https://c.example",)


@pytest.mark.parametrize(
    "origin",
    [
        "tauri://localhost",
        "capacitor://localhost",
        "ionic://localhost",
        "app://-",
        "chrome-extension://abcdefghijklmnop",
        "vscode-webview://a_b",
        "my.app+1://localhost:5",
    ],
)
def test_origins_of_apps(node, origin):
    assert node.load(server={"allowed_origins": [origin]}).server.allowed_origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "app.example.com",
        "https://a/b",
        "https://u@a",
        "ws://a",
        "https://a:x",
        "https://a?",
        "tauri://",
        "tauri:localhost",
        "tauri://localhost/index.html",
        "capacitor://a b",
        "file:///",
        "file://host",
        "data://a",
        "://localhost",
    ],
)
def test_origins_that_are_none(node, origin):
    only(
        node.problems(server={"allowed_origins": [origin]}), "server.allowed_origins", "must be scheme://host"
    )


@pytest.mark.parametrize("host", ["*", "https://a", "a/b", "a:80"])
def test_hosts_that_are_none(node, host):
    only(
        node.problems(server={"allowed_hosts": [host]}),
        "server.allowed_hosts",
        "without scheme, port and path",
    )


def test_federate(node):
    loaded = node.load().federate
    assert (loaded.accept, loaded.max_members) == ("auto", 100)
    loaded = node.load(
        {"IMPD_FEDERATE__MAX_MEMBERS": "7"}, federate={"accept": "known", "imp_id": "Bär", "ttl": 60}
    ).federate
    assert (loaded.accept, loaded.max_members, loaded.imp_id, loaded.ttl) == ("known", 7, "Bär", 60)


def test_services(node):
    def service(kind: str, number: object, **more: object) -> dict:
        return {"service_type": kind, "active": True, "custom_record_number": number, **more}

    data = {"depth": 3, "flag": True, "list": [1, "x"]}
    loaded = node.load(service_list=[service("sign", "800000", additional_service_data=data)]).services
    assert loaded[0].custom_record_number == 800_000
    assert loaded[0].additional_service_data == data
    wrong = [
        service("sign", 800_000),
        service("vpn", 800_000),
        service("sign", 70_000),
        service("message", 5_482_373_484),
        service("socket", 2**64),
        "federate",
    ]
    assert {problem.split(": ")[0] for problem in node.problems(service_list=wrong)} == {
        "service_list[1].custom_record_number",
        "service_list[2].service_type",
        "service_list[3].custom_record_number",
        "service_list[4].custom_record_number",
        "service_list[5]",
    }
    environ = {"IMPD_SERVICE_LIST": json.dumps([service("vpn", 2**64 - 1)])}
    assert node.load(environ, service_list=wrong).services[0].custom_record_number == 2**64 - 1
    only(node.problems({"IMPD_SERVICE_LIST": "vpn"}), "service_list", "JSON")


def test_lnd_by_hex_and_environment(node, certificate):
    hexes = {"tls_cert_hex": certificate.hex(), "admin_macaroon_hex": MACAROON.hex()}
    lnd = {"ip": "lnd.example.com", "port": "10009", **hexes}
    loaded = node.load(lightning={"lnd_node": lnd}).lnd
    assert (loaded.host, loaded.port, loaded.tls_cert) == ("lnd.example.com", 10009, certificate)
    assert loaded.macaroon_hex.get_secret_value() == MACAROON.hex()
    environ = {
        "IMPD_LIGHTNING__LND_NODE__PORT": "10010",
        "IMPD_LIGHTNING__LND_NODE__TLS_CERT": "",
        "IMPD_LIGHTNING__LND_NODE__ADMIN_MACAROON_HEX_FILE": str(node.write("hex", "0201ff\n")),
    }
    loaded = node.load(environ).lnd
    assert (loaded.port, loaded.tls_cert, loaded.macaroon_hex.get_secret_value()) == (10010, None, "0201ff")


def test_lnd_wholly_from_the_environment_with_an_empty_file(node):
    lnd = {f"IMPD_LIGHTNING__LND_NODE__{name.upper()}": str(value) for name, value in node.lnd.items()}
    assert node.load_text("", lnd).lnd.port == 10001


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ({"tls_cert": "none.cert"}, "tls_cert", ("none.cert", "No such file or directory")),
        ({"tls_cert": "admin.macaroon"}, "tls_cert", ("admin.macaroon", "holds no certificate")),
        ({"tls_cert": "."}, "tls_cert", ("Is a directory",)),
        ({"tls_cert_hex": "zz", "tls_cert": None}, "tls_cert_hex", ("no hexadecimal text",)),
        ({"tls_cert_hex": "00", "tls_cert": None}, "tls_cert_hex", ("holds no certificate",)),
        ({"admin_macaroon_hex": "0201"}, "admin_macaroon_hex", ("set one of the two",)),
        ({"admin_macaroon": None}, "admin_macaroon", ("is missing", "admin_macaroon_hex")),
        ({"admin_macaroon": "empty"}, "admin_macaroon", ("is empty",)),
        ({"admin_macaroon": MACAROON.hex()}, "admin_macaroon", ("is the macaroon itself",)),
        ({"pub_key": "04" * 33}, "pub_key", ("66 hexadecimal digits",)),
        ({"ip": "https://lnd"}, "ip", ("without scheme",)),
        ({"ip": "10.0.0.300"}, "ip", ("is no host",)),
        ({"ip": None}, "ip", ("is missing; set it to",)),
        ({"port": 0}, "port", ("from 1 to 65535",)),
        ({"port": 10.5}, "port", ("whole number",)),
    ],
)
def test_lnd_values_that_are_wrong(node, change, name, words):
    node.write("empty", "")
    problems = node.problems(lightning={"lnd_node": node.lnd | change})
    only(problems, f"lightning.lnd_node.{name}", *words)
    assert MACAROON.hex() not in problems[0]


@pytest.mark.parametrize(
    ("section", "values", "key", "words"),
    [
        ("server", {"message_encoding": "utf-8"}, "server.message_encoding", ("must be base64 or text",)),
        (
            "database",
            {"url": "postgresql://u:hunter2@h"},
            "database.url",
            ("is no address of a PostgreSQL database",),
        ),
        ("database", {"url": "postgresql://u:@hunter2@h/d"}, "database.url", ("percent codes", "%40")),
        ("database", {"url": "postgresql://u:hunter2/x@h/d"}, "database.url", ("percent codes",)),
        (
            "database",
            {"url": "postgresql://u:hunter2@h/d?ssl=1"},
            "database.url",
            ("postgresql://user:password@",),
        ),
        (
            "database",
            {"url": "postgresql+psycopg://u:hunter2@h/d"},
            "database.url",
            ("postgresql://user:password@",),
        ),
        ("database", {"url": "sqlite:///:memory:"}, "database.url", ("sqlite:///",)),
        ("database", {"url": "sqlite:///none/x.db"}, "database.url", ("there is no directory",)),
        ("database", {"url": "sqlite:///~nobody-here/x"}, "database.url", ("no usable file name",)),
        ("redis", {"url": "redis://"}, "redis.url", ("redis://host",)),
        ("message", {"in_flight": 0}, "message.in_flight", ("at least 1",)),
        ("message", {"in_flight": 5, "in_flight_per_peer": 6}, "message.in_flight_per_peer", ("at most",)),
        ("events", {"keep_days": "soon"}, "events.keep_days", ("whole number",)),
        ("messages", {"keep_days": 1}, "messages.keep_days", ("at least 2",)),
        ("lightning", {"max_fee_percent": 101}, "lightning.max_fee_percent", ("0 to 100",)),
        ("lightning", {"max_fee_percent": ".nan"}, "lightning.max_fee_percent", ("0 to 100",)),
        ("federate", {"accept": "all"}, "federate.accept", ("must be auto, known or manual",)),
        ("federate", {"max_members": 0}, "federate.max_members", ("from 1 to 1000",)),
        ("federate", {"ttl": "soon"}, "federate.ttl", ("whole number",)),
        ("federate", {"ttl": 10**12}, "federate.ttl", ("from 1 to",)),
        ("federate", {"imp_id": "x" * 129}, "federate.imp_id", ("128 characters",)),
        ("federate", {"imp_id": "a\u202eb"}, "federate.imp_id", ("control characters",)),
        ("vpn", {"subnet": "10.0.0.0/32"}, "vpn.subnet", ("no room",)),
        ("vpn", {"subnet": "10.0.0.9/24"}, "vpn.subnet", ("did you mean 10.0.0.0/24?",)),
        ("vpn", {"allowed_ips": "0.0.0.0/0, all"}, "vpn.allowed_ips", ("item 1", "no network")),
        ("vpn", {"binary_path": "/path/to/wg"}, "vpn.binary_path", ("still the placeholder",)),
        ("sqlite3", {"username": "a b"}, "sqlite3.username", ("letters",)),
        ("server", {"max_connections": 0}, "server.max_connections", ("of at least 10",)),
        (
            "server",
            {"trusted_proxies": ["10.0.0.1", "proxy"]},
            "server.trusted_proxies",
            ("item 1", "neither"),
        ),
        ("server", {"trusted_proxies": ["0.0.0.0/0"]}, "server.trusted_proxies", ("every address",)),
        (
            "server",
            {"tls_cert": "/path/to/cert", "tls_key": "k"},
            "server.tls_cert",
            ("still the placeholder",),
        ),
        ("lightning", {"daily_budget_sat": -1}, "lightning.daily_budget_sat", ("0",)),
        ("lightning", {"max_amount_sat": "much"}, "lightning.max_amount_sat", ("number",)),
        ("message", {"expires_seconds": 86_401}, "message.expires_seconds", ("86400",)),
        ("vpn", {"subnet": "10.0.0.0/24, 10.1.0.0/24"}, "vpn.subnet", ("two are of one kind", "IPv6")),
        ("vpn", {"subnet": "10.0.0.0/24, fd00::/127"}, "vpn.subnet", ("item 1", "no room")),
        ("vpn", {"subnet": []}, "vpn.subnet", ("is empty",)),
        ("vpn", {"min_seconds": 0}, "vpn.min_seconds", ("from 1 to",)),
        ("vpn", {"max_seconds": 3_599}, "vpn.min_seconds", ("is 3600", "at most vpn.max_seconds, 3599")),
        ("vpn", {"quote_seconds": "soon"}, "vpn.quote_seconds", ("whole number",)),
        ("vpn", {"quotes_per_minute": 0}, "vpn.quotes_per_minute", ("at least 1",)),
        ("vpn", {"quarantine_seconds": -1}, "vpn.quarantine_seconds", ("from 0",)),
        ("vpn", {"exit_rules": "maybe"}, "vpn.exit_rules", ("true or false",)),
        ("vpn", {"auto_renew": {"enabled": True}}, "vpn.auto_renew.budget_sat", ("is missing", "24 hours")),
        ("vpn", {"auto_renew": {"lead_seconds": 1}}, "vpn.auto_renew.lead_seconds", ("from 60 to",)),
        ("vpn", {"auto_renew": True}, "vpn.auto_renew", ("must be a mapping",)),
        ("socket", {"port_range": "6000"}, "socket.port_range", ("such as 6000-6100",)),
        ("socket", {"port_range": "6000-6000"}, "socket.port_range", ("two ports",)),
        ("socket", {"port_range": [6100, 6000]}, "socket.port_range", ("the lower one first",)),
        ("socket", {"port_range": [6000, 6001, 6002]}, "socket.port_range", ("a list",)),
        ("socket", {"port_range": "6000-70000"}, "socket.port_range", ("65535",)),
        ("socket", {"port_range": {"low": 1}}, "socket.port_range", ("a mapping",)),
        ("socket", {"pin": "perhaps"}, "socket.pin", ("true or false",)),
        ("socket", {"max_bytes_per_second": 0}, "socket.max_bytes_per_second", ("at least 1",)),
        ("socket", {"idle_seconds": "soon"}, "socket.idle_seconds", ("whole number",)),
        ("socket", [1], "socket", ("is a list", "must be a mapping", "line")),
        ("logging", {"level": "loud"}, "logging.level", ("loud", "debug, info, warning, error")),
        (
            "logging",
            {"parts": {"messaging.outbux": "debug"}},
            "logging.parts",
            ("messaging.outbux", "no part"),
        ),
        ("logging", {"parts": {"messaging.outbox": "loud"}}, "logging.parts", ("messaging.outbox", "loud")),
        ("logging", {"parts": {"grpc": "debug"}}, "logging.parts", ("grpc", "no part")),
        ("logging", {"parts": {"../etc": "debug"}}, "logging.parts", ("no part",)),
        ("logging", {"parts": ["messaging"]}, "logging.parts", ("a list", "mapping")),
        ("logging", {"parts": "messaging"}, "logging.parts", ("messaging",)),
    ],
)
def test_values_that_are_wrong(node, section, values, key, words):
    problems = node.problems(**{section: values})
    only(problems, key, *words)
    assert "hunter2" not in problems[0]


def test_keys_of_later_versions_may_stand_there_empty(node):
    assert (
        node.load(server={"tls_cert": "", "tls_key": None}, vpn={"auto_renew": {"budget_sat": None}}).warnings
        == ()
    )


def networks(*texts: str) -> tuple:
    return tuple(ipaddress.ip_network(text) for text in texts)


def test_vpn_defaults_and_values(node):
    vpn = node.load().vpn
    times = (
        vpn.min_seconds,
        vpn.max_seconds,
        vpn.quote_seconds,
        vpn.quotes_per_minute,
        vpn.quarantine_seconds,
    )
    assert times == (3_600, 2_592_000, 300, 30, 180)
    assert vpn.subnet == networks("10.0.0.0/24")
    assert vpn.dns == ()
    assert vpn.exit_rules is False
    assert vpn.auto_renew.model_dump() == {"enabled": False, "budget_sat": None, "lead_seconds": 600}
    given = {"subnet": "fd00:1::/64, 10.9.0.0/16", "dns": "", "exit_rules": True, "min_seconds": "60"}
    renew = {"enabled": "yes", "budget_sat": 5_000, "lead_seconds": 60}
    environ = {"IMPD_VPN__AUTO_RENEW__BUDGET_SAT": "6000", "IMPD_VPN__QUARANTINE_SECONDS": "0"}
    vpn = node.load(environ, vpn={**given, "auto_renew": renew}).vpn
    assert vpn.subnet == networks("10.9.0.0/16", "fd00:1::/64")
    assert (vpn.dns, vpn.exit_rules, vpn.min_seconds, vpn.quarantine_seconds) == ((), True, 60, 0)
    assert vpn.auto_renew.model_dump() == {"enabled": True, "budget_sat": 6_000, "lead_seconds": 60}


def test_server_of_vpn_may_be_a_host_name(node):
    assert node.load(vpn={"server_ip": "VPN.example.com"}).vpn.server_ip == "vpn.example.com"
    assert node.load(vpn={"server_ip": "[2001:db8::1]"}).vpn.server_ip == "2001:db8::1"
    assert not node.load(vpn={"server_ip": "vpn.example.com"}).warnings
    for wrong in ("vpn.example.com:51820", "https://vpn.example.com", "1.2.3", "a b"):
        with pytest.raises(ConfigError, match=r"vpn\.server_ip"):
            node.load(vpn={"server_ip": wrong})


def test_several_dns_and_networks_that_are_not_public(node):
    vpn = node.load(vpn={"dns": "8.8.8.8, 2001:4860:4860::8888", "private_networks": "10.9.0.0/24"}).vpn
    assert vpn.dns == ("8.8.8.8", "2001:4860:4860::8888")
    assert vpn.private_networks == networks("10.9.0.0/24")
    assert node.load(vpn={"dns": ["8.8.8.8", "1.1.1.1"]}).vpn.dns == ("8.8.8.8", "1.1.1.1")
    for wrong in ("8.8.8.8 1.1.1.1", "dns.example.com", ", ".join(f"8.8.8.{n}" for n in range(9))):
        with pytest.raises(ConfigError, match=r"vpn\.dns"):
            node.load(vpn={"dns": wrong})


@pytest.mark.parametrize(
    ("subnet", "allowed_ips", "add"),
    [
        ("fd00:1::/64", "0.0.0.0/0", "::/0"),
        ("10.0.0.0/24", "::/0", "0.0.0.0/0"),
        ("fd00:1::/64", "0.0.0.0/0, ::/0", ""),
        ("10.0.0.0/24, fd00:1::/64", "0.0.0.0/0", ""),
    ],
)
def test_clients_that_reach_nothing_are_warned_of(node, subnet, allowed_ips, add):
    warnings = node.load(vpn={"subnet": subnet, "allowed_ips": allowed_ips}).warnings
    added = [warning.rpartition("; add ")[2].partition(" (line")[0] for warning in warnings]
    assert added == ([add] if add else [])
    assert all(warning.startswith("vpn.allowed_ips: has no IPv") for warning in warnings)


def test_unknown_keys_are_warned_of_with_the_nearest(node):
    environ = {"IMPD_SERVER__ALOWED_HOSTS": "x", "IMPD_CONFIG": "x", "IMPD_LAUNCHED": "1", "PATH": "/bin"}
    config = node.load(environ, server={"alowed_hosts": ["secretive"]}, zzz={"a": 1})
    assert len(config.warnings) == 3
    for word in (
        "did you mean server.allowed_hosts?",
        "did you mean IMPD_SERVER__ALLOWED_HOSTS?",
        "zzz: is not known",
    ):
        assert any(word in warning for warning in config.warnings), config.warnings
    assert "secretive" not in str(config.warnings)


def test_small_in_flight_takes_the_default_per_peer_with_it(node):
    assert node.load(message={"in_flight": 5}).message.in_flight_per_peer == 5


def test_environment_by_file(node):
    password = node.write("password", "hunter2\n")
    config = node.load({"IMPD_SQLITE3__PASSWORD_FILE": str(password)}, sqlite3={"password": "other"})
    assert config.admin.password.get_secret_value() == "hunter2"
    both = {"IMPD_SQLITE3__PASSWORD_FILE": str(password), "IMPD_SQLITE3__PASSWORD": "x"}
    only(node.problems(both), "sqlite3.password", "IMPD_SQLITE3__PASSWORD_FILE", "set one of the two")
    # Who mistakes _FILE for the value itself does not find the password in the log.
    problems = node.problems({"IMPD_SQLITE3__PASSWORD_FILE": "hunter2"})
    only(problems, "sqlite3.password", "cannot read the file")
    assert "hunter2" not in problems[0]


@pytest.mark.parametrize("password", ["0123", "yes", "1_000", "2021-01-01", "0x1F", "*" * 3 + "a", "null"])
def test_passwords_stay_as_written(node, password):
    text = filled_in(FILE_OF_2021, node.directory)
    written = password if password.isalnum() and password != "null" else f'"{password}"'
    config = node.load_text(text.replace("supersecretpassword", written))
    assert config.admin.password.get_secret_value() == password


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://me:p%40ss@db.example.com:5433/node", ("me", "p@ss", "db.example.com", "5433", "node")),
        ("postgres://me@[::1]/node", ("me", None, "::1", None, "node")),
        ("postgresql://me@/node?host=/var/run/postgresql", ("me", None, "/var/run/postgresql", None, "node")),
        ("postgresql:///node", (None, None, None, None, "node")),
        ("postgresql://me:x@h1:1,h2:2/node", ("me", "x", "h1,h2", "1,2", "node")),
    ],
)
def test_postgresql_addresses(node, url, named):
    database = node.load(database={"url": url}).database
    parameters = database.postgres.get_secret_value()
    assert tuple(parameters.get(name) for name in ("user", "password", "host", "port", "dbname")) == named
    assert database.sqlite_path is None
    assert database.secret_key_path == node.directory / "node.secret_key"


def test_parameters_of_the_address_win_over_the_defaults(node):
    given = node.load(
        database={"url": "postgresql://h/d?sslmode=verify-full&connect_timeout=3"}
    ).database.postgres
    assert given.get_secret_value()["sslmode"] == "verify-full"
    assert given.get_secret_value()["connect_timeout"] == "3"
    settings = postgres_settings(given.get_secret_value())
    assert (settings["NAME"], settings["HOST"], settings["OPTIONS"]["sslmode"]) == ("d", "h", "verify-full")


def test_postgresql_without_its_driver(node, monkeypatch):
    """As in an environment of `requirements.txt` alone."""
    monkeypatch.delitem(sys.modules, "impervious_site.postgres_url", raising=False)
    # What Python takes for a package that is not there.
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"database\.url.*\./impervious install postgresql") as refused:
        node.load(database={"url": "postgresql://u:hunter2@h/d"})
    assert "hunter2" not in str(refused.value)


def test_secrets_are_in_no_text(node):
    environ = {
        "IMPD_SERVER__API_KEY": KEY,
        "IMPD_REDIS__URL": "redis://:hunter3@localhost",
        "IMPD_DATABASE__URL": "postgresql://u:hunter4@h/d",
    }
    config = node.load(environ, sqlite3={"username": "admin", "password": "hunter2"})
    for secret in (KEY, "hunter2", "hunter3", "hunter4", MACAROON.hex()):
        assert secret not in repr(config)
        assert secret not in str(config)
    with pytest.raises(ConfigError) as raised:
        node.load(
            {"IMPD_SERVER__API_KEY": KEY + "!"}, sqlite3={"password": ["hunter2"]}, redis={"url": "hunter3"}
        )
    assert len(raised.value.problems) == 3
    assert raised.value.__cause__ is raised.value.__context__ is None
    text = str(raised.value) + repr(raised.value)
    assert not any(secret in text for secret in (KEY, "hunter2", "hunter3", MACAROON.hex()))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server: {enabled: true", ("not valid YAML on line 1",)),
        ("server:\n\tenabled: true\n", ("line 2",)),
        ("- server\n", ("is a list on line 1", "must be a mapping")),
        ("hello", ("is a text on line 1",)),
        ("sqlite3:\n  password: *hunter2\n", ("alias", "line 2", "quotes")),
        ("sqlite3:\n  password: !hunter2 x\n", ("sqlite3.password: has a tag",)),
        ("a: &a [x]\nb: *a\n", ("alias",)),
        ("server:\n  enabled: true\nserver: {}\n", ("server: is given twice, on lines 1 and 3",)),
        ("? [a]\n: b\n", ("has a key on line 1",)),
        ("a: 1\n---\nb: 2\n", ("not valid YAML",)),
        ("[" * 5000, ("nested too deeply",)),
        (b"\xff\xfe\xff", ("not valid YAML",)),
        (b"a: \x00", ("not valid YAML",)),
    ],
)
def test_yaml_that_is_broken(node, text, words):
    problems = node.text_problems(text)
    for word in words:
        assert word in problems[0], problems
    assert "hunter2" not in str(problems)
    # Nothing of the file was read: what else is missing is no news.
    assert len(problems) == 1 or ".yml: " not in problems[0]
    assert all(len(problem.splitlines()) == 1 for problem in problems)


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yml", {})


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_SECTIONS = {
    "server": ["grpc_addr", "http_addr", "api_keys", "allowed_hosts", "allowed_origins"],
    "lightning": ["max_fee_sat", "max_fee_percent", "lnd_node"],
    "vpn": ["subnet", "allowed_ips", "server_pub_key", "dns", "auto_renew"],
    "database": ["url"],
    "redis": ["url"],
    "message": ["in_flight", "in_flight_per_peer"],
    "sqlite3": ["username", "password"],
}
_SERVICE_KEYS = ["service_type", "active", "custom_record_number"]
_SHAPED_JUNK = st.fixed_dictionaries(
    {},
    optional={
        section: st.dictionaries(st.sampled_from(names), _JUNK) | _JUNK
        for section, names in _SECTIONS.items()
    }
    | {"service_list": st.lists(st.dictionaries(st.sampled_from(_SERVICE_KEYS), _JUNK))},
)
_FEW = settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def raises_nothing_but_config_errors(
    node: NodeFiles, content: str | bytes, environ: dict[str, str] | None = None
) -> None:
    try:
        node.load_text(content, environ)
    except ConfigError as error:
        assert error.problems
        assert str(error) == "\n".join(error.problems)
        str(error).encode()


@_FEW
@given(st.binary(max_size=60) | st.text("ab:-[]{}&*!?|>'\"#%@`, \n\t0123~<=", max_size=40).map(str.encode))
def test_junk_instead_of_yaml(node, content):
    raises_nothing_but_config_errors(node, content)


@_FEW
@given(_SHAPED_JUNK)
def test_junk_in_the_shape_of_a_configuration(node, tree):
    try:
        text = yaml.safe_dump(tree)
    except (yaml.YAMLError, UnicodeError):
        return
    raises_nothing_but_config_errors(node, text.encode(errors="surrogatepass"))


@_FEW
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "SERVICE_LIST",
                "SERVER__API_KEYS",
                "SERVER__GRPC_ADDR",
                "VPN__ALLOWED_IPS",
                "DATABASE__URL_FILE",
            ]
        ),
        st.text(max_size=20) | _JUNK.map(lambda junk: json.dumps(junk, default=str)),
    )
)
def test_junk_in_the_environment(node, variables):
    environ = {f"IMPD_{name}": value for name, value in variables.items()}
    raises_nothing_but_config_errors(node, yaml.safe_dump({"lightning": {"lnd_node": node.lnd}}), environ)


def test_finding_the_file(tmp_path):
    assert find_config(None, tmp_path) is None
    (tmp_path / "config").mkdir()
    misnamed = tmp_path / "config" / "config.yaml"
    misnamed.touch()
    with pytest.raises(ConfigError, match=r"must end in \.yml"):
        find_config(None, tmp_path)
    for place in reversed(PLACES):
        (tmp_path / place).touch()
        assert find_config(None, tmp_path) == tmp_path / place
    assert find_config("config/config.yml", tmp_path) == tmp_path / "config/config.yml"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("node.yaml", "ends in .yaml; must end in .yml"),
        ("node.json", "ends in .json; must end in .yml"),
        ("node", "must end in .yml"),
        ("none.yml", "does not exist"),
        ("directory.yml", "is a directory"),
        ("x" * 300 + ".yml", "cannot be reached"),
    ],
)
def test_names_that_are_refused(tmp_path, name, words):
    (tmp_path / "node.yaml").touch()
    (tmp_path / "directory.yml").mkdir()
    with pytest.raises(ConfigError, match=words):
        find_config(name, tmp_path)


def simulated(node: NodeFiles, environ: dict[str, str]) -> Config:
    return simulated_config(
        node.directory,
        host="127.0.0.1",
        port=10001,
        tls_cert=node.directory / "tls.cert",
        admin_macaroon=node.directory / "admin.macaroon",
        pub_key=PUB_KEY,
        environ=environ,
    )


@pytest.mark.parametrize(
    "written", ["6000-6100", " 6000 - 6100 ", "6000,6100", [6000, 6100], ["6000", "6100"]]
)
def test_port_range_of_the_relay(node, written):
    assert node.load(socket={"port_range": written}).socket.port_range == (6000, 6100)


def test_relay(node):
    assert node.load().socket.model_dump() == {
        "server_ip": "127.0.0.1",
        "port_range": None,
        "pin": True,
        "max_bytes_per_second": None,
        "idle_seconds": None,
    }
    environ = {"IMPD_SOCKET__PORT_RANGE": "6000-6001", "IMPD_SOCKET__IDLE_SECONDS": "60"}
    for address in ("0.0.0.0", "::", "224.0.0.1"):
        (warning,) = node.load(socket={"server_ip": address}).warnings
        assert warning.startswith(f"socket.server_ip: is {address}, which nobody can reach")
    loaded = node.load(
        environ, socket={"server_ip": "2001:db8::1", "pin": False, "max_bytes_per_second": 1_000}
    ).socket
    assert (loaded.server_ip, loaded.port_range, loaded.pin) == ("2001:db8::1", (6000, 6001), False)
    assert (loaded.max_bytes_per_second, loaded.idle_seconds) == (1_000, 60)


def test_simulated_node(node):
    config = simulated(node, {"IMPD_SERVER__GRPC_ADDR": "127.0.0.1:9991"})
    assert config.simulated
    assert config.path is None
    assert config.warnings == ()
    assert config.server.grpc_addr.port == 9991
    assert config.lnd.pub_key == PUB_KEY
    assert len(config.services) == 6
    assert all(service.active for service in config.services)
    assert config.database.sqlite_path == node.directory / "impervious.sqlite3"


def test_simulated_node_refuses_to_hide_a_real_lnd(node):
    with pytest.raises(ConfigError) as raised:
        simulated(node, {"IMPD_LIGHTNING__LND_NODE__IP": "10.0.0.1"})
    only(raised.value.problems, "IMPD_LIGHTNING__LND_NODE__IP", "simulated network")


def test_inbound_policies(node):
    config = node.load()
    assert {name: keys.model_dump(exclude_none=True) for name, keys in config.inbound.items()} == {
        name: {} for name in ("default", "federate", "vpn", "websocket", "message", "socket", "sign")
    }
    sections = {
        "inbound": {"default": {"min_amount_sat": 5, "only_known": "yes"}, "vpn": {"only_known": False}}
    }
    config = node.load({"IMPD_INBOUND__MESSAGE__PEER_BYTES_PER_HOUR": "1000"}, **sections)
    assert config.inbound["default"].model_dump(exclude_none=True) == {
        "min_amount_sat": 5,
        "only_known": True,
    }
    assert config.inbound["vpn"].model_dump(exclude_none=True) == {"only_known": False}
    assert config.inbound["message"].model_dump(exclude_none=True) == {"peer_bytes_per_hour": 1_000}


@pytest.mark.parametrize(
    ("sections", "key", "word"),
    [
        ({"default": {"min_amount_sat": -1}}, "inbound.default.min_amount_sat", "whole number"),
        ({"message": {"min_amount_sat": "1 sat"}}, "inbound.message.min_amount_sat", "whole number"),
        ({"vpn": {"only_known": "perhaps"}}, "inbound.vpn.only_known", "true or false"),
        ({"socket": {"all_bytes_per_hour": 2**63}}, "inbound.socket.all_bytes_per_hour", "whole number"),
        ({"mesage": {"only_known": True}}, "inbound.mesage", "did you mean inbound.message?"),
        (
            {"message": {"only_know": True}},
            "inbound.message.only_know",
            "did you mean inbound.message.only_known?",
        ),
        ({"min_amount_sat": 5}, "inbound.min_amount_sat", "not known"),
        ({"message": 5}, "inbound.message", "must be a mapping"),
    ],
)
def test_inbound_policies_that_are_wrong(node, sections, key, word):
    """A mistyped key is no mere warning here: its owner would believe to be protected."""
    only(node.problems(inbound=sections), key, word)


def test_inbound_policy_mistyped_in_the_environment(node):
    only(
        node.problems({"IMPD_INBOUND__MESAGE__ONLY_KNOWN": "true"}),
        "IMPD_INBOUND__MESAGE__ONLY_KNOWN",
        "did you mean",
    )


def test_levels_of_the_log(node):
    default = node.load().logging
    assert (default.level, default.parts) == ("info", ())
    parts = {"messaging.outbox": "debug", "nodeapi.relay": "error"}
    written = node.load(logging={"level": "WARNING", "parts": parts}).logging
    assert (written.level, dict(written.parts)) == ("warning", parts)
    given = node.load(
        {"IMPD_LOGGING__LEVEL": "debug", "IMPD_LOGGING__PARTS": "vpn=error, lightning.client=debug"}
    ).logging
    assert (given.level, dict(given.parts)) == ("debug", {"vpn": "error", "lightning.client": "debug"})


def test_level_of_the_audit_log(node):
    parts = node.load(logging={"parts": {"audit": "debug"}}).logging.parts
    loggers = logging_settings("warning", parts)["loggers"]
    assert loggers["audit"]["level"] == logging.DEBUG
    assert logging_settings("warning", ())["loggers"]["audit"]["level"] == logging.WARNING


def test_libraries_tell_no_more_than_info():
    settings = logging_settings("debug", [("nodeapi.relay", "error")])
    assert settings["root"]["level"] == logging.INFO
    assert settings["loggers"]["messaging"]["level"] == logging.DEBUG
    assert settings["loggers"]["nodeapi.relay"]["level"] == logging.ERROR
    assert logging_settings("error", ())["root"]["level"] == logging.ERROR


class TestTls:
    @pytest.fixture
    def pair(self, node) -> dict[str, str]:
        self_signed(node.directory)
        return {"tls_cert": "server.cert", "tls_key": "server.key"}

    def test_pair_beside_the_file(self, node, pair):
        config = node.load(server=pair)
        assert config.warnings == ()
        assert config.server.scheme == "https"
        assert config.server.tls_cert == node.directory / "server.cert"
        assert config.server.tls_key == node.directory / "server.key"
        assert node.load().server.scheme == "http"

    def test_from_the_environment(self, node, pair):
        names = {f"IMPD_SERVER__{name.upper()}": str(node.directory / file) for name, file in pair.items()}
        assert node.load(names).server.tls_key == node.directory / "server.key"

    @pytest.mark.parametrize(("given", "missing"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
    def test_both_or_neither(self, node, pair, given, missing):
        only(
            node.problems(server={given: pair[given]}),
            f"server.{missing}",
            "is missing",
            f"server.{given} is set",
        )

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("tls_cert", None, ("server.cert", "No such file", "readable file")),
            ("tls_key", None, ("server.key", "No such file", "readable file")),
            ("tls_cert", b"", ("holds no certificate", "PEM")),
            ("tls_cert", b"\x30\x82DER", ("holds no certificate", "PEM")),
            (
                "tls_key",
                b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                ("holds no private key", "PEM"),
            ),
            ("tls_key", key_pem(new_key()), ("is not the key of the certificate", "server.cert")),
            ("tls_key", key_pem(new_key(), b"secret"), ("protected by a password",)),
            ("tls_cert", b"x" * 1_000_001, ("larger than",)),
        ],
    )
    def test_unusable_file(self, node, pair, name, content, words):
        path = node.directory / pair[name]
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        only(node.problems(server=pair), f"server.{name}", *words, "(line ")

    def test_certificate_that_is_cut_off(self, node, pair):
        path = node.directory / "server.cert"
        path.write_bytes(path.read_bytes() + b"-----BEGIN CERTIFICATE-----\nMIIB")
        only(node.problems(server=pair), "server.tls_cert", "ends in the middle")

    def test_key_that_clients_refuse(self, node, pair):
        (node.directory / "server.key").write_bytes(key_pem(new_rsa_key(1024)))
        only(node.problems(server=pair), "server.tls_key", "2048 bits")

    def test_directory_in_place_of_a_file(self, node, pair):
        only(node.problems(server=pair | {"tls_key": "."}), "server.tls_key", "Is a directory")

    def test_chain_of_an_authority_with_an_rsa_key(self, node, pair):
        cert, key = Authority().issue("node.example", key=new_rsa_key(2048))
        (node.directory / "server.cert").write_bytes(cert)
        (node.directory / "server.key").write_bytes(key)
        assert node.load(server=pair).warnings == ()

    def test_warnings(self, node, pair):
        cert, key = Authority().issue("node.example", days=-1)
        (node.directory / "server.cert").write_bytes(cert)
        (node.directory / "server.key").write_bytes(key)
        (node.directory / "server.key").chmod(0o644)
        ended, readable = node.load(server=pair).warnings
        assert ended.startswith("server.tls_cert: the certificate ended on 2")
        assert readable.startswith("server.tls_key: ")
        assert "chmod 600" in readable

    def test_key_is_in_no_message(self, node, pair):
        secret = (node.directory / "server.key").read_text().splitlines()[1]
        (node.directory / "server.cert").write_bytes(b"no certificate")
        assert secret not in str(node.problems(server=pair))
        assert secret not in repr(node.problems(server=pair | {"tls_cert": "server.key"}))


def test_trusted_proxies_are_addresses_and_networks(node):
    expected = ("127.0.0.1/32", "::1/128", "10.0.0.0/24")
    listed = node.load(server={"trusted_proxies": ["127.0.0.1", "::1", "10.0.0.0/24"]}).server.trusted_proxies
    assert tuple(map(str, listed)) == expected
    for text in ('["127.0.0.1", "::1", "10.0.0.0/24"]', "127.0.0.1, ::1, 10.0.0.0/24"):
        given = node.load({"IMPD_SERVER__TRUSTED_PROXIES": text}).server.trusted_proxies
        assert tuple(map(str, given)) == expected
    assert node.load().server.trusted_proxies == ()


def test_connection_limits(node):
    server = node.load().server
    assert (server.max_connections, server.max_connections_per_address, server.max_grpc_connections) == (
        10_000,
        None,
        1_000,
    )
    server = node.load(server={"max_connections": "20000", "max_connections_per_address": 5}).server
    assert (server.max_connections, server.max_connections_per_address) == (20_000, 5)
