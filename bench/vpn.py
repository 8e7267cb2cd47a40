"""Leases as they are sold (bench/sales.py), and bringing an interface to the peers that the database says, over the bare
`wg set` of the same peers.
"""

import asyncio
import base64
import ipaddress
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bench import sales
from bench.report import Row, Section
from bench.settings import Settings
from tests.support.machines import WireGuardServer, why_no_machines
from vpn.pool import Network, Pool
from vpn.reconcile import missing_after, reconcile
from vpn.wireguard import PEERS_PER_CALL, WireGuard

POOL = Pool((ipaddress.ip_network("10.64.0.0/16"),))
Peers = dict[str, frozenset[Network]]


async def measure(directory: Path, settings: Settings) -> AsyncIterator[Section]:
    section = Section("VPN: an interface without peers, until all are there")
    if reason := why_no_machines():
        section.notes.append(f"not measured: {reason}")
        yield section
        return
    for peers in settings.vpn_peers:
        node, peer, idle = [], [], []
        for _ in range(settings.rounds):
            desired = _peers(peers)
            with WireGuardServer(directory, "10.64.0.1/16") as server:
                node.append(await _reconcile(server, desired))
                idle.append(await _reconcile(server, desired))
            with WireGuardServer(directory, "10.64.0.1/16") as server:
                peer.append(await _bare(server, desired))
        section.rows.append(Row(f"{peers:,} peers, all missing", "ms", node, peer))
        section.rows.append(Row(f"{peers:,} peers, none missing", "ms", idle, kind="value"))
    section.notes.append(f"node: read, compare, set {PEERS_PER_CALL} a call, read back; peer: `wg set` alone")
    yield section
    async for more in sales.measure(directory, settings):
        yield more


def _peers(count: int) -> Peers:
    # Any 32 bytes serve as a key here, and no time is spent on making pairs.
    clients = POOL.clients[:count]
    return {
        base64.b64encode(os.urandom(31) + b"\x01").decode(): POOL.peer_networks(client) for client in clients
    }


async def _reconcile(server: WireGuardServer, desired: Peers) -> float:
    """Milliseconds."""
    wireguard = WireGuard(str(server.wg))
    start = time.perf_counter()
    interface = await wireguard.interface_of(server.pair.public)
    present = await wireguard.peers(interface)
    changes = reconcile(desired, present, pool=POOL, own_key=server.pair.public)
    if not changes.empty:
        await wireguard.apply(interface, changes)
        present = await wireguard.peers(interface)
    missing = missing_after(desired, present)
    milliseconds = (time.perf_counter() - start) * 1000
    assert not missing
    return milliseconds


async def _bare(server: WireGuardServer, desired: Peers) -> float:
    """Milliseconds, of subprocesses alone."""
    peers = list(desired.items())
    start = time.perf_counter()
    for first in range(0, len(peers), PEERS_PER_CALL):
        words = [
            word
            for key, networks in peers[first : first + PEERS_PER_CALL]
            for word in ("peer", key, "allowed-ips", str(next(iter(networks))))
        ]
        process = await asyncio.create_subprocess_exec(str(server.wg), "set", server.interface, *words)
        assert await process.wait() == 0
    return (time.perf_counter() - start) * 1000
