"""The events by which the stream tells of the federation's steps.

All that belongs to one request bears the id of that request, at both nodes; a leave bears its own.
"""

from uuid import UUID

import orjson

from federation import bodies
from federation.models import Federation
from federation.settings import SERVICE
from federation.states import State
from messaging.models import Event, Message

EXPIRED = "expired"


def step_event(
    type: str, federation: Federation, message_id: UUID, *, received: Message | None = None, reason: str = ""
) -> Event:
    """`received` is the message by which the other node took the step; without it, this node did."""
    asks = type in (bodies.REQUEST, bodies.REFUSE)
    shows_end = federation.state == State.MEMBER or not asks
    expires_at = federation.expires_at if shows_end else None
    data = {
        "type": type,
        "pubkey": federation.pubkey,
        "imp_id": federation.imp_id,
        "expires_at": int(expires_at.timestamp()) if expires_at else 0,
        "reason": reason,
    }
    return Event(
        message_id=message_id,
        reply_to=received.reply_to if received else None,
        from_pubkey=received.pubkey if received else "",
        data=orjson.dumps(data),
        service_type=SERVICE,
        amount_sat=received.amount_msat // 1000 if received else 0,
    )
