"""What is wrong with a server's set-up, in plain words. Changes nothing."""

import errno
import getpass
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from vpn import access, endpoint, routable, rules, setup
from vpn.pool import Address, Network, Pool, is_within
from vpn.rules import RulesError
from vpn.setup import SetupError, Wanted
from vpn.wireguard import NotPermitted, WireGuard, WireGuardError, sudo_rule

SETUP = "./impervious vpn setup"


@dataclass(frozen=True)
class Finding:
    """`wrong`: no VPN can be sold, or it would not work; otherwise a hint or what is right."""

    wrong: bool
    words: str


async def check(wanted: Wanted) -> list[Finding]:
    """All that can be seen from this machine. Whether UDP from elsewhere gets here cannot."""
    findings = _Findings()
    for words in access.problems(wanted.binary_path):
        findings.wrong(words)
    interface = await _interface(wanted, findings)
    if interface is not None:
        await _check_interface(wanted, interface, findings)
    await _check_traffic(wanted, interface, findings)
    await _check_reach(wanted, interface, findings)
    for network in left_out_by_buyers(wanted.allowed_ips, Pool(wanted.subnet)):
        findings.right(
            f"vpn.allowed_ips: {network} is not public: buyers leave it out of their files, unless they name it in "
            "their vpn.private_networks"
        )
    return findings.all


def left_out_by_buyers(allowed_ips: Sequence[Network], pool: Pool) -> list[Network]:
    """Networks that are not public, wholly or in part, but for the clients' own (vpn/told_tunnel.py)."""
    return [
        network
        for network in allowed_ips
        if network.prefixlen
        and routable.public_parts(network) != [network]
        and not pool.holds(network)
        and not any(is_within(own, network) for own in pool.networks)
    ]


class _Findings:
    def __init__(self) -> None:
        self.all: list[Finding] = []

    def wrong(self, words: str) -> None:
        self.all.append(Finding(True, words))

    def right(self, words: str) -> None:
        self.all.append(Finding(False, words))


async def _interface(wanted: Wanted, findings: _Findings) -> str | None:
    try:
        interfaces = await WireGuard(wanted.binary_path).interfaces()
    except NotPermitted as error:
        findings.wrong(f"{error}. sudo_rule: {sudo_rule(getpass.getuser())}")
        return None
    except WireGuardError as error:
        findings.wrong(str(error))
        return None
    if not wanted.server_pub_key:
        state = _state(wanted)
        right = f"set it to {state.public_key}" if state else f"{SETUP} makes a key and an interface"
        findings.wrong(f"vpn.server_pub_key is not set, so no VPN is sold; {right}")
        return None
    for name, key in interfaces.items():
        if key == wanted.server_pub_key:
            findings.right(f"{name} is the interface with vpn.server_pub_key")
            return name
    there = (
        f"there are {', '.join(sorted(interfaces))}"
        if interfaces
        else "there is no WireGuard interface at all"
    )
    findings.wrong(
        f"no interface has vpn.server_pub_key ({there}); after a restart of the machine {SETUP} makes it "
        "again, or bring up your own"
    )
    return None


def _state(wanted: Wanted) -> setup.State | None:
    try:
        return setup.read_state(wanted)
    except SetupError:
        return None


async def _check_interface(wanted: Wanted, interface: str, findings: _Findings) -> None:
    try:
        port = await WireGuard(wanted.binary_path).listen_port(interface)
        link = next((link for link in await setup.links() if link["ifname"] == interface), None)
    except (WireGuardError, SetupError) as error:
        findings.wrong(str(error))
        return
    if port != wanted.server_port:
        findings.wrong(
            f"{interface} listens on UDP port {port}, but buyers are told vpn.server_port, "
            f"{wanted.server_port}; make them the same: wg set {interface} listen-port {wanted.server_port}"
        )
    if link is None:
        findings.wrong(f"{interface} belongs to another network namespace than this command")
        return
    if "UP" not in link.get("flags", ()):
        findings.wrong(f"{interface} is down; ip link set {interface} up")
    present = {
        ipaddress.ip_interface((item["local"], item["prefixlen"])) for item in link.get("addr_info", ())
    }
    for address in Pool(wanted.subnet).server:
        if address not in present:
            findings.wrong(
                f"{interface} does not have the address {address}, which vpn.subnet gives the server; "
                f"ip address add {address} dev {interface}"
            )


async def _check_traffic(wanted: Wanted, interface: str | None, findings: _Findings) -> None:
    # Who is let to nothing but the server's own network needs no way out.
    outside = [network for network in wanted.allowed_ips if not Pool(wanted.subnet).holds(network)]
    versions = {network.version for network in outside} & {network.version for network in wanted.subnet}
    for version in sorted(versions):
        if not setup.forwards(version):
            findings.wrong(
                f"IPv{version} is not forwarded, so clients get no further than this machine; write 1 to "
                f"{setup.FORWARDING[version]}"
            )
    try:
        for subnet in wanted.subnet if versions else ():
            if subnet.version in versions and not await rules.translates(subnet):
                findings.wrong(
                    f"no rule of nftables translates addresses of {subnet} (masquerade), so nothing finds "
                    f"its way back to clients, unless a router does that; {SETUP} adds one"
                )
        if wanted.exit_rules and interface and rules.exit_table(interface) not in await rules.tables():
            findings.wrong(
                "vpn.exit_rules is true, but the rules are not in force; ./impervious vpn rules --apply"
            )
    except RulesError as error:
        findings.right(f"not checked: translation of addresses and exit rules ({error})")


async def _check_reach(wanted: Wanted, interface: str | None, findings: _Findings) -> None:
    try:
        address = await endpoint.address_of(wanted.server_ip)
    except endpoint.EndpointError as error:
        findings.wrong(f"{error}; correct the name, or set the public address")
        return
    where = f"vpn.server_ip, {wanted.server_ip},"
    if not routable.is_global(address):
        findings.right(
            f"{where} is no public address: buyers refuse it, unless they name its network in their "
            "vpn.private_networks"
        )
    if address.is_loopback:
        findings.wrong(
            f"{where} is this machine's loopback: no buyer elsewhere can reach it; set the public address"
        )
    elif not _is_local(address):
        findings.right(
            f"{where} is no address of this machine: whatever has it must forward UDP port "
            f"{wanted.server_port} to here; from here that cannot be tried"
        )
    elif interface and not _is_taken(address, wanted.server_port):
        findings.wrong(f"nothing listens on UDP port {wanted.server_port} of {address}; bring {interface} up")
    else:
        findings.right(
            f"{where} is an address of this machine; a firewall must let UDP port {wanted.server_port} in"
        )


def _bind_error(address: Address, port: int) -> int | None:
    kind = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), port))
    except OSError as error:
        return error.errno
    return 0


def _is_local(address: Address) -> bool:
    return _bind_error(address, 0) == 0


def _is_taken(address: Address, port: int) -> bool:
    return _bind_error(address, port) == errno.EADDRINUSE
