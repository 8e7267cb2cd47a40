"""`./impervious vpn setup`, `check` and `rules` as the operator runs them, in a namespace of their own."""

import ipaddress
import os
import re
import subprocess
import sys

import pytest
import yaml

from tests.support.machines import GUARD_SECONDS, LISTEN_PORT, PATH, Client, Machine, new_name
from tests.support.nodes import ROOT
from tests.support.waiting import until
from vpn import keys, rules, wgquick

PUBLIC = "198.51.100.2"


class Operator(Machine):
    """A machine with a configuration, on which `vpn` is called."""

    def __enter__(self):
        super().__enter__()
        self.interface = new_name()
        self.config = self.directory / "node.yml"
        (self.directory / "admin.macaroon").write_bytes(b"\x02\x01")
        self.configure()
        return self

    def __exit__(self, *exc) -> None:
        self.remove_interface(self.interface)
        super().__exit__(*exc)

    def configure(self, **vpn) -> None:
        lnd = {"ip": "127.0.0.1", "port": 10001, "admin_macaroon": "admin.macaroon"}
        given = {
            "server_ip": "192.0.2.1",
            "server_port": LISTEN_PORT,
            "subnet": "10.78.0.0/24, fd00:78::/64",
            **vpn,
        }
        self.config.write_text(yaml.safe_dump({"lightning": {"lnd_node": lnd}, "vpn": given}))

    def vpn(self, *words: str, answer: str = "", path: str = PATH) -> subprocess.CompletedProcess:
        inside = ["ip", "netns", "exec", self.name, sys.executable, ROOT / "manage.py", "vpn", *words]
        return subprocess.run(
            [*inside, "--config", self.config],
            input=answer,
            text=True,
            capture_output=True,
            env=os.environ | {"PATH": path},
            cwd=self.directory,
            timeout=GUARD_SECONDS,
            check=False,
        )

    def set_up(self, **vpn) -> str:
        """The server's public key, which then stands in the configuration."""
        self.configure(**vpn)
        done = self.vpn("setup", "--yes", "--interface", self.interface)
        assert done.returncode == 0, done.stderr
        public = re.search(r"server_pub_key: (\S{44})\n", done.stdout)[1]
        self.configure(server_pub_key=public, **vpn)
        self.wait_until_it_listens()
        return public

    def wait_until_it_listens(self) -> None:
        """wireguard-go does a little after its interface is up."""
        until(lambda: f":{LISTEN_PORT:04X} " in self.run("cat", "/proc/net/udp"))

    @property
    def links(self) -> str:
        return self.run("ip", "-brief", "address")


@pytest.fixture
def operator(machines, tmp_path):
    with Operator(tmp_path) as operator:
        yield operator


def wrong(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("WRONG")]


def test_setup_check_and_remove(operator, tmp_path):
    before = operator.links, operator.run("nft", "list", "ruleset")
    key = operator.set_up()
    assert keys.is_public_key(key)
    for words in (operator.interface, "10.78.0.1/24", "fd00:78::1/64"):
        assert words in operator.links
    key_file = tmp_path / "node.vpn.key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "node.vpn.json").stat().st_mode & 0o777 == 0o644
    assert keys.public_of(key_file.read_text().strip()) == key
    with Client(tmp_path) as client:
        operator.cable(client, "192.0.2.1/30", "192.0.2.2/30")
        checked = operator.vpn("check")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert not wrong(checked), checked.stdout
        # Again, as after a restart of the machine: the same key, nothing doubled.
        operator.remove_interface(operator.interface)
        for _ in range(2):
            again = operator.vpn("setup", "--yes")
            assert again.returncode == 0
            assert "server_pub_key" not in again.stdout
        operator.wait_until_it_listens()
        assert operator.vpn("check").returncode == 0
        removed = operator.vpn("setup", "--remove", "--yes")
        assert removed.returncode == 0, removed.stderr
    assert not key_file.exists()
    assert not (tmp_path / "node.vpn.json").exists()
    # The cable goes with the client's namespace, which the system takes down in its own time.
    until(lambda: operator.links == before[0])
    assert operator.run("nft", "list", "ruleset") == before[1]
    assert (
        operator.run("cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding")
        == "0\n0\n"
    )
    assert "nothing was set up here" in operator.vpn("setup", "--remove", "--yes").stderr


