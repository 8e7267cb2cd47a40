"""What the node relies on in `wg`: one set of cases, run on the double (tests/unit/vpn/test_wireguard.py) and on real
interfaces (tests/integration/vpn/test_wireguard.py).

Each case is an async function of a Target, whose interface has a key and no peers.
"""

import ipaddress
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import pytest

from vpn import keys
from vpn.pool import Network, Pool
from vpn.reconcile import Changes, missing_after, reconcile
from vpn.wireguard import NoInterface, NotPermitted, WireGuard, WireGuardError

POOL = Pool((ipaddress.ip_network("10.77.0.0/24"), ipaddress.ip_network("fd00:77::/64")))


class Target(Protocol):
    """`pub_key` is that of `interface`. `unpermitted` is a WireGuard whose user may not use the interface."""

    wireguard: WireGuard
    unpermitted: WireGuard
    interface: str
    pub_key: str
    listen_port: int

    def add_interface(self) -> str:
        """The name of another interface, without a key."""

    def set_peer(self, key: str, networks: str) -> None:
        """As an operator does by hand."""


Case = Callable[[Target], Coroutine[Any, Any, None]]
CASES: list[Case] = []


def case(function: Case) -> Case:
    CASES.append(function)
    return function


def new_key() -> str:
    return keys.new_key_pair().public


def nets(*texts: str) -> frozenset[Network]:
    return frozenset(ipaddress.ip_network(text) for text in texts)


async def change(target: Target, **changes: Any) -> None:
    await target.wireguard.apply(target.interface, Changes(**changes))


async def peers(target: Target) -> dict[str, frozenset[Network]]:
    return await target.wireguard.peers(target.interface)


async def reconciled(target: Target, desired: dict[str, frozenset[Network]]) -> Changes:
    changes = reconcile(desired, await peers(target), pool=POOL, own_key=target.pub_key)
    await target.wireguard.apply(target.interface, changes)
    return changes


@case
async def interface_is_found_by_its_public_key(target: Target) -> None:
    wireguard = target.wireguard
    assert await wireguard.interface_of(target.pub_key) == target.interface
    assert await wireguard.interface_of(new_key()) is None
    assert await wireguard.interface_of("") is None
    assert await wireguard.public_key(target.interface) == target.pub_key
    assert await wireguard.listen_port(target.interface) == target.listen_port
    keyless = target.add_interface()
    interfaces = await wireguard.interfaces()
    assert interfaces[keyless] == "" == await wireguard.public_key(keyless)
    assert interfaces[target.interface] == target.pub_key


@case
async def peers_are_added_read_back_replaced_and_removed(target: Target) -> None:
    one, two = new_key(), new_key()
    await change(target, add={one: POOL.peer_networks(2), two: POOL.peer_networks(3)})
    assert await peers(target) == {one: POOL.peer_networks(2), two: POOL.peer_networks(3)}
    await change(target, replace={one: nets("10.77.0.9/32")})
    assert await peers(target) == {one: nets("10.77.0.9/32"), two: POOL.peer_networks(3)}
    await change(target, remove=(one, new_key()))
    assert await peers(target) == {two: POOL.peer_networks(3)}
    assert await target.wireguard.statistics(target.interface) == {two: (None, 0, 0)}


@case
async def addresses_change_hands_in_one_step(target: Target) -> None:
    one, two = new_key(), new_key()
    await reconciled(target, {one: nets("10.77.0.2/32"), two: nets("10.77.0.3/32")})
    swapped = {one: nets("10.77.0.3/32"), two: nets("10.77.0.2/32")}
    changes = await reconciled(target, swapped)
    assert await peers(target) == swapped
    assert changes.replace == swapped
    assert not changes.remove


@case
async def more_than_a_batch_at_once(target: Target) -> None:
    pool = Pool((ipaddress.ip_network("10.64.0.0/16"),))
    desired = {new_key(): pool.peer_networks(client) for client in pool.clients[:1100]}
    await change(target, add=desired)
    assert await peers(target) == desired
    gone = list(desired)[:600]
    await change(target, remove=tuple(gone))
    assert await peers(target) == {key: desired[key] for key in desired if key not in set(gone)}


@case
async def own_key_is_noticed_by_reading_back(target: Target) -> None:
    await change(target, add={target.pub_key: POOL.peer_networks(2)})
    assert missing_after({target.pub_key: POOL.peer_networks(2)}, await peers(target)) == [target.pub_key]


@case
async def address_that_was_taken_away_is_noticed_and_restored(target: Target) -> None:
    buyer, intruder = new_key(), new_key()
    desired = {buyer: nets("10.77.0.2/32")}
    await change(target, add=desired)
    target.set_peer(intruder, "10.77.0.2/32")
    present = await peers(target)
    assert present[buyer] == nets()
    assert missing_after(desired, present) == [buyer]
    changes = await reconciled(target, desired)
    assert changes.remove == (intruder,)
    assert await peers(target) == desired


@case
async def peers_of_the_operator_stay(target: Target) -> None:
    operators = new_key()
    target.set_peer(operators, "192.168.9.0/24")
    changes = await reconciled(target, {new_key(): POOL.peer_networks(2)})
    assert changes.foreign == {operators: nets("192.168.9.0/24")}
    assert operators in await peers(target)


@case
async def no_such_interface(target: Target) -> None:
    with pytest.raises(NoInterface, match="no such WireGuard interface"):
        await target.wireguard.peers("nosuch")
    with pytest.raises(NoInterface, match="no such WireGuard interface"):
        await target.wireguard.apply("nosuch", Changes(add={new_key(): nets("10.77.0.2/32")}))
    for name in ("all", "", "-x", "a/b", "x" * 16, "a\nb"):
        with pytest.raises(WireGuardError, match="no name of a WireGuard interface"):
            await target.wireguard.peers(name)


@case
async def what_is_no_key_changes_nothing(target: Target) -> None:
    kept = {new_key(): POOL.peer_networks(2)}
    await change(target, add=kept)
    with pytest.raises(WireGuardError, match="is no WireGuard key"):
        await change(target, add={new_key(): POOL.peer_networks(3), "x" * 44: POOL.peer_networks(4)})
    with pytest.raises(WireGuardError, match="is no WireGuard key"):
        await change(target, remove=("no key",))
    assert await peers(target) == kept


@case
async def who_is_not_permitted_is_told_the_way(target: Target) -> None:
    add = Changes(add={new_key(): POOL.peer_networks(2)})
    for call in (
        target.unpermitted.interfaces(),
        target.unpermitted.peers(target.interface),
        target.unpermitted.apply(target.interface, add),
    ):
        with pytest.raises(NotPermitted, match="impervious-wg"):
            await call
    assert await peers(target) == {}
