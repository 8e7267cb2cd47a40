"""What the operator asks for in the admin. The admin may run in another process than the node: it stores a wish, which the
seller's worker carries out within a second."""

from django.utils import timezone

from vpn import selling
from vpn.models import LeaseWish
from vpn.states import RUNNING


def open_wishes() -> list[int]:
    return list(LeaseWish.objects.filter(done_at__isnull=True).order_by("pk").values_list("pk", flat=True)[:100])


def carry_out(key: int) -> None:
    """In the caller's transaction; its outcome is noted."""
    wish = LeaseWish.objects.select_related("lease").get(pk=key)
    if wish.done_at:
        return
    try:
        _carry_out(wish)
        wish.outcome = "done"
    except ValueError as error:
        wish.outcome = f"not done: {error}"
    wish.done_at = timezone.now()
    wish.save()


def _carry_out(wish: LeaseWish) -> None:
    if wish.action == LeaseWish.Action.END:
        selling.end_now(wish.lease, "ended by the operator")
    elif wish.lease.state not in RUNNING:
        raise ValueError("the lease does not run")
    else:
        selling.extend(wish.lease, wish.seconds, f"extended by the operator: {wish.seconds} s")