def test_a_client_gets_out_and_no_further_than_it_may(operator, tmp_path):
    with Client(tmp_path) as client, Machine(tmp_path) as world:
        operator.cable(client, "192.0.2.1/30", "192.0.2.2/30")
        operator.cable(world, "198.51.100.1/30", f"{PUBLIC}/30")
        key = operator.set_up(exit_rules=True)
        pair = keys.new_key_pair()
        operator.run("wg", "set", operator.interface, "peer", pair.public, "allowed-ips", "10.78.0.2/32")
        peering = wgquick.Peering(
            addresses=(ipaddress.ip_address("10.78.0.2"),),
            endpoint_host=ipaddress.ip_address("192.0.2.1"),
            endpoint_port=LISTEN_PORT,
            server_pub_key=key,
            allowed_ips=(ipaddress.ip_network("0.0.0.0/0"),),
            keepalive_seconds=25,
        )
        client.bring_up(wgquick.render(peering, pair.private))
        world.serve(PUBLIC)
        operator.serve("10.78.0.1")
        assert client.reaches("udp", PUBLIC)
        assert client.reaches("tcp", PUBLIC)
        assert not client.reaches("udp", "10.78.0.1", seconds=1.2)
        assert operator.vpn("check").returncode == 0
        assert operator.vpn("rules", "--remove").returncode == 0
        assert ["exit_rules is true, but" in line for line in wrong(operator.vpn("check"))] == [True]
        assert client.reaches("udp", "10.78.0.1")
        assert operator.vpn("rules", "--apply").returncode == 0
        assert operator.vpn("check").returncode == 0
        assert rules.exit_table(operator.interface) in operator.vpn("rules").stdout


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_nothing_happens_without_a_yes(operator, answer):
    before = operator.links
    asked = operator.vpn("setup", "--interface", operator.interface, answer=answer)
    assert asked.returncode != 0
    assert "nothing was changed" in asked.stderr
    for words in (
        "make the server's keys",
        f"the interface {operator.interface}",
        "10.78.0.1/24",
        "nft table",
        "/proc/sys/net/ipv4/ip_forward",
    ):
        assert words in asked.stdout
    assert operator.links == before
    assert len(list(operator.directory.glob("node.vpn*"))) == 0
    assert operator.vpn("setup", "--interface", operator.interface, answer="yes\n").returncode == 0


def test_interfaces_of_others_are_not_touched(operator):
    theirs = operator.add_interface()
    refused = operator.vpn("setup", "--yes", "--interface", theirs)
    assert "was not made by this command" in refused.stderr
    operator.set_up()
    # Somebody has put another one in its place.
    operator.remove_interface(operator.interface)
    operator.add_interface(operator.interface)
    other = keys.new_key_pair()
    operator.run("wg", "set", operator.interface, "private-key", operator.key_file(other.private))
    for words in (["setup", "--yes"], ["setup", "--remove", "--yes"]):
        assert "somebody else's" in operator.vpn(*words).stderr
    assert operator.run("wg", "show", operator.interface, "public-key").strip() == other.public


def test_an_interface_of_another_kind_is_not_removed(operator):
    operator.set_up()
    operator.remove_interface(operator.interface)
    operator.run("ip", "link", "add", operator.interface, "type", "veth", "peer", "name", new_name())
    for words in (["setup", "--yes"], ["setup", "--remove", "--yes"]):
        assert "somebody else's" in operator.vpn(*words).stderr
    assert operator.interface in operator.links


