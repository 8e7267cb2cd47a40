"""What others have sent lately, in steps of time: how much they paid, which bounds what answers to them may cost
(messaging/answers.py), and how many bytes of it are strangers', which are bounded (messaging/policy.py).
"""

from datetime import datetime, timedelta

from django.db.models import F, Sum

from messaging import clock
from messaging.budget import WINDOW
from messaging.models import Income

STEP_SECONDS = 300
_STEPS = int(WINDOW / timedelta(seconds=STEP_SECONDS))
# No sixty minutes see more than a quota of an hour: whole steps, and the one that has begun.
_STEPS_OF_AN_HOUR = 3_600 // STEP_SECONDS


def note(paid_msat: int, strangers_bytes: int = 0) -> None:
    """So much came with messages. Part of the caller's transaction."""
    if paid_msat <= 0 and strangers_bytes <= 0:
        return
    step = _step(clock.now())
    if Income.objects.filter(pk=step).update(
        paid_msat=F("paid_msat") + paid_msat, strangers_bytes=F("strangers_bytes") + strangers_bytes
    ):
        return
    Income.objects.filter(pk__lt=step - _STEPS).delete()
    Income.objects.create(pk=step, paid_msat=paid_msat, strangers_bytes=strangers_bytes)


def paid_msat(now: datetime) -> int:
    """What was paid in the 24 hours before."""
    return _sum("paid_msat", now, _STEPS - 1)


def strangers_bytes(now: datetime) -> int:
    """Of messages that were taken from strangers in the hour before."""
    return _sum("strangers_bytes", now, _STEPS_OF_AN_HOUR)


def _sum(field: str, now: datetime, steps: int) -> int:
    last = _step(now)
    rows = Income.objects.filter(pk__gte=last - steps, pk__lte=last)
    return rows.aggregate(sum=Sum(field))["sum"] or 0


def _step(moment: datetime) -> int:
    return int(moment.timestamp() // STEP_SECONDS)
