"""The nodes that this one has to do with."""

from collections.abc import Iterable

from django.db import transaction
from django.utils import timezone

from messaging.models import Peer

# A peer's last_seen_at is written at most this often: it is for people, not worth a write a message.
TOUCH_SECONDS = 60
_MAX_REMEMBERED = 100_000
_touched_at: dict[str, float] = {}


def touch(pubkeys: Iterable[str]) -> None:
    """Notes that these nodes were written to or heard from. Part of the caller's transaction."""
    now = timezone.now()
    due = {
        pubkey for pubkey in pubkeys if pubkey and now.timestamp() - _touched_at.get(pubkey, 0.0) > TOUCH_SECONDS
    }
    if not due:
        return
    Peer.objects.bulk_create(
        [Peer(pubkey=pubkey) for pubkey in due],
        update_conflicts=True,
        unique_fields=["pubkey"],
        update_fields=["last_seen_at"],
    )
    transaction.on_commit(lambda: _remember(due, now.timestamp()))


def _remember(pubkeys: set[str], now_seconds: float) -> None:
    if len(_touched_at) > _MAX_REMEMBERED:
        _touched_at.clear()
    _touched_at.update(dict.fromkeys(pubkeys, now_seconds))
