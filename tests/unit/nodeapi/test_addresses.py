"""The client's address and scheme: a trusted proxy is believed, nobody else."""

import asyncio
from ipaddress import ip_network

import pytest

from nodeapi import addresses
from nodeapi.addresses import ClientsOfProxies, client_address, client_scheme, sources_of

PROXY, SECOND_PROXY, CLIENT = "10.0.0.1", "10.0.0.2", "203.0.113.5"


@pytest.fixture(autouse=True)
def trusted():
    addresses.trust([ip_network("10.0.0.0/24"), ip_network("fd00::/64")])
    yield
    addresses.trust([])


def scope(peer: str | None, *headers: tuple[str, str], kind: str = "http") -> dict:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": kind, "client": [peer, 4711] if peer else None, "headers": raw, "scheme": "http"}


class Context:
    """What of a gRPC context is asked."""

    def __init__(self, peer: str, *metadata: tuple[str, str]):
        self._peer, self._metadata = peer, metadata

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self):
        return self._metadata


@pytest.mark.parametrize(
    ("peer", "told", "expected"),
    [
        (CLIENT, [], CLIENT),
        (PROXY, [], PROXY),
        (PROXY, [CLIENT], CLIENT),
        # Nobody else is believed.
        (CLIENT, ["198.51.100.1"], CLIENT),
        ("::1", [CLIENT], "::1"),
        # What stands left of the first address that is not trusted is the client's invention.
        (PROXY, [f"198.51.100.1, {CLIENT}"], CLIENT),
        (PROXY, [f"10.0.0.9, {CLIENT}"], CLIENT),
        (PROXY, ["198.51.100.1", CLIENT], CLIENT),
        (PROXY, [f"198.51.100.1, {CLIENT}, {SECOND_PROXY}"], CLIENT),
        (PROXY, [f"{CLIENT}", SECOND_PROXY], CLIENT),
        # A client inside the trusted network.
        (PROXY, ["10.0.0.77"], "10.0.0.77"),
        (PROXY, [f"{CLIENT}:4711"], CLIENT),
        (PROXY, ["[2001:db8::1]:4711"], "2001:db8::1"),
        (PROXY, ["2001:db8::1"], "2001:db8::1"),
        ("fd00::7", ["2001:DB8::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", [CLIENT], CLIENT),
        # What is no address ends the way.
        (PROXY, ["unknown"], PROXY),
        (PROXY, [f"{CLIENT}, <script>"], PROXY),
        (PROXY, [f"{CLIENT}, unknown, {SECOND_PROXY}"], SECOND_PROXY),
        (PROXY, [""], PROXY),
        (PROXY, [",,,"], PROXY),
        (PROXY, ["\xff"], PROXY),
        (None, [CLIENT], ""),
    ],
)
def test_address(peer, told, expected):
    headers = [("X-Forwarded-For".lower(), value) for value in told]
    assert client_address(scope(peer, *headers)) == expected
    grpc_peer = "unix:" if peer is None else f"ipv6:%5B{peer}%5D:1" if ":" in peer else f"ipv4:{peer}:1"
    assert client_address(Context(grpc_peer, *headers)) == expected


def test_who_is_counted_as_one_client_of_grpc():
    """A place (IPv6: a site), within it a connection; of a proxy the client that it tells of."""
    ipv6 = "ipv6:%5B2001:db8::7%5D:4711"
    assert sources_of(Context(ipv6)) == ("2001:db8::/64", ipv6)
    proxied = f"ipv4:{PROXY}:4711"
    assert sources_of(Context(proxied, ("x-forwarded-for", CLIENT))) == (CLIENT, proxied)
    assert sources_of(Context("unix:")) == ("", "unix:")


@pytest.mark.parametrize(
    ("peer", "told", "expected"),
    [
        (PROXY, ["https"], "https"),
        (PROXY, ["HTTPS"], "https"),
        (PROXY, ["http"], "http"),
        (PROXY, [], "http"),
        (PROXY, ["http, https"], "https"),
        (PROXY, ["http", "https"], "https"),
        (PROXY, ["gopher"], "http"),
        (CLIENT, ["https"], "http"),
        (None, ["https"], "http"),
    ],
)
def test_scheme(peer, told, expected):
    headers = [("x-forwarded-proto", value) for value in told]
    assert client_scheme(scope(peer, *headers)) == expected
    websocket = scope(peer, *headers, kind="websocket") | {"scheme": "ws"}
    assert client_scheme(websocket) == expected.replace("http", "ws")


def test_applications_behind_see_the_client():
    seen = []

    async def application(scope, receive, send):
        seen.append(scope)

    async def call(*arguments):
        await ClientsOfProxies(application)(scope(*arguments), None, None)

    told = (
        ("x-forwarded-for", f"198.51.100.1, {CLIENT}"),
        ("x-forwarded-proto", "https"),
        ("host", "node.example"),
    )
    asyncio.run(call(PROXY, *told))
    asyncio.run(call(CLIENT, *told))
    behind, direct = seen
    assert (behind["client"], behind["scheme"], client_address(behind)) == ([CLIENT, 0], "https", CLIENT)
    assert behind["headers"] == [(b"host", b"node.example")]
    assert (direct["client"], direct["scheme"], client_address(direct)) == ([CLIENT, 4711], "http", CLIENT)
