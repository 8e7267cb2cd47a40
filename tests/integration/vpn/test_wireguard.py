"""`wg` on real interfaces in namespaces: the cases that unit tests run on its double, and what only real tunnels show."""

import asyncio
import ipaddress
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support import wireguard_cases
from tests.support.machines import GUARD_SECONDS, LISTEN_PORT, Flow, WireGuardServer, command
from tests.support.wireguard_cases import POOL, nets, new_key
from vpn import keys, wgquick
from vpn.reconcile import Changes
from vpn.wireguard import WireGuard, WireGuardError, sudo_rule


def patient(program: Path) -> WireGuard:
    return WireGuard(str(program), timeout_seconds=GUARD_SECONDS)


class Machine:
    """A Target."""

    listen_port = LISTEN_PORT

    def __init__(self, server: WireGuardServer, directory: Path) -> None:
        self._server = server
        self.interface, self.pub_key = server.interface, server.pair.public
        self.wireguard = patient(server.wg)
        wrapper = directory / "wg-as-nobody"
        wrapper.write_text(
            f'#!/bin/sh\nexec ip netns exec {server.name} setpriv --reuid=65534 --clear-groups wg "$@"\n'
        )
        wrapper.chmod(0o755)
        self.unpermitted = patient(wrapper)

    def add_interface(self) -> str:
        return self._server.add_interface()

    def set_peer(self, key: str, networks: str) -> None:
        self._server.run("wg", "set", self.interface, "peer", key, "allowed-ips", networks)


class Interface:
    """WireGuard on one machine's interface, for tests that are not asynchronous."""

    def __init__(self, server: WireGuardServer) -> None:
        self._server, self._wireguard = server, patient(server.wg)

    def set(self, **changes) -> None:
        asyncio.run(self._wireguard.apply(self._server.interface, Changes(**changes)))

    @property
    def statistics(self) -> dict:
        return asyncio.run(self._wireguard.statistics(self._server.interface))


@pytest.fixture
def interface(server) -> Interface:
    return Interface(server)


@pytest.fixture
def tunnel(server, client, interface):
    """A client that has been let in and brought its tunnel up with the finished file; its key pair."""
    pair = keys.new_key_pair()
    interface.set(add={pair.public: POOL.peer_networks(7)})
    peering = wgquick.Peering(
        addresses=POOL.addresses(7),
        endpoint_host=ipaddress.ip_address("192.0.2.1"),
        endpoint_port=LISTEN_PORT,
        server_pub_key=server.pair.public,
        allowed_ips=(ipaddress.ip_network("10.77.0.0/24"), ipaddress.ip_network("fd00:77::/64")),
        keepalive_seconds=25,
        dns=(ipaddress.ip_address("10.77.0.1"),),
    )
    client.bring_up(wgquick.render(peering, pair.private))
    for address in ("10.77.0.1", "fd00:77::1"):
        server.serve(address)
    return pair


@pytest.mark.parametrize("case", wireguard_cases.CASES, ids=lambda case: case.__name__)
def test_case(server, tmp_path, case):
    asyncio.run(case(Machine(server, tmp_path)))


def test_the_finished_file_makes_a_tunnel(server, client, tunnel, interface):
    for address in ("10.77.0.1", "fd00:77::1"):
        assert client.reaches("udp", address)
        assert client.reaches("tcp", address)
    seen = interface.statistics[tunnel.public]
    assert (
        datetime.now(UTC) - timedelta(minutes=5)
        < seen.latest_handshake
        <= datetime.now(UTC) + timedelta(seconds=5)
    )
    assert seen.received_bytes > 0
    assert seen.sent_bytes > 0
    interface.set(remove=[tunnel.public])
    assert not client.reaches("udp", "10.77.0.1", seconds=2)


def test_others_that_come_and_go_lose_no_packet(server, client, tunnel, interface):
    assert client.reaches("udp", "10.77.0.1")
    flow = Flow(client, "10.77.0.1")
    gone = []
    for others in range(20):
        came = new_key()
        interface.set(add={came: POOL.peer_networks(100 + others)}, remove=gone)
        gone = [came]
        time.sleep(0.05)
    sent, lost = flow.end()
    assert sent > 50
    assert lost == 0


