"""Who has which address of the pool: the database sees to it that nobody shares one. Parts of the caller's transaction.

Those that were never handed out go first, in their order; then the one that has been free for the longest time.
"""

from django.db.models import Max
from django.utils import timezone

from vpn.models import Address, Lease
from vpn.pool import Pool


def any_free(pool: Pool) -> bool:
    return _fresh(pool) is not None or _rested(pool) is not None


def take(lease: Lease, pool: Pool) -> int | None:
    """The number of the client that the lease is from now on; None when the pool is full."""
    if (client := _fresh(pool)) is not None:
        Address.objects.create(client=client, lease=lease)
        return client
    if (address := _rested(pool)) is None:
        return None
    address.lease = lease
    address.save(update_fields=["lease"])
    return address.client


def free(lease: Lease) -> None:
    Address.objects.filter(lease=lease).update(lease=None, free_since=timezone.now())


def _fresh(pool: Pool) -> int | None:
    last = Address.objects.filter(client__gte=pool.clients.start).aggregate(last=Max("client"))["last"]
    number = pool.clients.start if last is None else last + 1
    return number if number in pool.clients else None


def _rested(pool: Pool) -> Address | None:
    inside = Address.objects.filter(lease=None, client__gte=pool.clients.start, client__lt=pool.clients.stop)
    return inside.order_by("free_since", "client").first()