def test_a_key_that_is_not_here_makes_no_interface(operator):
    operator.configure(server_pub_key=keys.new_key_pair().public)
    assert "its private key is not here" in operator.vpn("setup", "--yes").stderr


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (["ip", "link", "set", "IF", "down"], "is down; ip link set"),
        pytest.param(
            ["wg", "set", "IF", "listen-port", "4444"],
            "listens on UDP port 4444, but buyers are told",
            marks=pytest.mark.long,
        ),
        pytest.param(
            ["ip", "address", "del", "10.78.0.1/24", "dev", "IF"],
            "does not have the address 10.78.0.1/24",
            marks=pytest.mark.long,
        ),
        (["sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward"], "IPv4 is not forwarded"),
        (["nft", "flush", "ruleset"], "no rule of nftables translates addresses of 10.78.0.0/24"),
        pytest.param(
            ["ip", "link", "delete", "IF"], "no interface has vpn.server_pub_key", marks=pytest.mark.long
        ),
    ],
)
def test_check_names_what_is_wrong(operator, damage, words):
    operator.set_up()
    operator.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    assert operator.vpn("check").returncode == 0
    operator.run(*[operator.interface if word == "IF" else word for word in damage])
    if "delete" in damage:
        operator.wait_until_gone(operator.interface)
    checked = operator.vpn("check")
    assert checked.returncode == 1, checked.stdout
    assert any(words in line for line in wrong(checked)), checked.stdout
    assert len(wrong(checked)) <= 2


@pytest.mark.parametrize(
    ("vpn", "words"),
    [
        ({"binary_path": "/nowhere/wg"}, "apt install wireguard-tools, or correct vpn.binary_path"),
        ({}, "vpn.server_pub_key is not set"),
        ({"server_ip": "127.0.0.1"}, "loopback"),
        ({"server_ip": "localhost"}, "loopback"),
        ({"server_ip": "vpn.invalid"}, "cannot be looked up"),
    ],
)
def test_check_of_a_configuration_alone(operator, vpn, words):
    operator.configure(**vpn)
    checked = operator.vpn("check")
    assert checked.returncode == 1, checked.stdout
    assert any(words in line for line in wrong(checked)), checked.stdout


def test_check_tells_who_may_not_use_wg_the_rule(operator):
    operator.set_up()
    wrapper = operator.directory / "wg-as-nobody"
    wrapper.write_text('#!/bin/sh\nexec setpriv --reuid=65534 --clear-groups wg "$@"\n')
    wrapper.chmod(0o755)
    operator.configure(binary_path=str(wrapper))
    rule = "ALL=(root) NOPASSWD: /usr/local/sbin/impervious-wg"
    assert any(line.endswith(rule) for line in wrong(operator.vpn("check")))


def test_check_warns_of_sudo_for_wg_itself(operator):
    operator.set_up()
    wrapper = operator.directory / "wg-by-sudo"
    wrapper.write_text('#!/bin/sh\nexec sudo -n /usr/bin/wg "$@"\n')
    wrapper.chmod(0o755)
    operator.configure(binary_path=str(wrapper))
    assert any("reads root's files" in line for line in wrong(operator.vpn("check")))


def test_root_does_not_lock_out_the_user_who_runs_the_node(operator):
    os.chown(operator.directory, 65534, 65534)
    before = set(operator.directory.iterdir())
    operator.set_up()
    made = {path.name: path.stat() for path in set(operator.directory.iterdir()) - before}
    # The node makes its own files, and reads what `setup` noted; the key is for root alone.
    assert set(made) == {"node.vpn.key", "node.vpn.json"}
    assert (made["node.vpn.key"].st_uid, made["node.vpn.key"].st_mode & 0o777) == (0, 0o600)
    assert made["node.vpn.json"].st_mode & 0o004


def test_without_a_configuration(machines, tmp_path):
    command = [sys.executable, ROOT / "manage.py", "vpn", "check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "needs a configuration: --config PATH" in done.stderr
