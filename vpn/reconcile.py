"""What has to be changed so that an interface has the peers that it should have. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from vpn.pool import Network, Pool

Peers = Mapping[str, frozenset[Network]]


@dataclass(frozen=True)
class Changes:
    """Peers by their public keys: to add, to set anew in place, to remove. `foreign` are left alone, `refused` cannot
    be set, with the reason.
    """

    add: dict[str, frozenset[Network]] = field(default_factory=dict)
    replace: dict[str, frozenset[Network]] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    foreign: dict[str, frozenset[Network]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (self.add or self.replace or self.remove)


def reconcile(
    desired: Peers, present: Peers, *, pool: Pool, own_key: str, once_ours: Collection[str] = ()
) -> Changes:
    """A peer that is not desired is removed if it has an address of the pool or of a desired peer, or is `once_ours`
    (the key of any lease of old); others are the operator's. A network that is larger than the pool, such as 0.0.0.0/0,
    is no address of the pool: WireGuard prefers the peers' own.
    """
    wanted, refused = _settable(desired, own_key)
    taken = {network for networks in wanted.values() for network in networks}
    add = {key: networks for key, networks in wanted.items() if key not in present}
    replace = {
        key: networks for key, networks in wanted.items() if key in present and present[key] != networks
    }
    foreign, remove = {}, []
    for key, networks in present.items():
        if key in wanted:
            continue
        if key in once_ours or any(network in taken or pool.holds(network) for network in networks):
            remove.append(key)
        else:
            foreign[key] = networks
    return Changes(add=add, replace=replace, remove=tuple(remove), foreign=foreign, refused=refused)


def missing_after(desired: Peers, present: Peers) -> list[str]:
    """The keys that are not there with exactly their addresses: `wg` answers 0 for the server's own key and adds
    nothing, and takes an address away from the peer that had it.
    """
    return [key for key, networks in desired.items() if present.get(key) != networks]


def _settable(desired: Peers, own_key: str) -> tuple[dict[str, frozenset[Network]], dict[str, str]]:
    """Two peers with one address would take it from each other for ever: the first one keeps it."""
    wanted: dict[str, frozenset[Network]] = {}
    refused: dict[str, str] = {}
    holders: dict[Network, str] = {}
    for key, networks in desired.items():
        other = next((holders[network] for network in networks if network in holders), None)
        if key == own_key:
            refused[key] = "is the server's own key"
        elif other is not None:
            refused[key] = f"has an address of {other}"
        else:
            wanted[key] = networks
            holders |= dict.fromkeys(networks, key)
    return wanted, refused