def test_setting_a_peer_again_keeps_its_session(server, client, tunnel, interface):
    assert client.reaches("udp", "10.77.0.1")
    flow = Flow(client, "10.77.0.1")
    for number in range(20):
        interface.set(replace={tunnel.public: POOL.peer_networks(7) if number % 2 else nets("10.77.0.7/32")})
        time.sleep(0.05)
    sent, lost = flow.end()
    # wireguard-go takes all addresses of a peer away before it gives them again: what passes just then is lost, by bad
    # luck. Without its session all would be, from the first change on.
    assert sent > 50
    assert lost <= 5


def test_wg_quick_brings_the_file_up(server, client, interface, tmp_path):
    """wg-quick itself, without a DNS line: that one needs resolvconf."""
    pair = keys.new_key_pair()
    interface.set(add={pair.public: POOL.peer_networks(8)})
    peering = wgquick.Peering(
        addresses=POOL.addresses(8)[:1],
        endpoint_host=ipaddress.ip_address("192.0.2.1"),
        endpoint_port=LISTEN_PORT,
        server_pub_key=server.pair.public,
        allowed_ips=(ipaddress.ip_network("10.77.0.0/24"),),
        keepalive_seconds=25,
    )
    file = tmp_path / f"{client.name}.conf"
    file.touch(mode=0o600)
    file.write_text(wgquick.render(peering, pair.private))
    client.run("wg-quick", "up", file)
    try:
        server.serve("10.77.0.1")
        assert client.reaches("udp", "10.77.0.1")
        assert client.reaches("tcp", "10.77.0.1")
    finally:
        client.run("wg-quick", "down", file)


def test_sudo_takes_the_rule():
    if not os.path.exists("/usr/sbin/visudo"):
        pytest.skip("not run: visudo is missing")
    command("/usr/sbin/visudo", "-cf", "-", input=sudo_rule("impervious") + "\n")


def script(tmp_path, text: str, timeout_seconds: float = GUARD_SECONDS) -> WireGuard:
    file = tmp_path / "wg"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return WireGuard(str(file), timeout_seconds=timeout_seconds)


def test_program_that_is_not_there(tmp_path):
    with pytest.raises(WireGuardError, match=r"apt install wireguard-tools, or correct vpn\.binary_path"):
        asyncio.run(WireGuard(str(tmp_path / "none")).interfaces())
    with pytest.raises(WireGuardError, match="cannot be run: Permission denied"):
        asyncio.run(WireGuard(str(tmp_path)).interfaces())


def test_program_that_hangs_is_ended_with_its_children(tmp_path):
    started = tmp_path / "started"
    hanging = script(tmp_path, f"sleep 600 & echo $! > {started}; wait", timeout_seconds=5)
    # Again where it was ended before it had begun.
    while not (started.exists() and started.read_text()):
        with pytest.raises(WireGuardError, match="did not end within 5 s"):
            asyncio.run(hanging.interfaces())
    for _ in range(GUARD_SECONDS * 10):
        if not runs(int(started.read_text())):
            return
        time.sleep(0.1)
    raise AssertionError("its child goes on")


def runs(pid: int) -> bool:
    """A process that was killed may take a while to be gone, and is a zombie until somebody asks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_program_that_tells_too_much(tmp_path):
    with pytest.raises(WireGuardError, match="told more than"):
        asyncio.run(script(tmp_path, "exec cat /dev/zero").interfaces())


def test_errors_repeat_no_key(tmp_path):
    key = keys.new_key_pair().private
    with pytest.raises(WireGuardError) as raised:
        asyncio.run(script(tmp_path, f"echo 'Key is wrong: `{key}' >&2; exit 1").peers("wg0"))
    assert key[:43] not in str(raised.value)
    assert "Key is wrong" in str(raised.value)
    with pytest.raises(WireGuardError) as raised:
        asyncio.run(WireGuard("/bin/true").apply("wg0", Changes(add={key + " private": nets()})))
    assert key not in str(raised.value)
