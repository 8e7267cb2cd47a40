"""What a seller's tunnel may take of the buyer's traffic."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import examples
from vpn import keys, routable
from vpn.told_tunnel import accepted
from vpn.wgquick import MAX_ALLOWED_IPS, parse_peering, peering_fields

TOLD = {
    "address": "10.9.0.2/32",
    "endpoint": "8.8.4.4:51820",
    "server_pub_key": keys.new_key_pair().public,
    "dns": "",
    "allowed_ips": "0.0.0.0/0",
    "keepalive": 25,
}


def after(private: str = "", **told):
    """The fields that are left, and what was left out."""
    networks = [ipaddress.ip_network(text) for text in private.split(", ") if text]
    peering, left_out = accepted(parse_peering(TOLD | told), private=networks)
    return peering_fields(peering), left_out


@pytest.mark.parametrize(
    "told",
    [
        {"allowed_ips": "0.0.0.0/0, ::/0"},
        {"allowed_ips": "10.9.0.0/24"},
        {"allowed_ips": "10.9.0.1/32, 10.9.0.2/32, 10.9.0.0/16"},
        {"allowed_ips": "8.8.8.0/24, 2606:4700::/32"},
        {"allowed_ips": "10.0.0.53/32", "dns": "10.0.0.53"},
        {"address": "fd00:1::7/128", "allowed_ips": "fd00:1::/64, ::/0", "dns": "fd00:1::1"},
        {"address": "1.2.3.4/32"},
        {"endpoint": "[2606:4700::1]:51820"},
    ],
)
def test_what_honest_sellers_tell_passes_as_it_is(told):
    assert after(**told) == (TOLD | told, [])


def test_networks_of_the_buyers_own_are_left_out_and_told():
    fields, left_out = after(allowed_ips="0.0.0.0/0, 192.168.1.0/25, 169.254.169.254/32, 127.0.0.1/32")
    assert fields["allowed_ips"] == "0.0.0.0/0"
    assert left_out == [
        "allowed_ips 192.168.1.0/25",
        "allowed_ips 169.254.169.254/32",
        "allowed_ips 127.0.0.1/32",
    ]


@pytest.mark.parametrize(
    "network",
    [
        *("10.0.0.0/8", "10.8.0.0/15", "192.168.0.0/16", "172.16.0.0/12", "100.64.0.0/10", "224.0.0.0/4"),
        *("169.254.0.0/16", "127.0.0.0/8", "192.0.2.0/24", "fe80::/10", "fd00::/8", "ff00::/8", "::1/128"),
        *("::ffff:0:0/96", "64:ff9b::/96", "2002::/16", "2001::/32", "2001:db8::/32"),
    ],
)
def test_nothing_of_a_network_that_is_not_public_is_taken(network):
    fields, left_out = after(allowed_ips=f"8.8.8.0/24, {network}")
    taken = [ipaddress.ip_network(text) for text in fields["allowed_ips"].split(", ")]
    own = ipaddress.ip_network("10.9.0.2/32")
    assert all(routable.public_parts(one) == [one] or one == own for one in taken)
    assert len(left_out) == 1


def test_network_that_is_public_in_part_is_taken_in_part():
    fields, left_out = after(allowed_ips="192.168.0.0/15")
    assert (fields["allowed_ips"], left_out) == ("192.169.0.0/16", ["allowed_ips 192.168.0.0/15 in part"])
    fields, left_out = after(allowed_ips="10.0.0.0/7", dns="10.9.0.1")
    assert set(fields["allowed_ips"].split(", ")) == {"11.0.0.0/8", "10.9.0.2/32", "10.9.0.1/32"}


def test_halves_of_the_internet_fit_a_file():
    """As some sellers tell all of it."""
    fields, _ = after(allowed_ips="0.0.0.0/1, 128.0.0.0/1, ::/1, 8000::/1")
    assert len(fields["allowed_ips"].split(", ")) <= MAX_ALLOWED_IPS


@pytest.mark.parametrize("allowed_ips", ["192.168.1.0/25", "fe80::/10, ff00::/8", "10.8.0.0/24"])
def test_tunnel_to_nowhere_public_is_not_usable(allowed_ips):
    with pytest.raises(ValueError, match=r"^allowed_ips: none "):
        after(allowed_ips=allowed_ips)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("203.0.113.5", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:8.8.8.8]", "[2002:7f00:1::]"),
        *(
            "[64:ff9b::7f00:1]",
            "[2001:0:4136:e378::1]",
            "[fd00::1]",
            "[fe80::1]",
            "[ff02::1]",
            "[2001:db8::1]",
        ),
    ],
)
def test_endpoint_that_is_not_public_is_refused(host):
    with pytest.raises(ValueError, match=r"^endpoint: .* no public address; .* vpn\.private_networks"):
        after(endpoint=f"{host}:51820")


@pytest.mark.parametrize("host", ["localhost", "vpn.example.com", "127.1", "0x7f.0.0.1", "2130706433"])
def test_endpoint_by_name_is_refused(host):
    """It would be looked up by the buyer's machine, each time as its owner likes."""
    with pytest.raises(ValueError, match=r"^endpoint: must be an IP address"):
        after(endpoint=f"{host}:51820")


@pytest.mark.parametrize(
    "address", ["127.0.0.2/32", "169.254.0.9/32", "224.0.0.9/32", "fe80::9/128", "::1/128"]
)
def test_address_that_no_tunnel_has_is_refused(address):
    with pytest.raises(ValueError, match=r"^address: "):
        after(address=address)


def test_dns_that_is_this_machine_or_its_link_is_left_out():
    fields, left_out = after(dns="8.8.8.8", further_dns="127.0.0.53, 169.254.169.254, 10.9.0.1, fe80::1")
    assert (fields["dns"], fields["further_dns"]) == ("8.8.8.8", "10.9.0.1")
    assert left_out == ["dns 127.0.0.53", "dns 169.254.169.254", "dns fe80::1"]


def test_configured_networks_pass():
    private = "192.168.1.0/24, 127.0.0.0/8"
    fields, left_out = after(
        private, endpoint="127.0.0.1:51820", allowed_ips="192.168.1.0/25, 192.168.2.0/24", dns="192.168.1.1"
    )
    assert fields["allowed_ips"] == "192.168.1.0/25"
    assert left_out == ["allowed_ips 192.168.2.0/24"]
    fields, _ = after(private, allowed_ips="192.168.0.0/16")
    assert fields["allowed_ips"] == "192.168.1.0/24"


@settings(max_examples=examples(300))
@given(st.lists(st.ip_addresses(v=4), min_size=1, max_size=5), st.integers(1, 32), st.ip_addresses(v=4))
def test_no_private_address_is_ever_taken_but_the_leases_own_network(hosts, prefix, address):
    told = ", ".join(str(ipaddress.ip_network((host, prefix), strict=False)) for host in hosts)
    try:
        fields, _ = after(allowed_ips=told, address=f"{address}/32")
    except ValueError:
        return
    for text in fields["allowed_ips"].split(", "):
        network = ipaddress.ip_network(text)
        own = ipaddress.ip_network((address, 24), strict=False)
        assert routable.public_parts(network) == [network] or address in network or network.subnet_of(own)
