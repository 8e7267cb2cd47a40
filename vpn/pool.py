"""The addresses of the configured subnet: .1 is the server, the others are handed out. Pure.

A client is a number, its host part: client 7 of 10.0.0.0/24 and fd00:1::/64 has 10.0.0.7 and fd00:1::7.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

SERVER = 1
# Of a larger subnet only so many are handed out: more than one interface serves.
MAX_CLIENTS = 65_533


@dataclass(frozen=True)
class Pool:
    """`networks` as in the configuration: one IPv4 network, one IPv6 network, or both, none below 4 addresses."""

    networks: tuple[Network, ...]

    @property
    def clients(self) -> range:
        """The numbers that can be handed out; the last address of an IPv4 network is its broadcast address."""
        last = min(network.num_addresses - (2 if network.version == 4 else 1) for network in self.networks)
        return range(SERVER + 1, min(last, SERVER + MAX_CLIENTS) + 1)

    @property
    def server(self) -> tuple[Interface, ...]:
        """The server's addresses, with the length of the networks' prefixes."""
        return tuple(
            ipaddress.ip_interface((network[SERVER], network.prefixlen)) for network in self.networks
        )

    def addresses(self, client: int) -> tuple[Address, ...]:
        """ValueError unless it is one of the clients."""
        if client not in self.clients:
            raise ValueError(
                f"{client} is no client's number; must be from {self.clients[0]} to {self.clients[-1]}"
            )
        return tuple(network[client] for network in self.networks)

    def peer_networks(self, client: int) -> frozenset[Network]:
        """What the server sets as AllowedIPs of this client's peer: its /32, its /128."""
        return host_networks(self.addresses(client))

    def client_of(self, address: Address) -> int | None:
        """The number of the client who has this address; None for the server's and those that are nobody's."""
        for network in self.networks:
            if address in network:
                number = int(address) - int(network.network_address)
                return number if number in self.clients else None
        return None

    def holds(self, network: Network) -> bool:
        """Whether all of it lies within the pool, the server's address included."""
        return any(is_within(network, own) for own in self.networks)


def host_networks(addresses: Iterable[Address]) -> frozenset[Network]:
    return frozenset(ipaddress.ip_network(address) for address in addresses)
