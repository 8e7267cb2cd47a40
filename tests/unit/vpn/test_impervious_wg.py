"""deploy/vpn/impervious-wg, the one program that sudo permits: what the node calls passes, and nothing else."""

import ipaddress
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.fake_wireguard import FakeWireGuard
from tests.support.nodes import ROOT
from vpn import keys
from vpn.pool import Pool
from vpn.reconcile import Changes
from vpn.wireguard import INTERFACES_FILE, WRAPPER

PATH = ROOT / "deploy/vpn/impervious-wg"
KEY, OTHER = (keys.new_key_pair().public for _ in range(2))
PEER = ["peer", KEY, "allowed-ips", "10.0.0.2/32"]


def load():
    loader = SourceFileLoader("impervious_wg", str(PATH))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


wrapper = load()


def interfaces() -> tuple[set[str], set[str]]:
    return {"wg0"}, {"wg0", "wg-home"}


def passes(*arguments: str) -> bool:
    try:
        wrapper.check(list(arguments), interfaces)
    except wrapper.Refused:
        return False
    return True


async def test_all_calls_of_the_node_pass():
    wireguard = FakeWireGuard()
    own = wireguard.add_interface("wg0")
    pool = Pool((ipaddress.ip_network("10.0.0.0/16"), ipaddress.ip_network("fd00:1::/64")))
    peers = {keys.new_key_pair().public: pool.peer_networks(client) for client in list(pool.clients)[:600]}
    await wireguard.interface_of(own)
    await wireguard.public_key("wg0")
    await wireguard.listen_port("wg0")
    await wireguard.apply("wg0", Changes(add=peers))
    await wireguard.peers("wg0")
    await wireguard.statistics("wg0")
    await wireguard.apply("wg0", Changes(remove=tuple(peers)))
    assert len(wireguard.wg.commands) == 10
    for command in wireguard.wg.commands:
        assert passes(*command), command[:5]


def test_interface_that_is_only_looked_at_is_not_set():
    assert passes("show", "wg-home", "latest-handshakes")
    assert passes("set", "wg0", *PEER)
    assert not passes("set", "wg-home", *PEER)


BAD = [
    [],
    ["show"],
    ["show", "wg0"],
    ["show", "all"],
    ["show", "all", "dump"],
    ["show", "all", "private-key"],
    ["show", "all", "transfer"],
    ["show", "interfaces"],
    ["show", "interfaces", "public-key"],
    ["show", "wg1", "public-key"],
    ["show", "wg0", "private-key"],
    ["show", "wg0", "preshared-keys"],
    ["show", "wg0", "dump"],
    ["show", "wg0", "public-key", "x"],
    ["show", "wg0\n", "public-key"],
    ["show", "--help", "public-key"],
    ["showconf", "wg0"],
    ["setconf", "wg0", "/etc/shadow"],
    ["addconf", "wg0", "/etc/shadow"],
    ["syncconf", "wg0", "/etc/shadow"],
    ["genkey"],
    ["pubkey"],
    ["--help"],
    ["-v"],
    ["set"],
    ["set", "wg0"],
    ["set", "wg0", "peer"],
    ["set", "wg0", "peer", KEY],
    ["set", "wg1", *PEER],
    ["set", "all", *PEER],
    ["set", "../wg0", *PEER],
    ["set", "wg0 peer", *PEER],
    ["set", "wg0", "private-key", "/etc/shadow"],
    ["set", "wg0", "listen-port", "1"],
    ["set", "wg0", "fwmark", "1"],
    ["set", "wg0", "peer", "*"],
    ["set", "wg0", "peer", "*", "remove"],
    ["set", "wg0", "peer", KEY, "preshared-key", "/etc/shadow"],
    ["set", "wg0", *PEER, "preshared-key", "/etc/shadow"],
    ["set", "wg0", *PEER, "endpoint", "203.0.113.1:1"],
    ["set", "wg0", *PEER, "persistent-keepalive", "1"],
    ["set", "wg0", *PEER, "remove"],
    ["set", "wg0", *PEER, "private-key", "/etc/shadow"],
    ["set", "wg0", *PEER, "peer", OTHER],
    ["set", "wg0", "peer", KEY, "remove", "preshared-key", "/etc/shadow"],
    ["set", "wg0", "peer", f"{KEY}\n", "remove"],
    ["set", "wg0", "peer", f"{KEY} preshared-key /etc/shadow", "remove"],
    ["set", "wg0", "peer", KEY[:-2] + "B=", "remove"],
    ["set", "wg0", "peer", "/etc/shadow", "remove"],
    ["set", "wg0", "peer", KEY.replace("=", "＝"), "remove"],
    ["set", "wg0", "Peer", KEY, "remove"],
    *(
        ["set", "wg0", "peer", KEY, "allowed-ips", text]
        for text in (
            *("", ",", "*", "0.0.0.0/0", "::/0", "10.0.0.0/24", "10.0.0.2", "10.0.0.2/32,", ",10.0.0.2/32"),
            *("10.0.0.2/32, 10.0.0.3/32", "10.0.0.2/32,10.0.0.3/32", "10.0.0.2/032", "10.0.0.02/32"),
            *(
                "fe80::1%wg0/128",
                "FD00::1/128",
                "fd00:0::1/128",
                "10.0.0.2/32\n",
                "10.0.0.٢/32",
                "/etc/shadow",
            ),
            *("10.0.0.2/32 preshared-key /etc/shadow", "-10.0.0.2/32", "+10.0.0.2/32", "１0.0.0.2/32"),
        )
    ),
    ["set", "wg0", *PEER * 501],
    ["set", "wg0", *PEER, ""],
    ["set", "wg0\udce9", *PEER],
]


