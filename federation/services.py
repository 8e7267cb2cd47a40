"""What can be asked of the federation. Reads are synchronous; asking and leaving go through the outbox."""

from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.utils import timezone

from federation import steps
from federation.models import Federation
from federation.settings import SERVICE, FederationSettings
from federation.states import State
from messaging.idempotency import Claim
from messaging.outbox import Outbox
from messaging.outgoing import new_message
from messaging.required import required
from messaging.times import rfc3339_seconds

ALL = "all"


async def federation_request(
    *,
    outbox: Outbox,
    settings: FederationSettings,
    pubkey: str,
    expires_seconds: int,
    claim: Claim | None,
) -> UUID:
    """Asks a node. The id of the request, once it is committed. Raises NotPossible, KeyReused and OverBudget."""
    message = new_message(
        service=SERVICE,
        pubkey=pubkey,
        body=steps.request_body(settings),
        # It carries what the answer costs.
        amount_sat=await outbox.ways.postage_sat(pubkey, SERVICE),
        expires_seconds=min(expires_seconds, settings.ttl_seconds),
    )
    step = partial(steps.request, message, settings)
    return (await outbox.accept_all([message], claim=claim, step=step))[0]


async def federation_leave(
    *,
    outbox: Outbox,
    settings: FederationSettings,
    pubkey: str,
    expires_seconds: int,
    claim: Claim | None,
) -> UUID:
    """Leaves a node. The id of the message that tells it, once it is committed. Raises NotPossible, KeyReused and
    OverBudget.
    """
    message = new_message(
        service=SERVICE, pubkey=pubkey, body=steps.leave_body(settings), expires_seconds=expires_seconds
    )

    def step() -> None:
        steps.leave(message, settings)

    return (await outbox.accept_all([message], claim=claim, step=step))[0]


def member_pubkeys() -> list[str]:
    """The nodes that this one is federated with now, oldest member first."""
    members = Federation.objects.filter(state=State.MEMBER).order_by("since", "pubkey")
    return list(members.values_list("pubkey", flat=True))


def states_of(pubkeys: list[str]) -> dict[str, str]:
    """How this node stands to those of these nodes with which anything was ever said of a federation."""
    return dict(Federation.objects.filter(pubkey__in=pubkeys).values_list("pubkey", "state"))


def federation_list(*, state: str = "", pubkey: str = "", limit: int) -> list[dict[str, Any]]:
    """How this node stands to others: the members, or those in another state, or `all`; the last change first."""
    federations = Federation.objects.order_by("-updated_at", "pubkey")
    if state != ALL:
        federations = federations.filter(state=state or State.MEMBER)
    if pubkey:
        federations = federations.filter(pubkey=pubkey)
    now = timezone.now()
    return [_shown(federation, now) for federation in federations[:limit]]


def _shown(federation: Federation, now: datetime) -> dict[str, Any]:
    return {
        "pubkey": federation.pubkey,
        "imp_id": federation.imp_id,
        "state": State(federation.state).value,
        "since": _rfc3339(federation.since),
        "expires_at": _rfc3339(federation.expires_at),
        "seconds_left": seconds_left(federation, now),
        "cause": federation.cause,
        "updated_at": _rfc3339(federation.updated_at),
    }


def seconds_left(federation: Federation, now: datetime) -> int:
    """Of a member; 0 for all others."""
    if federation.state != State.MEMBER:
        return 0
    return max(0, int((required(federation.expires_at) - now).total_seconds()))


def _rfc3339(moment: datetime | None) -> str:
    return rfc3339_seconds(moment) if moment else ""
