"""nginx in front of two processes, with the configuration that docs/internet.md shows, on ports of the test."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos import node_pb2, node_pb2_grpc
from tests.support.admin import ACCOUNT, AdminPages
from tests.support.certificates import self_signed
from tests.support.daphnes import Daphne
from tests.support.nodes import GUARD_SECONDS, ROOT, Node, launched
from tests.support.ports import free_port
from tests.support.streams import WebsocketStream, send

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(not NGINX, reason="nginx is not here: apt install nginx")
EXAMPLE = re.search(
    r"^```nginx\n(.*?)^```$", (ROOT / "docs/internet.md").read_text(), re.DOTALL | re.MULTILINE
)
AROUND = """
daemon off;
pid {directory}/pid;
error_log stderr;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {example}
}}
"""


class Nginx(Node):
    """Two processes of one node behind nginx."""

    def __init__(self, engine: Node, daphne: Daphne, directory: Path):
        self.__dict__.update(engine.__dict__)
        self.log_path = directory / "nginx.log"
        self.http_port, self.grpc_port = free_port(), free_port()
        pair = self_signed(directory)
        self.tls_cert = Path(pair["tls_cert"])
        changes = {
            "server 127.0.0.1:8882": f"server {engine.http}",
            "server 127.0.0.1:8883": f"server {daphne.http}",
            "grpc://127.0.0.1:8881": f"grpc://{engine.grpc}",
            "listen 443": f"listen {self.http}",
            "listen 8443": f"listen {self.grpc}",
            "/etc/letsencrypt/live/node.example.com/fullchain.pem": pair["tls_cert"],
            "/etc/letsencrypt/live/node.example.com/privkey.pem": pair["tls_key"],
        }
        example = EXAMPLE[1]
        for shown, real in changes.items():
            assert shown in example
            example = example.replace(shown, real)
        self._config = directory / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        self._config.write_text(AROUND.format(directory=directory, user=user, example=example))

    def start(self) -> Node:
        return self._launch_until(self._answers)

    def launch(self) -> None:
        with open(self.log_path, "a") as log:
            self.process = subprocess.Popen([NGINX, "-c", self._config], stdout=log, stderr=log)
        launched.append(self)

    def _answers(self) -> bool:
        try:
            return self.get("/health/live").status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def pair(network, tmp_path_factory) -> Iterator[tuple[Nginx, Daphne]]:
    """nginx, and the second of the processes behind it; the first one is runimpd."""
    extra = {"server": {"trusted_proxies": ["127.0.0.1"]}, "sqlite3": ACCOUNT}
    with (
        Node(network.nodes["carol"], tmp_path_factory.mktemp("proxied"), extra=extra) as engine,
        Daphne(engine) as daphne,
        Nginx(engine, daphne, tmp_path_factory.mktemp("nginx")) as nginx,
    ):
        yield nginx, daphne
        # Killed, it would leave its workers.
        nginx.stop()


@pytest.fixture
def proxied(pair) -> Nginx:
    return pair[0]


def test_the_admin_lets_its_user_in_on_a_port_of_ones_own(proxied):
    assert "This node" in AdminPages(proxied).page("")


def test_a_websocket_tells_what_happens(proxied, bob):
    with WebsocketStream(proxied) as stream:
        assert stream.of(send(proxied, bob))


def test_grpc(proxied):
    with proxied.channel() as channel:
        info = node_pb2_grpc.NodeStub(channel).GetInfo(node_pb2.GetInfoRequest(), timeout=GUARD_SECONDS)
    assert info.pubkey == proxied.pubkey


@pytest.mark.parametrize("path", ["/metrics", "/metrics/runimpd"])
def test_metrics_are_not_passed_on(proxied, path):
    reply = proxied.get(path)
    assert (reply.status, b"nginx" in reply.body) == (404, True)


def test_a_process_that_is_down_is_passed_over(pair):
    proxied, daphne = pair
    daphne.kill()
    try:
        assert {proxied.get("/v1/messages").status for _ in range(6)} == {200}
    finally:
        daphne.start()