@pytest.mark.parametrize("arguments", BAD, ids=[f"call {number}" for number in range(len(BAD))])
def test_what_the_node_does_not_call_is_refused(arguments):
    assert not passes(*arguments)


WORDS = st.sampled_from(
    [
        "show",
        "set",
        "all",
        "wg0",
        "wg1",
        "wg-home",
        "peer",
        KEY,
        "remove",
        "allowed-ips",
        "10.0.0.2/32",
        "dump",
        "preshared-key",
        "private-key",
        "/etc/shadow",
        "public-key",
        "endpoint",
        "-",
        "*",
        "",
        "\n",
    ]
) | st.text(max_size=50)


@settings(max_examples=examples(1_000))
@given(st.lists(WORDS, max_size=12))
def test_no_file_and_no_key_but_a_peers_ever_passes(arguments):
    if not passes(*arguments):
        return
    assert arguments[0] in ("show", "set")
    assert not {"preshared-key", "private-key", "endpoint", "dump", "/etc/shadow", "*", "-", "", "\n"} & set(
        arguments
    )
    assert arguments[1] in (("wg0", "wg-home", "all") if arguments[0] == "show" else ("wg0",))


@pytest.fixture
def listed(tmp_path, monkeypatch):
    def write(text: str, *, mode: int = 0o644) -> None:
        tmp_path.chmod(0o755)
        file = tmp_path / "wireguard-interfaces"
        file.write_text(text)
        file.chmod(mode)
        monkeypatch.setattr(wrapper, "INTERFACES", str(file))
        # Whoever runs the tests is root here.
        real = wrapper.os.lstat
        monkeypatch.setattr(wrapper.os, "lstat", lambda path: _RootsOwn(real(path)))

    return write


class _RootsOwn:
    def __init__(self, found):
        self.st_uid, self.st_mode = 0, found.st_mode


def test_interfaces_are_read_out_of_roots_file(listed):
    listed("# of the node\nwg0\n  wg-home read # home\n\nwg2 write\nwg3 read more\n")
    assert wrapper.read_interfaces() == ({"wg0"}, {"wg0", "wg-home"})


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_file_that_others_may_write_is_not_believed(listed, mode):
    listed("wg0\n", mode=mode)
    with pytest.raises(wrapper.Refused, match="has to belong to root"):
        wrapper.read_interfaces()


def test_file_of_another_user_is_not_believed(tmp_path, monkeypatch):
    file = tmp_path / "wireguard-interfaces"
    file.symlink_to("/etc/hostname")
    monkeypatch.setattr(wrapper, "INTERFACES", str(file))
    with pytest.raises(wrapper.Refused):
        wrapper.read_interfaces()


def test_node_and_wrapper_agree_on_places():
    assert WRAPPER == "/usr/local/sbin/impervious-wg"
    assert wrapper.INTERFACES == INTERFACES_FILE
    assert PATH.read_text().startswith("#!/usr/bin/python3 -I\n")
    assert PATH.stat().st_mode & 0o777 == 0o755
