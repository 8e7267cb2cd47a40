"""What the operator asks for in the admin. The admin may run in another process than the node: it stores a wish, which
the seller's worker carries out within a second.
"""

from datetime import timedelta

from django.utils import timezone

from messaging.models import Event, Message, Origin
from messaging.required import required
from vpn import selling
from vpn.models import LeaseWish, Term
from vpn.settings import VpnSettings
from vpn.states import RUNNING


def open_wishes() -> list[int]:
    return list(
        LeaseWish.objects.filter(done_at__isnull=True).order_by("pk").values_list("pk", flat=True)[:100]
    )


def give_up(cause: str) -> int:
    """What is asked for and not done yet is not done any more; of how many actions that is so."""
    waiting = LeaseWish.objects.filter(done_at__isnull=True)
    return waiting.update(done_at=timezone.now(), outcome=f"not done: {cause}"[:500])


def carry_out(key: int, settings: VpnSettings) -> tuple[list[Message], list[Event]]:
    """In the caller's transaction; its outcome is noted. What is to be told of it."""
    wish = LeaseWish.objects.select_related("lease").get(pk=key)
    if wish.done_at:
        return [], []
    messages = []
    try:
        messages = _carry_out(wish, settings)
        wish.outcome = "done"
    except ValueError as error:
        wish.outcome = f"not done: {error}"
    wish.done_at = timezone.now()
    wish.save()
    return messages, []


def _carry_out(wish: LeaseWish, settings: VpnSettings) -> list[Message]:
    """ValueError says why not."""
    lease = wish.lease
    if wish.action == LeaseWish.Action.END:
        selling.end_now(lease, "ended by the operator")
        return []
    if lease.state not in RUNNING:
        raise ValueError("the lease does not run")
    if required(lease.expires_at) + timedelta(seconds=wish.seconds) > timezone.now() + selling.FURTHEST_END:
        raise ValueError("the lease would last too long")
    selling.extend(lease, wish.seconds, f"extended by the operator: {wish.seconds} s")
    term = lease.terms.get(kind=Term.Kind.CONTRACT)
    told = selling.lease_message(term, settings, reply_to=None)
    told.origin = Origin.CALLER
    return [told]
