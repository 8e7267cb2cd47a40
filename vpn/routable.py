"""Which networks are globally routable: by the special-purpose registries of IANA (RFC 6890), not by the version of Python
that runs. Pure.
"""

import ipaddress
from collections.abc import Iterable, Sequence

from vpn.pool import Address, Network, is_within

_V4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation, as the next ones of /24
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",
    )
]
# Only out of it are addresses given out: mapped IPv4, NAT64, ULA, link-local, multicast and loopback lie outside.
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_V6 = [
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocols: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which has an IPv4 address inside
        "3fff::/20",  # documentation
    )
]
# What operators give to machines of their own: those of a tunnel, too.
_PRIVATE_USE = [
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
]


def is_global(address: Address) -> bool:
    network = ipaddress.ip_network(address)
    return public_parts(network) == [network]


def is_private_use(network: Network) -> bool:
    return is_in(network, _PRIVATE_USE)


def is_in(network: Network, others: Iterable[Network]) -> bool:
    return any(is_within(network, other) for other in others)


def public_parts(network: Network) -> list[Network]:
    """What of it is globally routable; all of it where that is the network itself."""
    if isinstance(network, ipaddress.IPv4Network):
        return list(_without([network], _V4))
    if not network.overlaps(_UNICAST_V6):
        return []
    unicast = network if network.subnet_of(_UNICAST_V6) else _UNICAST_V6
    return list(_without([unicast], _V6))


def _without(networks: Sequence[Network], others: Iterable[Network]) -> Sequence[Network]:
    for other in others:
        networks = [part for network in networks for part in _difference(network, other)]
    return networks


def _difference(network: Network, other: Network) -> list[Network]:
    if is_within(network, other):
        return []
    if is_within(other, network):
        return sorted(network.address_exclude(other))  # type: ignore[arg-type]  # of one version
    return [network]
