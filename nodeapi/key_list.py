"""What the operator is shown of API keys, and what they may say of a key's end."""

import re
from datetime import UTC, datetime, timedelta

from lightning import keysend
from messaging.budget import WINDOW
from nodeapi import spending
from nodeapi.keys import SCOPES, KeyProblem, state_of
from nodeapi.models import ApiKey

HEADINGS = ["name", "scopes", "spent_24h", "budget_sat", "calls_per_minute", "expires", "state", "from"]
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def key_rows(config, now: datetime) -> list[dict]:
    """All keys with what is spent of their budgets, for people and programs; the configuration's first."""

    def row(name, scopes, budget_sat, calls_per_minute, expires_at, state, source) -> dict:
        return {
            "name": name,
            "scopes": ",".join(scope for scope in SCOPES if scope in scopes),
            "spent_24h": f"{spent_msat(config, name, now) / 1000:g}",
            "budget_sat": "–" if budget_sat is None else str(budget_sat),
            "calls_per_minute": "–" if calls_per_minute is None else str(calls_per_minute),
            "expires": f"{expires_at.astimezone(UTC):%Y-%m-%d %H:%M}" if expires_at else "never",
            "state": state,
            "from": source,
        }

    configured = [
        row(key.name, key.scopes, key.budget_sat, key.calls_per_minute, None, "valid", "configuration")
        for key in config.server.api_keys
    ]
    names = {shown["name"] for shown in configured}
    stored = [
        row(
            key.name,
            key.scopes,
            key.budget_sat,
            key.calls_per_minute,
            key.expires_at,
            "name taken" if key.name in names and key.revoked_at is None else state_of(key, now),
            "database",
        )
        for key in ApiKey.objects.order_by("revoked_at", "pk")
    ]
    return configured + stored


def spent_msat(config, name: str, now: datetime) -> int:
    """With this key in the last 24 hours, with what is under way and its fees."""

    def fee_limit_msat(amount_msat: int) -> int:
        limits = config.lightning
        return keysend.fee_limit_msat(
            amount_msat=amount_msat, max_fee_sat=limits.max_fee_sat, max_fee_percent=limits.max_fee_percent
        )

    return spending.spent_by(name, fee_limit_msat, now - WINDOW)


def parse_expiry(text: str, now: datetime) -> datetime:
    """A time from now (90d, 12h), a day (its beginning) or a moment, in UTC unless it says otherwise. Raises KeyProblem."""
    if span := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        return now + timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise KeyProblem(
            "expires", f"{text!r} is no time; must be such as 90d, 12h, 2027-12-31 or 2027-12-31T18:00"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
