"""What is globally routable, whatever the version of Python takes for it."""

import ipaddress

import pytest

from vpn import routable


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254"),
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1"),
        *("192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.5", "224.0.0.1"),
        *("239.255.255.250", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::8.8.8.8", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "::ffff:0:8.8.8.8"),
        *("64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378::1", "2001:2::1"),
        *("2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1"),
        *("5f00::1", "fc00::1", "fdff::1", "fe80::1", "fec0::1", "ff02::1", "4000::1", "ffff::1"),
    ],
)
def test_addresses_that_are_not_public(text):
    assert not routable.is_global(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.0.0.1"),
        *("128.0.0.1", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255", "223.255.255.255"),
        *("2001:200::1", "2001:4860:4860::8888", "2003::1", "2a00::1", "3ffe::1", "2606:4700::1"),
    ],
)
def test_addresses_that_are_public(text):
    assert routable.is_global(ipaddress.ip_address(text))


def total(networks) -> int:
    return sum(network.num_addresses for network in networks)


def test_public_parts_are_all_but_what_is_not_public():
    half = ipaddress.ip_network("0.0.0.0/1")
    parts = routable.public_parts(half)
    left_out = ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8")
    assert total(parts) == half.num_addresses - total(map(ipaddress.ip_network, left_out))
    for part in parts:
        assert routable.public_parts(part) == [part]


@pytest.mark.parametrize("text", ["192.168.0.0/15", "192.168.0.0/16", "192.168.1.0/25", "fd00::/8", "::/3"])
def test_parts_of_networks_that_hold_private_ones(text):
    network = ipaddress.ip_network(text)
    assert network not in routable.public_parts(network)


def test_all_of_ipv6_has_parts():
    parts = routable.public_parts(ipaddress.ip_network("::/1"))
    assert total(parts) < 2**125
    assert not any(ipaddress.ip_address("2002::1") in part for part in parts)
    assert any(ipaddress.ip_address("2a00::1") in part for part in parts)
