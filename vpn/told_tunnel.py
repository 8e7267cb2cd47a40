"""What of a tunnel that a seller tells of may go into the buyer's file: it must not take over networks of the buyer's own.
Pure.

The endpoint has to be globally routable, and of the networks those parts that are. Beside them pass: everything
(0.0.0.0/0, ::/0), the lease's own address and the network that it is in, its DNS, and what the configuration names
(vpn.private_networks).
"""

import dataclasses
import ipaddress
from collections.abc import Sequence

from vpn import routable
from vpn.pool import Address, Network, host_networks, is_within
from vpn.wgquick import Peering

# The largest networks that a lease's own address can be in: a larger one is more than the seller's pool. And around it,
# those that are the seller's pool in any case.
LARGEST_PREFIXES, POOL_PREFIXES = {4: 16, 6: 48}, {4: 24, 6: 64}


def accepted(peering: Peering, *, private: Sequence[Network] = ()) -> tuple[Peering, list[str]]:
    """The tunnel without what is not to be taken, and what that was. ValueError "field: what is wrong" where nothing of
    use is left.
    """
    host = ipaddress.ip_network(peering.endpoint_host)
    if not (routable.is_global(peering.endpoint_host) or routable.is_in(host, private)):
        raise ValueError(
            f"endpoint: {peering.endpoint_host} is no public address; a seller on a network of your own has to be "
            "named in vpn.private_networks"
        )
    for address in peering.addresses:
        if not _is_usable(address, private):
            raise ValueError(f"address: {address} is no address of a private or public network")
    dns = tuple(address for address in peering.dns if _is_usable(address, private))
    left_out = [f"dns {address}" for address in peering.dns if address not in dns]
    own = _OwnNetworks(peering.addresses, dns, tuple(private))
    networks: list[Network] = []
    for network in peering.allowed_ips:
        parts = own.parts(network)
        networks += parts
        if parts != [network]:
            left_out.append(f"allowed_ips {network}" + (" in part" if parts else ""))
    if not networks:
        raise ValueError("allowed_ips: none of the networks is public, and none the lease's own")
    return dataclasses.replace(peering, dns=dns, allowed_ips=tuple(dict.fromkeys(networks))), left_out


@dataclasses.dataclass(frozen=True)
class _OwnNetworks:
    addresses: tuple[Address, ...]
    dns: tuple[Address, ...]
    private: tuple[Network, ...]

    def parts(self, network: Network) -> list[Network]:
        """What of it may be taken; itself where that is all."""
        if not network.prefixlen or self._is_own(network) or routable.is_in(network, self.private):
            return [network]
        public = routable.public_parts(network)
        if public == [network]:
            return public
        hosts = host_networks([*self.addresses, *self.dns])
        inside = [other for other in (*sorted(hosts, key=str), *self.private) if is_within(other, network)]
        return [*public, *(other for other in inside if not routable.is_in(other, public))]

    def _is_own(self, network: Network) -> bool:
        """The network of the lease's own address, and what is near it in that; or the address of its DNS."""
        if routable.is_in(network, host_networks([*self.addresses, *self.dns])):
            return True
        if not routable.is_private_use(network):
            return False
        is_small = network.prefixlen >= LARGEST_PREFIXES[network.version]
        return (is_small and any(address in network for address in self.addresses)) or routable.is_in(
            network, map(_pool_of, self.addresses)
        )


def _pool_of(address: Address) -> Network:
    return ipaddress.ip_network((address, POOL_PREFIXES[address.version]), strict=False)


def _is_usable(address: Address, private: Sequence[Network]) -> bool:
    """As an address inside a tunnel: private or public, but no loopback, link-local, multicast or reserved one."""
    network = ipaddress.ip_network(address)
    return routable.is_private_use(network) or routable.is_global(address) or routable.is_in(network, private)
