"""Whether an unasked message may be sent to a node at all: only where there is a node, as far as can be known.

A key costs nothing, and neither does a hint: without this, one satoshi would make lnd look for a way to a node that does
not exist, or lock this node's money on a way that its sender made up.
"""

import time
from collections import OrderedDict
from datetime import timedelta
from functools import partial

from django.utils import timezone

from lightning.carrier import Carrier
from lightning.hints import HopHint
from messaging.database import Database
from messaging.hints import HintBook, as_rows
from messaging.metrics import UNKNOWN_NODE, UNPROVEN_HINT
from messaging.models import Peer

CAUSES = {
    UNKNOWN_NODE: "not sent: the node is no channel peer, is not in the graph and has told no way that can be tried",
    UNPROVEN_HINT: "not sent: no way that the node has told has worked before, and it is not the time to try one",
}

FOUND_SECONDS, NOT_FOUND_SECONDS = 600.0, 30.0
_MAX_KEPT = 10_000
_HOUR = timedelta(hours=1)


class Reachability:
    """Use from one event loop. `unproven_hints_per_hour`: how many of all nodes' hints are tried without knowing that they
    work. Only an answer can show that a hint works, where nobody at this node writes to its node.
    """

    def __init__(
        self, *, carrier: Carrier, database: Database, hints: HintBook, unproven_hints_per_hour: int
    ) -> None:
        self._carrier = carrier
        self._database = database
        self._hints = hints
        self._per_hour = unproven_hints_per_hour
        # Of the peers that were reached with hints, those that worked last.
        self._worked: dict[str, tuple[HopHint, ...]] = {}
        self._seen: OrderedDict[str, tuple[bool, float]] = OrderedDict()

    async def problem(self, pubkey: str) -> str:
        """Why nothing may be sent there, a key of CAUSES; empty if it may be tried now. Raises LndError."""
        if await self._exists(pubkey):
            return ""
        hints = await self._hints.of(pubkey)
        if not hints:
            return UNKNOWN_NODE
        if await self._database.read(partial(is_proven, pubkey, hints)):
            return ""
        if not any([await self._exists(hint.node_id.hex()) for hint in hints]):
            return UNKNOWN_NODE
        may_try = await self._database.write(partial(begin_try, pubkey, hints, per_hour=self._per_hour))
        return "" if may_try else UNPROVEN_HINT

    async def note_worked(self, pubkey: str, hints: tuple[HopHint, ...]) -> None:
        """A payment with these hints got there."""
        if self._worked.get(pubkey) == hints:
            return
        await self._database.write(partial(note_proven, pubkey, hints))
        self._worked[pubkey] = hints
        if len(self._worked) > _MAX_KEPT:
            self._worked.clear()

    async def _exists(self, pubkey: str) -> bool:
        seen = self._seen.get(pubkey)
        if seen and time.monotonic() < seen[1]:
            return seen[0]
        found = await self._carrier.exists(bytes.fromhex(pubkey))
        self._seen[pubkey] = found, time.monotonic() + (FOUND_SECONDS if found else NOT_FOUND_SECONDS)
        self._seen.move_to_end(pubkey)
        if len(self._seen) > _MAX_KEPT:
            self._seen.popitem(last=False)
        return found


def is_proven(pubkey: str, hints: tuple[HopHint, ...]) -> bool:
    """Whether a payment of this node got there with one of these."""
    proven = Peer.objects.filter(pubkey=pubkey).values_list("proven_hints", flat=True).first() or []
    return any(row in proven for row in as_rows(hints))


def note_proven(pubkey: str, hints: tuple[HopHint, ...]) -> None:
    """A payment with these hints got there."""
    rows = as_rows(hints)
    Peer.objects.filter(pubkey=pubkey).exclude(proven_hints=rows).update(proven_hints=rows)


def begin_try(pubkey: str, hints: tuple[HopHint, ...], *, per_hour: int) -> bool:
    """Whether hints that nobody knows to work may be tried now, which counts. Part of the caller's transaction."""
    rows, now = as_rows(hints), timezone.now()
    peer = Peer.objects.filter(pubkey=pubkey).first()
    if peer is None or peer.tried_hints == rows:
        return False
    if Peer.objects.filter(hint_tried_at__gt=now - _HOUR).count() >= per_hour:
        return False
    Peer.objects.filter(pubkey=pubkey).update(tried_hints=rows, hint_tried_at=now)
    return True
