"""The call about other nodes, from what messages and the federation know of them."""

from functools import partial
from typing import Any

from federation.services import states_of
from messaging.peers import last_seen
from messaging.times import rfc3339


async def list_peers(doors, *, limit: int) -> dict[str, Any]:
    """The nodes that this one has written to or heard from, the last one first."""
    return {"peers": await doors.database.read(partial(_peers, limit))}


def _peers(limit: int) -> list[dict[str, Any]]:
    peers = last_seen(limit)
    states = states_of([peer.pubkey for peer in peers])
    return [
        {
            "pubkey": peer.pubkey,
            "label": peer.label,
            "marked": peer.marked,
            "written_to": peer.written_to,
            "federation": states.get(peer.pubkey, ""),
            "first_seen_at": rfc3339(peer.first_seen_at),
            "last_seen_at": rfc3339(peer.last_seen_at),
            "blocked": peer.blocked,
        }
        for peer in peers
    ]
