"""A node behind a reverse proxy: here 127.0.0.1 is one that is trusted, and other addresses of loopback are anybody."""

from http.client import HTTPConnection

import pytest

from tests.support.admin import ACCOUNT
from tests.support.nodes import GUARD_SECONDS, Node

TOLD = {"X-Forwarded-For": "203.0.113.5", "X-Forwarded-Proto": "https"}


@pytest.fixture(scope="module")
def node(network, tmp_path_factory):
    server = {"trusted_proxies": ["127.0.0.1"], "allowed_hosts": ["node.example"]}
    with Node(
        network.nodes["carol"],
        tmp_path_factory.mktemp("proxied"),
        extra={"server": server, "sqlite3": ACCOUNT},
    ) as running:
        yield running


def cookie(node: Node, source: str, headers: dict[str, str]) -> str:
    """What the admin's login page sets."""
    connection = HTTPConnection(
        "127.0.0.1", node.http_port, timeout=GUARD_SECONDS, source_address=(source, 0)
    )
    try:
        connection.request("GET", "/admin/login/", headers=headers | {"Host": "node.example"})
        response = connection.getresponse()
        assert response.status == 200
        return response.getheader("set-cookie")
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("source", "headers", "secure"),
    [
        ("127.0.0.1", TOLD, True),
        ("127.0.0.1", TOLD | {"X-Forwarded-Proto": "http"}, False),
        ("127.0.0.1", {}, False),
        ("127.0.0.2", TOLD, False),
    ],
)
def test_cookies_are_secure_where_the_client_speaks_https(node, source, headers, secure):
    assert ("Secure" in cookie(node, source, headers)) is secure


def test_a_malformed_header_of_the_proxy_harms_nothing(node):
    for value in ("", ",", "x" * 5_000, "\xff", "203.0.113.5, ,"):
        headers = {"X-Forwarded-For": value, "X-Forwarded-Proto": value}
        # Whoever comes from elsewhere needs a key, also where only a part of the header can be read.
        assert node.get("/v1/node", headers).status == (401 if "203" in value else 200)
        assert "Secure" not in cookie(node, "127.0.0.1", headers)


def test_a_node_without_keys_serves_nobody_from_elsewhere(node):
    """A trusted proxy says who comes; what stands there is in no header any more."""
    assert node.get("/v1/node", TOLD).status == 401
    assert node.get("/v1/node", {"X-Forwarded-For": "127.0.0.1"}).status == 200
    assert node.get("/v1/node").status == 200
