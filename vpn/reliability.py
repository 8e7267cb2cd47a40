"""Sellers who did not keep what was agreed: no automatic renewal (vpn/renewing.py) pays them again. Parts of the caller's
transaction.
"""

import logging
from uuid import UUID

from vpn.models import UnreliableSeller

logger = logging.getLogger("vpn.reliability")

LESS_TIME, UNUSABLE_LEASE, NO_LEASE, ENDED_EARLY = "less_time", "unusable_lease", "no_lease", "ended_early"
# Refusals of this node's own that the seller is to blame for.
BROKEN = (LESS_TIME, UNUSABLE_LEASE, NO_LEASE)


def distrust(seller: str, reason: str, text: str, *, lease_id: UUID) -> None:
    """Until `trust`; what was noted first stays."""
    _, is_new = UnreliableSeller.objects.get_or_create(
        pubkey=seller, defaults={"reason": reason, "text": text[:500], "lease_id": lease_id}
    )
    if is_new:
        logger.warning(
            "VPN leases of a seller are not renewed automatically any more",
            extra={"peer": seller, "reason": reason, "lease": str(lease_id)},
        )


def trust(seller: str) -> None:
    """It is bought from by a call: whoever calls has seen what came before."""
    UnreliableSeller.objects.filter(pubkey=seller).delete()


def is_distrusted(seller: str) -> bool:
    return UnreliableSeller.objects.filter(pubkey=seller).exists()
