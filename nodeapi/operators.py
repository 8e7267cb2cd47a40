"""What the operator does by hand, in the admin or at the command line: rows of the audit log, beside those of calls
(audit.py).
"""

import logging
from dataclasses import dataclass

from django.db import transaction

from nodeapi.models import AuditEntry

logger = logging.getLogger("audit")

MAX_DETAIL_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who does it, as the audit log is to name them."""

    name: str
    address: str = ""


def actor_in_admin(request) -> Actor:
    return Actor(name=named_in_admin(request.user), address=request.META.get("REMOTE_ADDR") or "")


def named_in_admin(user) -> str:
    return f"{user.get_username()} in the admin"


def note(
    operation: str,
    by: Actor,
    *,
    peer: str = "",
    detail: str = "",
    outcome: str = AuditEntry.Outcome.DONE,
) -> AuditEntry:
    """Part of the caller's transaction."""
    return AuditEntry.objects.create(
        caller=by.name[:100],
        operation=operation,
        peer=peer,
        outcome=outcome,
        detail=detail[:MAX_DETAIL_CHARACTERS],
        address=by.address,
    )


def tell(row: AuditEntry) -> None:
    """In the log too, once it is committed."""
    fields = {"key": row.caller, "operation": row.operation, "peer": row.peer, "outcome": str(row.outcome)}
    fields |= {"detail": row.detail, "client": row.address}
    transaction.on_commit(lambda: logger.info("by hand", extra=fields))
