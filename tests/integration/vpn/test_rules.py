"""What a buyer reaches: tried through a tunnel, from a machine behind it to machines in front of it."""

import asyncio
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.machines import LISTEN_PORT, Machine
from vpn import keys, rules, wgquick

PUBLIC, PRIVATE = "198.51.100.2", "192.168.66.2"
SERVER_PUBLIC, TUNNEL = "198.51.100.1", "10.77.0.1"


def nets(*texts: str) -> tuple:
    return tuple(ipaddress.ip_network(text) for text in texts)


@pytest.fixture
def world(server, client, tmp_path):
    """Two machines beyond the server, one of them on a private network; the client's tunnel is its way to all."""
    with Machine(tmp_path) as world:
        server.cable(world, f"{SERVER_PUBLIC}/30", f"{PUBLIC}/30")
        server.cable(world, "192.168.66.1/30", f"{PRIVATE}/30")
        server.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        server.run("nft", "-f", "-", input=rules.nat_rules(server.interface, nets("10.77.0.0/24")))
        pair = keys.new_key_pair()
        server.run("wg", "set", server.interface, "peer", pair.public, "allowed-ips", "10.77.0.5/32")
        peering = wgquick.Peering(
            addresses=(ipaddress.ip_address("10.77.0.5"),),
            endpoint_host=ipaddress.ip_address("192.0.2.1"),
            endpoint_port=LISTEN_PORT,
            server_pub_key=server.pair.public,
            allowed_ips=nets("0.0.0.0/0"),
            keepalive_seconds=25,
        )
        client.bring_up(wgquick.render(peering, pair.private))
        for address in (PUBLIC, PRIVATE):
            world.serve(address)
        for address in (SERVER_PUBLIC, TUNNEL):
            server.serve(address)
        server.serve(TUNNEL, 53)
        yield world


def reaches_only(client, *addresses: str) -> bool:
    """All of these, however long it takes, and none of the others, which a second tells."""
    assert all(client.reaches("udp", address) for address in addresses)
    others = {PUBLIC, PRIVATE, SERVER_PUBLIC, TUNNEL} - set(addresses)
    return not any(
        client.reaches(kind, address, seconds=1.2) for address in others for kind in ("udp", "tcp")
    )


def applied(server, *allowed: str, dns: tuple[str, ...] = ("8.8.8.8", "9.9.9.9")) -> None:
    text = rules.exit_rules(server.interface, nets(*allowed), tuple(map(ipaddress.ip_address, dns)))
    for _ in range(2):
        server.run("nft", "-f", "-", input=text)


def test_without_rules_buyers_reach_everything(world, client):
    assert reaches_only(client, PUBLIC, PRIVATE, SERVER_PUBLIC, TUNNEL)


def test_the_internet_but_not_the_host_nor_its_networks(world, client, server):
    applied(server, "0.0.0.0/0")
    assert client.reaches("tcp", PUBLIC)
    assert reaches_only(client, PUBLIC)
    assert not client.reaches("tcp", TUNNEL, 53, seconds=1.2)
    # The host itself still reaches all, and nobody opens a connection to a buyer.
    assert server.reaches("tcp", PUBLIC)
    client.serve("10.77.0.5")
    world.run("ip", "route", "add", "10.77.0.0/24", "via", SERVER_PUBLIC)
    assert server.reaches("udp", "10.77.0.5")
    assert not world.reaches("udp", "10.77.0.5", seconds=1.2)
    server.run("nft", "-f", "-", input=rules.without(rules.exit_table(server.interface)))
    assert client.reaches("udp", PRIVATE)
    # Removing what is not there any more is no error, and the translation has stayed.
    server.run("nft", "-f", "-", input=rules.without(rules.exit_table(server.interface)))
    assert rules.nat_table(server.interface) in server.run("nft", "list", "tables")


def test_a_private_network_that_is_named(world, client, server):
    applied(server, "192.168.66.0/24")
    assert reaches_only(client, PRIVATE)


def test_the_tunnel_s_own_network_and_its_resolver(world, client, server):
    applied(server, "10.77.0.0/24")
    assert reaches_only(client, TUNNEL)
    # What was let through before goes on, so that nothing may come from the port that the probe of before had.
    client.run("sh", "-c", "echo 10000 19999 >/proc/sys/net/ipv4/ip_local_port_range")
    applied(server, "0.0.0.0/0", dns=(TUNNEL,))
    assert client.reaches("udp", TUNNEL, 53)
    assert client.reaches("tcp", TUNNEL, 53)
    assert reaches_only(client, PUBLIC)


_NETWORKS = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
        lambda pair: ipaddress.ip_network(pair, strict=False)
    )
    | st.tuples(st.integers(2**100, 2**128 - 1), st.integers(0, 128)).map(
        lambda pair: ipaddress.ip_network(pair, strict=False)
    ),
    min_size=1,
    max_size=6,
)


def test_nft_takes_the_rules_of_any_networks(server):
    @given(
        _NETWORKS,
        st.lists(st.ip_addresses(v=4) | st.ip_addresses(v=6).filter(lambda ip: not ip.scope_id), max_size=3),
    )
    def check(allowed, dns):
        server.run("nft", "--check", "-f", "-", input=rules.exit_rules(server.interface, allowed, dns))

    check()


@pytest.mark.parametrize("name", ["wg-0", "wg_0", "wg.0", "wg+0", "0wg"])
def test_nft_takes_any_interface_s_name(server, name):
    server.run("nft", "-f", "-", input=rules.exit_rules(name, nets("0.0.0.0/0")))
    server.run("nft", "-f", "-", input=rules.nat_rules(name, nets("10.77.0.0/24", "fd00::/64")))


def test_names_do_not_get_mixed_up():
    names = ["wg-0", "wg_0", "wg.0", "wg_2d0"]
    assert len({rules.exit_table(name) for name in names}) == len(names)
    for name in ("", 'a"', "a b", "a\nb", "x" * 16):
        with pytest.raises(rules.RulesError):
            rules.exit_rules(name, nets("0.0.0.0/0"))


def test_errors_of_nft_are_told(machines):
    with pytest.raises(rules.RulesError, match=r"nft failed: .*syntax error"):
        asyncio.run(rules.apply("nonsense"))
