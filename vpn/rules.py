"""nftables rules: what buyers reach through the server (vpn.exit_rules), and the translation of their addresses.

Each set of rules is a table of our own, named after the interface: applied again it is replaced as a whole in one
transaction, and nothing else on the machine is touched.
"""

import ipaddress
import re
from collections.abc import Sequence

from vpn import programs
from vpn.pool import Address, Network, is_within

NFT = "nft"
DNS_PORT = 53

# What is not the internet (RFC 6890 and its registries): other buyers, the operator's own networks, clouds' metadata.
PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "::/127",
            "::ffff:0:0/96",
            "64:ff9b::/96",
            "64:ff9b:1::/48",
            "fc00::/7",
            "fe80::/10",
            "ff00::/8",
        ),
    )
)


class RulesError(Exception):
    """nft is missing, not permitted or did not take the rules; for the operator."""


def exit_table(interface: str) -> str:
    return f"impervious_exit_{_identifier(interface)}"


def nat_table(interface: str) -> str:
    return f"impervious_nat_{_identifier(interface)}"


def exit_rules(interface: str, allowed_ips: Sequence[Network], dns: Sequence[Address] = ()) -> str:
    """Buyers reach allowed_ips, but neither this machine's own services nor private networks, unless allowed_ips names
    them: by a network that lies within a private one, or by a single address. They reach DNS at `dns` wherever that is.
    Nobody opens a connection to a buyer.
    """
    named = [network for network in allowed_ips if _is_named(network)]
    resolvers = [ipaddress.ip_network(address) for address in dns]
    ours = f'iifname "{_checked(interface)}"'
    answers = "ct state established,related accept"
    to_host = [
        f"{ours} {answers}",
        *_to(named, f"{ours} {{}} accept"),
        *_to(resolvers, f"{ours} {{}} meta l4proto {{{{ tcp, udp }}}} th dport {DNS_PORT} accept"),
        f"{ours} reject with icmpx admin-prohibited",
    ]
    through = [
        f'oifname "{interface}" {answers}',
        f"{ours} {answers}",
        *_to(named, f"{ours} {{}} accept"),
        *_to(resolvers, f"{ours} {{}} meta l4proto {{{{ tcp, udp }}}} th dport {DNS_PORT} accept"),
        *_to(PRIVATE, f"{ours} {{}} reject with icmpx admin-prohibited"),
        *_to(
            [network for network in allowed_ips if network not in named],
            f'{ours} oifname != "{interface}" {{}} accept',
        ),
        f"{ours} reject with icmpx admin-prohibited",
        f'oifname "{interface}" drop',
    ]
    chains = {
        "input": ("type filter hook input priority filter - 5; policy accept;", to_host),
        "forward": ("type filter hook forward priority filter - 5; policy accept;", through),
    }
    return _table(exit_table(interface), chains)


def nat_rules(interface: str, subnets: Sequence[Network]) -> str:
    """Buyers go out under the server's own address."""
    lines = [
        f'{_family(subnet)} saddr {subnet} oifname != "{_checked(interface)}" masquerade'
        for subnet in subnets
    ]
    chains = {"postrouting": ("type nat hook postrouting priority srcnat; policy accept;", lines)}
    return _table(nat_table(interface), chains)


def without(table: str) -> str:
    """Removes the table, whether it is there or not."""
    return f"table inet {table}\ndelete table inet {table}\n"


async def apply(text: str) -> None:
    """`nft -f -`: all of it or nothing. RulesError."""
    await _nft("-f", "-", stdin=text)


async def tables() -> set[str]:
    """The names of the inet tables that are there."""
    lines = (await _nft("list", "tables")).splitlines()
    return {line.split()[2] for line in lines if line.startswith("table inet ")}


async def translates(subnet: Network) -> bool:
    """Whether any rule of nftables, iptables-nft's among them, translates addresses that may be the subnet's."""
    for line in (await _nft("list", "ruleset")).splitlines():
        source = re.search(r"\bip6? saddr (!= )?(\S+)", line)
        if re.search(r"\b(masquerade|snat)\b", line) and (not source or _covers(source[2], subnet)):
            return True
    return False


def _covers(text: str, subnet: Network) -> bool:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return True  # a set or a range, which a person has to judge
    return is_within(subnet, network)


def _is_named(network: Network) -> bool:
    if network.prefixlen == network.max_prefixlen:
        return True
    return any(is_within(network, private) for private in PRIVATE)


def _to(networks: Sequence[Network], line: str) -> list[str]:
    lines = []
    for family, version in (("ip", 4), ("ip6", 6)):
        of_family = [network for network in networks if network.version == version]
        merged = ipaddress.collapse_addresses(of_family)  # type: ignore[type-var]  # of one version
        words = [str(network) for network in merged]
        if words:
            lines.append(line.format(f"{family} daddr {{ {', '.join(words)} }}"))
    return lines


def _table(name: str, chains: dict[str, tuple[str, list[str]]]) -> str:
    parts = []
    for chain, (hook, lines) in chains.items():
        parts += [f"    chain {chain} {{", *(f"        {line}" for line in (hook, *lines)), "    }"]
    return "\n".join([without(name) + f"table inet {name} {{", *parts, "}", ""])


def _family(network: Network) -> str:
    return "ip" if network.version == 4 else "ip6"


def _checked(interface: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_=+.-]{1,15}", interface, re.ASCII):
        raise RulesError(f"{interface[:40]!r} is no name of an interface")
    return interface


def _identifier(interface: str) -> str:
    """Unlike an interface's name, a table's has letters, digits and _ only; others become their code."""
    return re.sub(r"[^A-Za-z0-9]", lambda match: f"_{ord(match[0]):02x}", _checked(interface))


async def _nft(*arguments: str, stdin: str = "") -> str:
    try:
        output = await programs.run([NFT, *arguments], stdin=stdin)
    except programs.ProgramMissing:
        raise RulesError("nft: there is no such program; apt install nftables") from None
    except programs.ProgramError as error:
        raise RulesError(str(error)) from None
    if output.code:
        text = " ".join(output.stderr.split())[:300]
        denied = "Operation not permitted" in text
        raise RulesError(f"nft failed: {text}" + ("; only root may use it" if denied else ""))
    return output.stdout
