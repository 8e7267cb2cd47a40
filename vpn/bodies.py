"""The bodies of vpn messages: JSON objects with `type`. Pure; every byte that is read comes from strangers.

Prices are whole sat as decimal text, times RFC 3339 in UTC. What a seller tells of a tunnel is read by vpn/wgquick.py.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from messaging.json_bodies import Unreadable, is_plain, is_whole, load
from messaging.times import rfc3339_seconds

QUOTE_REQUEST, QUOTE, CONTRACT, INVOICE, LEASE = "quote_request", "quote", "contract", "invoice", "lease"
LEASE_REQUEST, REFRESH, REFUSAL, EXPIRING, ENDED = "lease_request", "refresh", "refusal", "expiring", "ended"

MAX_BODY_BYTES = 65_536
MAX_NONCE_CHARACTERS = 64
MAX_PRICE_CHARACTERS = 16
MAX_KEY_CHARACTERS = 64
MAX_REASON_CHARACTERS = 40
MAX_TEXT_CHARACTERS = 300
MAX_INVOICE_CHARACTERS = 7_089
MAX_LIST_CHARACTERS = 16_384
MAX_DNS_CHARACTERS = 400

_NONCE = re.compile(r"[0-9A-Za-z_-]+", re.ASCII)
_REASON = re.compile(r"[a-z0-9_]+", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)


def encode(type: str, **fields: Any) -> bytes:
    """Moments become text, UUIDs and numbers stay what they are in JSON."""
    return orjson.dumps(
        {"type": type}
        | {name: rfc3339_seconds(v) if isinstance(v, datetime) else v for name, v in fields.items()}
    )


def decode(raw: bytes) -> dict[str, Any]:
    """`type`, and the fields of that type, each of its Python type. Raises Unreadable and nothing else. Unknown keys
    are passed over.
    """
    data = load(raw, max_bytes=MAX_BODY_BYTES, types=_FIELDS)
    read = {"type": data["type"]}
    for name, take in _FIELDS[data["type"]].items():
        try:
            read[name] = take(data.get(name))
        except ValueError:
            raise Unreadable(f"bad_{name}") from None
    return read


Take = Callable[[Any], Any]


def _text(max_characters: int, pattern: re.Pattern[str] | None = None, *, optional: bool = False) -> Take:
    """Without control characters, and without those that change the direction of what follows."""

    def take(value: Any) -> str:
        if value is None and optional:
            return ""
        if not isinstance(value, str) or not is_plain(value, max_characters):
            raise ValueError
        if pattern and not pattern.fullmatch(value):
            raise ValueError
        return value

    return take


def _whole(low: int, *, optional: bool = False) -> Take:
    def take(value: Any) -> int | None:
        if value is None and optional:
            return None
        if not is_whole(value, low):
            raise ValueError
        return value

    return take


def _price(value: Any) -> str:
    """Some write it as a number. Whether it is one that is accepted is for the reader to say."""
    if is_whole(value, 0):
        return str(value)
    return str(_text(MAX_PRICE_CHARACTERS)(value))


def _time(value: Any) -> datetime:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError
    return datetime.fromisoformat(value)


def _uuid(value: Any) -> UUID:
    if not isinstance(value, str) or len(value) != 36:
        raise ValueError
    return UUID(value)


_NONCE_FIELD = _text(MAX_NONCE_CHARACTERS, _NONCE)
_ASKED = {"nonce": _NONCE_FIELD, "price": _price, "pubkey": _text(MAX_KEY_CHARACTERS)}
_END: dict[str, Take] = {"id": _uuid, "expires_at": _time}
_FIELDS: dict[str, dict[str, Take]] = {
    QUOTE_REQUEST: {},
    QUOTE: {
        "nonce": _NONCE_FIELD,
        "price": _price,
        "min_price": _price,
        "max_price": _price,
        "expires_at": _time,
    },
    CONTRACT: _ASKED,
    REFRESH: _ASKED,
    # `seconds`, which older nodes do not tell: what the price buys.
    INVOICE: {"payment_request": _text(MAX_INVOICE_CHARACTERS), "seconds": _whole(1, optional=True)},
    LEASE: {
        "id": _uuid,
        "address": _text(100),
        "endpoint": _text(60),
        "server_pub_key": _text(MAX_KEY_CHARACTERS),
        "dns": _text(MAX_DNS_CHARACTERS, optional=True),
        # Those after the first, which is all that older nodes know.
        "further_dns": _text(MAX_DNS_CHARACTERS, optional=True),
        "allowed_ips": _text(MAX_LIST_CHARACTERS),
        "keepalive": _whole(0),
        "expires_at": _time,
        "seconds": _whole(1),
        "payment_hash": _text(64, _HASH),
    },
    LEASE_REQUEST: {"id": _uuid},
    REFUSAL: {
        "reason": _text(MAX_REASON_CHARACTERS, _REASON),
        "text": _text(MAX_TEXT_CHARACTERS, optional=True),
    },
    EXPIRING: _END,
    ENDED: _END,
}
PEERING = ("address", "endpoint", "server_pub_key", "dns", "further_dns", "allowed_ips", "keepalive")
