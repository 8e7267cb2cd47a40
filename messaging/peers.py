"""The nodes that this one has to do with."""

from collections.abc import Iterable
from typing import TypeVar

from django.db import transaction
from django.db.models import Model, Q, QuerySet
from django.utils import timezone

from messaging.models import Peer

Row = TypeVar("Row", bound=Model)

# A peer's last_seen_at is written at most this often: it is for people, not worth a write a message.
TOUCH_SECONDS = 60
_MAX_REMEMBERED = 100_000
_touched_at: dict[tuple[str, bool], float] = {}


def touch(pubkeys: Iterable[str], *, written_to: bool = False) -> None:
    """Notes that these nodes were heard from, or written to. Part of the caller's transaction."""
    now = timezone.now()
    due = {
        pubkey
        for pubkey in pubkeys
        if pubkey and now.timestamp() - _touched_at.get((pubkey, written_to), 0.0) > TOUCH_SECONDS
    }
    if not due:
        return
    Peer.objects.bulk_create(
        [Peer(pubkey=pubkey, written_to=written_to) for pubkey in due],
        update_conflicts=True,
        unique_fields=["pubkey"],
        # Who is written to may be answered once more over hints that did not work.
        update_fields=["last_seen_at", "written_to", "tried_hints"] if written_to else ["last_seen_at"],
    )
    transaction.on_commit(lambda: _remember({(pubkey, written_to) for pubkey in due}, now.timestamp()))


def _remember(touched: set[tuple[str, bool]], now_seconds: float) -> None:
    if len(_touched_at) > _MAX_REMEMBERED:
        _touched_at.clear()
    _touched_at.update(dict.fromkeys(touched, now_seconds))


def are_known(pubkeys: Iterable[str]) -> set[str]:
    """Those that this node has written to, or that were marked."""
    return set(known().filter(pubkey__in=list(pubkeys)).values_list("pubkey", flat=True))


def known() -> QuerySet[Peer]:
    """Peers that this node has written to, or that were marked; all others are strangers."""
    return Peer.objects.filter(Q(written_to=True) | Q(marked=True))


def of_strangers(rows: QuerySet[Row], pubkey_field: str = "pubkey") -> QuerySet[Row]:
    """Those rows whose field names no known peer."""
    return rows.exclude(**{f"{pubkey_field}__in": known().values("pubkey")})


def is_stored(pubkey: str) -> bool:
    """Whether this node has had to do with that one, in either direction."""
    return Peer.objects.filter(pubkey=pubkey).exists()


def blocked_and_known(pubkeys: Iterable[str]) -> tuple[set[str], set[str]]:
    """Those that were blocked, and those that this node has written to or that were marked."""
    # By key alone: this is asked for each batch, and to build a longer condition takes longer than to read.
    found = Peer.objects.filter(pubkey__in=list(pubkeys))
    rows = list(found.values_list("pubkey", "blocked", "written_to", "marked"))
    blocked = {pubkey for pubkey, is_blocked, _, _ in rows if is_blocked}
    return blocked, {pubkey for pubkey, _, written_to, marked in rows if written_to or marked}


def last_seen(limit: int) -> list[Peer]:
    """The nodes that this one has had to do with, the last one first."""
    return list(Peer.objects.order_by("-last_seen_at", "pubkey")[:limit])
