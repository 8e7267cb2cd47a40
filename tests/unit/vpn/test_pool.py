import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.pool import MAX_CLIENTS, Pool


def pool(*networks: str) -> Pool:
    return Pool(tuple(ipaddress.ip_network(network) for network in networks))


def ip(text: str):
    return ipaddress.ip_address(text)


def test_a_24_has_253_clients():
    usual = pool("10.0.0.0/24")
    assert usual.clients == range(2, 255)
    assert len(usual.clients) == 253
    assert [str(interface) for interface in usual.server] == ["10.0.0.1/24"]
    assert usual.addresses(2) == (ip("10.0.0.2"),)
    assert usual.addresses(254) == (ip("10.0.0.254"),)
    for nobody in (0, 1, 255, 256, -1):
        with pytest.raises(ValueError, match="no client's number"):
            usual.addresses(nobody)


def test_both_kinds_of_addresses():
    both = pool("10.0.0.0/30", "fd00:1::/64")
    assert both.clients == range(2, 3)
    assert both.peer_networks(2) == {
        ipaddress.ip_network("10.0.0.2/32"),
        ipaddress.ip_network("fd00:1::2/128"),
    }
    assert [str(interface) for interface in both.server] == ["10.0.0.1/30", "fd00:1::1/64"]


def test_large_networks_are_bounded():
    assert len(pool("10.0.0.0/8").clients) == len(pool("fd00::/64").clients) == MAX_CLIENTS
    assert len(pool("10.0.0.0/16").clients) == MAX_CLIENTS
    assert len(pool("fd00::/126").clients) == 2


@given(
    st.integers(2, 30).map(lambda length: ipaddress.ip_network(f"10.0.0.0/{max(length, 8)}")),
    st.integers(8, 126).map(lambda length: ipaddress.ip_network(f"fd00::/{length}")),
    st.data(),
)
def test_a_client_is_found_by_each_address(four, six, data):
    both = Pool((four, six))
    client = data.draw(st.integers(both.clients[0], both.clients[-1]))
    addresses = both.addresses(client)
    assert [both.client_of(address) for address in addresses] == [client, client]
    assert (
        addresses[0] in set(four) - {four[0], four[1], four[-1]}
        if four.prefixlen > 24
        else addresses[0] in four
    )
    assert all(both.holds(network) for network in both.peer_networks(client))
    for nobody in (four[0], four[1], four[-1], six[0], six[1], ip("11.0.0.2"), ip("fc00::2")):
        assert both.client_of(nobody) is None


def test_what_the_pool_holds():
    both = pool("10.0.0.0/24", "fd00:1::/64")
    for inside in ("10.0.0.1/32", "10.0.0.128/25", "10.0.0.0/24", "fd00:1::/64", "fd00:1::9/128"):
        assert both.holds(ipaddress.ip_network(inside))
    for outside in ("10.0.0.0/23", "0.0.0.0/0", "::/0", "10.0.1.0/24", "fd00:2::1/128"):
        assert not both.holds(ipaddress.ip_network(outside))
