"""The bodies of federate messages: JSON objects. Pure; every byte that is read comes from strangers.

`ttl` is in seconds, `expires_at` in seconds since 1970 (UTC), both whole numbers. `round` is counted up by every accept:
of two accepts that cross, both nodes hold the one of the higher round or, in the same round, of the greater key; a leave
ends what was agreed up to its round. Nodes that do not tell it are taken to have seen everything.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from messaging.json_bodies import MAX_NUMBER, Unreadable, is_plain, is_whole, load

REQUEST, ACCEPT, REFUSE, LEAVE = "request", "accept", "refuse", "leave"
TYPES = (REQUEST, ACCEPT, REFUSE, LEAVE)

MAX_BODY_BYTES = 4_096
MAX_IMP_ID_CHARACTERS = 128
MAX_REASON_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class Body:
    """None: was not told."""

    type: str
    imp_id: str = ""
    ttl: int | None = None
    expires_at: int | None = None
    round: int | None = None
    reason: str = ""


# The longest that a node of our own makes, before it is known what the transaction will put into it.
LONGEST_ROUND = MAX_NUMBER


def encode(body: Body) -> bytes:
    told = {name: getattr(body, name) for name in Body.__dataclass_fields__}
    return orjson.dumps(
        {name: value for name, value in told.items() if value not in (None, "") or name == "imp_id"}
    )


def decode(raw: bytes) -> Body:
    """Raises Unreadable and nothing else. Unknown keys are passed over."""
    data = load(raw, max_bytes=MAX_BODY_BYTES, types=TYPES)
    body = Body(
        type=data["type"],
        imp_id=_text(data, "imp_id", MAX_IMP_ID_CHARACTERS),
        ttl=_number(data, "ttl", 1),
        expires_at=_number(data, "expires_at", 1),
        round=_number(data, "round", 0),
        reason=_text(data, "reason", MAX_REASON_CHARACTERS),
    )
    if body.type == REQUEST and body.ttl is None:
        raise Unreadable("no_ttl")
    if body.type == ACCEPT and body.expires_at is None:
        raise Unreadable("no_expires_at")
    return body


def _text(data: dict[str, Any], name: str, max_characters: int) -> str:
    value = data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not is_plain(value, max_characters):
        raise Unreadable(f"bad_{name}")
    return value


def _number(data: dict[str, Any], name: str, low: int) -> int | None:
    value = data.get(name)
    if value is None:
        return None
    if not is_whole(value, low):
        raise Unreadable(f"bad_{name}")
    return value
