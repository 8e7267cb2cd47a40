"""The hop hints that peers gave with their messages, for the answers to them. Read when needed, a bounded number kept."""

from collections import OrderedDict
from functools import partial
from typing import Any

from lightning.hints import HopHint
from messaging.database import Database
from messaging.models import Peer

MAX_KEPT = 10_000


class HintBook:
    """Use from one event loop; `learned` from any thread."""

    def __init__(self, database: Database):
        self._database = database
        self._kept: OrderedDict[str, tuple[HopHint, ...]] = OrderedDict()
        self._changes = 0

    async def of(self, pubkey: str) -> tuple[HopHint, ...]:
        """How this peer is reached, as it told last; nothing for most."""
        if (kept := self._kept.get(pubkey)) is not None:
            return kept
        changes = self._changes
        hints = await self._database.read(partial(read, pubkey))
        # What was read before a change must not be kept behind it.
        if changes == self._changes:
            self._keep(pubkey, hints)
        return hints

    def learned(self, pubkey: str) -> None:
        """What is stored of this peer has changed."""
        self._changes += 1
        self._kept.pop(pubkey, None)

    def _keep(self, pubkey: str, hints: tuple[HopHint, ...]) -> None:
        self._kept[pubkey] = hints
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)


def read(pubkey: str) -> tuple[HopHint, ...]:
    stored = Peer.objects.filter(pubkey=pubkey).values_list("reply_hints", flat=True).first()
    return tuple(HopHint(**{**hint, "node_id": bytes.fromhex(hint["node_id"])}) for hint in stored or ())


def store(pubkey: str, hints: tuple[HopHint, ...]) -> bool:
    """Part of the caller's transaction, in which the peer was touched. Whether they were new."""
    rows = as_rows(hints)
    return bool(Peer.objects.filter(pubkey=pubkey).exclude(reply_hints=rows).update(reply_hints=rows))


def as_rows(hints: tuple[HopHint, ...]) -> list[dict[str, Any]]:
    """As they stand in the database."""
    return [
        {
            "node_id": hint.node_id.hex(),
            "chan_id": hint.chan_id,
            "fee_base_msat": hint.fee_base_msat,
            "fee_ppm": hint.fee_ppm,
            "cltv_delta": hint.cltv_delta,
        }
        for hint in hints
    ]
