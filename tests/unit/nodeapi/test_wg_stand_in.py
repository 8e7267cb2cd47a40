"""The stand-in for `wg` that a simulated seller has: the node's own calls of `wg` work with it."""

import ipaddress
from pathlib import Path

import pytest
import yaml

from lightning.simulator.config_file import write_config
from nodeapi import wg_stand_in
from vpn import access, keys
from vpn.reconcile import Changes
from vpn.wireguard import NoInterface, WireGuard, WireGuardError


def written(directory: Path) -> Path:
    return write_config(directory, name="bob", pubkey="02aa", lnd_port=10001, ports=(1, 2))


@pytest.fixture
def config(tmp_path: Path) -> dict:
    path = written(tmp_path)
    wg_stand_in.equip(tmp_path, path)
    return yaml.safe_load(path.read_text())["vpn"]


async def test_peers_are_kept_as_by_wg(config):
    wireguard = WireGuard(config["binary_path"])
    interface = await wireguard.interface_of(config["server_pub_key"])
    assert interface == wg_stand_in.INTERFACE
    assert await wireguard.peers(interface) == {}
    first, second = (keys.new_key_pair().public for _ in range(2))
    networks = frozenset(map(ipaddress.ip_network, ("10.0.0.2/32", "fd00::2/128")))
    other = frozenset([ipaddress.ip_network("10.0.0.3/32")])
    await wireguard.apply(interface, Changes(add={first: networks, second: other}))
    assert await wireguard.peers(interface) == {first: networks, second: other}
    await wireguard.apply(interface, Changes(remove=(first,)))
    assert await wireguard.peers(interface) == {second: other}
    assert (await wireguard.statistics(interface))[second].latest_handshake is None
    assert await wireguard.public_key(interface) == config["server_pub_key"]
    assert await wireguard.listen_port(interface) == config["server_port"]


async def test_other_interfaces_and_calls_are_errors(config):
    wireguard = WireGuard(config["binary_path"])
    with pytest.raises(NoInterface):
        await wireguard.peers("wg0")
    with pytest.raises(WireGuardError, match="does not know this call"):
        await wireguard._show(wg_stand_in.INTERFACE, "dump")


async def test_what_was_sold_stays_when_the_network_starts_again(config, tmp_path):
    wireguard = WireGuard(config["binary_path"])
    peers = {keys.new_key_pair().public: frozenset([ipaddress.ip_network("10.0.0.2/32")])}
    await wireguard.apply(wg_stand_in.INTERFACE, Changes(add=peers))
    path = written(tmp_path)
    path.write_text(path.read_text().replace("price: 100", "price: 77"))
    wg_stand_in.equip(tmp_path, path)
    again = yaml.safe_load(path.read_text())["vpn"]
    assert again == config | {"price": 77}
    assert await wireguard.peers(wg_stand_in.INTERFACE) == peers


def test_files_are_their_owners_alone(config, tmp_path):
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "config.yml": 0o600,
        "wg-stand-in": 0o700,
        "wg-stand-in.json": 0o600,
    }


def test_configuration_that_cannot_be_set_is_named(tmp_path):
    path = tmp_path / "config.yml"
    path.write_text("vpn: {price: 1}\n")
    with pytest.raises(ValueError, match=r"no line vpn\.server_pub_key"):
        wg_stand_in.equip(tmp_path, path)


def test_check_tells_it_for_what_it_is(config):
    (problem,) = access.problems(config["binary_path"])
    assert "is a stand-in for trying" in problem
