"""The names of services in requests: a filter by one that there is not would silently match nothing."""

from collections.abc import Collection, Iterable

from messaging.registry import HANDLERS
from nodeapi.errors import invalid
from nodeapi.spelling import misspelled


def stored(doors) -> frozenset[str]:
    """Services of which this node may have stored messages: the configured ones, and those that it knows besides."""
    return frozenset(row.service_type for row in doors.services) | HANDLERS.keys()


def require_known(services: Iterable[str], known: Collection[str]) -> None:
    """Raises ApiError."""
    unknown = [service for service in services if service not in known]
    if not unknown:
        return
    meant = misspelled(unknown[:1], known)
    hint = f"did you mean `{meant[1]}`? It " if meant else ""
    raise invalid("service", f"{hint}must be one of {', '.join(sorted(known))}")
