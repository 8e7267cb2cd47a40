"""A server by its host name: the address that buyers are told."""

import ipaddress
import socket

import pytest

from vpn import endpoint
from vpn.endpoint import EndpointError

OLD, NEW, V6 = (ipaddress.ip_address(text) for text in ("192.0.2.9", "192.0.2.1", "2001:db8::1"))


def answering(*addresses: str):
    async def look_up(host: str):
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (address, 0)) for address in addresses]

    return look_up


async def test_address_is_not_looked_up():
    assert await endpoint.address_of("192.0.2.1", look_up=answering()) == NEW
    assert await endpoint.address_of("2001:db8::1", look_up=answering()) == V6


@pytest.mark.parametrize(
    ("found", "known", "told"),
    [
        (["192.0.2.1"], None, NEW),
        (["2001:db8::1", "192.0.2.1"], None, NEW),
        (["2001:db8::1"], None, V6),
        (["192.0.2.1", "192.0.2.9"], OLD, OLD),
        (["192.0.2.1", "2001:db8::1"], V6, V6),
        (["192.0.2.1"], OLD, NEW),
        (["fe80::1%eth0", "0.0.0.0", "192.0.2.1"], None, NEW),
    ],
)
async def test_name_stands_for_one_address_that_stays(found, known, told):
    assert await endpoint.address_of("vpn.example.com", known=known, look_up=answering(*found)) == told


@pytest.mark.parametrize("found", [[], ["0.0.0.0"], ["fe80::1%eth0", "ff02::1"]])
async def test_name_without_an_address_of_use(found):
    with pytest.raises(EndpointError, match="has no address that buyers could reach"):
        await endpoint.address_of("vpn.example.com", look_up=answering(*found))


async def test_name_that_cannot_be_looked_up():
    async def fails(host: str):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(EndpointError, match=r"cannot be looked up \(Name or service not known\)"):
        await endpoint.address_of("vpn.example.com", look_up=fails)
