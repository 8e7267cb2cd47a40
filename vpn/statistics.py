"""Handshakes and bytes of the peers, as sums that outlive the interface. Bytes are the server's: received from the
client.
"""

from collections.abc import Mapping

from vpn.counting import more
from vpn.models import Lease
from vpn.states import PEERED
from vpn.wireguard import Statistics

FIELDS = ("last_handshake_at", "received_bytes", "sent_bytes", "seen_received_bytes", "seen_sent_bytes")


def store(found: Mapping[str, Statistics]) -> None:
    """Part of the caller's transaction."""
    changed = [
        lease
        for lease in Lease.objects.filter(state__in=PEERED)
        if lease.wg_key in found and _add(lease, found[lease.wg_key])
    ]
    Lease.objects.bulk_update(changed, FIELDS, batch_size=500)


def _add(lease: Lease, now: Statistics) -> bool:
    before = [getattr(lease, name) for name in FIELDS]
    lease.received_bytes += more(now.received_bytes, lease.seen_received_bytes)
    lease.sent_bytes += more(now.sent_bytes, lease.seen_sent_bytes)
    lease.seen_received_bytes, lease.seen_sent_bytes = now.received_bytes, now.sent_bytes
    lease.last_handshake_at = now.latest_handshake or lease.last_handshake_at
    return [getattr(lease, name) for name in FIELDS] != before
