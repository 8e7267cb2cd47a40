"""API keys in the database: made, listed, changed, revoked. The key itself is told once, to who makes it; its hash is kept.

Running processes look at the table every second (nodeapi/auth.py).
"""

import hashlib
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from django.db import IntegrityError, transaction
from django.utils import timezone

from nodeapi.errors import StartError
from nodeapi.models import ApiKey
from nodeapi.operators import Actor, note
from nodeapi.rates import MAX_CALLS_PER_MINUTE

SCOPES = {
    "read": "the history, the node, the stream, and looking things up",
    "send": "sending messages, signing, making invoices, federation, the relay",
    "pay": "paying invoices, buying VPN leases",
    "admin": "giving up messages whose payments lnd does not end",
}
PREFIX = "impd_"
RANDOM_BYTES = 32
MAX_NAME_CHARACTERS = 64
MAX_BUDGET_SAT = 21_000_000 * 100_000_000


class KeyProblem(Exception):
    """`field` is what is wrong, `str()` how."""

    def __init__(self, field: str, text: str):
        super().__init__(text)
        self.field = field


def hash_of(key: str) -> bytes:
    """Keys are random enough for a hash without salt. They are looked up by it, so that no comparison's time tells
    anything of a key.
    """
    return hashlib.sha256(key.encode()).digest()


@dataclass(frozen=True, kw_only=True)
class StoredKey:
    name: str
    hash: bytes
    scopes: tuple[str, ...]
    budget_sat: int | None
    calls_per_minute: int | None
    expires_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class StoredKeys:
    """Those that are not revoked; whether there is any at all, revoked ones too; of those the names, by their hashes."""

    keys: tuple[StoredKey, ...]
    any_ever: bool
    # Those that are revoked are missing among the others too, so that they need not be compared.
    revoked: Mapping[bytes, str] = field(default_factory=dict, compare=False)

    def valid(self, now: datetime) -> tuple[StoredKey, ...]:
        return tuple(key for key in self.keys if key.expires_at is None or key.expires_at > now)


def read_keys() -> StoredKeys:
    keys = tuple(
        StoredKey(
            name=key.name,
            hash=bytes(key.hash),
            scopes=tuple(key.scopes),
            budget_sat=key.budget_sat,
            calls_per_minute=key.calls_per_minute,
            expires_at=key.expires_at,
        )
        for key in ApiKey.objects.filter(revoked_at=None).order_by("pk")
    )
    gone = ApiKey.objects.exclude(revoked_at=None).order_by("pk").values_list("hash", "name")
    revoked = {bytes(key_hash): name for key_hash, name in gone}
    return StoredKeys(keys=keys, any_ever=bool(keys) or bool(revoked), revoked=revoked)


NO_VALID_KEY = "no API key is valid: every call is refused (./impervious keys make)"


def require_credentials(config, stored: StoredKeys | None = None) -> str:
    """Check what a node that listens beyond loopback needs: StartError when no API key was ever made.

    Returns a warning when none is valid any more, else nothing.

    Args:
        config: The node's configuration.
        stored: The keys in the database, if they have been read already.
    """
    exposed = config.server.exposed
    if not exposed or config.server.api_keys:
        return ""
    stored = stored or read_keys()
    if not stored.any_ever:
        raise StartError("\n".join(f"server.{name}: {text}" for name, text in exposed.items()))
    return "" if stored.valid(timezone.now()) else NO_VALID_KEY


def key_make(
    *,
    name: str,
    scopes: Collection[str],
    expires_at: datetime | None = None,
    budget_sat: int | None = None,
    calls_per_minute: int | None = None,
    taken: Iterable[str] = (),
    by: Actor,
) -> tuple[ApiKey, str]:
    """A new key, and its row. `taken` are the names in the configuration. Raises KeyProblem."""
    check_name(name, taken)
    key = ApiKey(name=name)
    secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    key.hash = hash_of(secret)
    set_limits(
        key, scopes=scopes, expires_at=expires_at, budget_sat=budget_sat, calls_per_minute=calls_per_minute
    )
    try:
        with transaction.atomic():
            key.save(force_insert=True)
            _note("keys make", key, by, detail=limits_of(key))
    except IntegrityError:
        raise KeyProblem(
            "name", f"{name!r} is the name of another key; revoke that first, or take another name"
        ) from None
    return key, secret


def key_change(
    key: ApiKey,
    *,
    scopes: Collection[str],
    expires_at: datetime | None,
    budget_sat: int | None,
    calls_per_minute: int | None,
    by: Actor,
) -> None:
    """Raises KeyProblem."""
    set_limits(
        key, scopes=scopes, expires_at=expires_at, budget_sat=budget_sat, calls_per_minute=calls_per_minute
    )
    with transaction.atomic():
        key.save(update_fields=["scopes", "expires_at", "budget_sat", "calls_per_minute"])
        _note("keys change", key, by, detail=limits_of(key))


def set_limits(
    key: ApiKey,
    *,
    scopes: Collection[str],
    expires_at: datetime | None,
    budget_sat: int | None,
    calls_per_minute: int | None,
) -> None:
    """Not stored. Raises KeyProblem."""
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        what = f"{unknown[0]!r} is no scope" if unknown else "is empty"
        raise KeyProblem("scopes", f"{what}; must be a list out of {', '.join(SCOPES)}")
    if expires_at is not None and expires_at <= timezone.now():
        raise KeyProblem("expires", "is in the past")
    _check_whole("budget-sat", budget_sat, 0, MAX_BUDGET_SAT)
    _check_whole("calls-per-minute", calls_per_minute, 1, MAX_CALLS_PER_MINUTE)
    key.scopes = [scope for scope in SCOPES if scope in scopes]
    key.expires_at, key.budget_sat, key.calls_per_minute = expires_at, budget_sat, calls_per_minute


def key_revoke(name: str, *, by: Actor) -> None:
    """For good. Raises KeyProblem."""
    with transaction.atomic():
        key = ApiKey.objects.filter(name=name, revoked_at=None).first()
        if key is None:
            raise KeyProblem(
                "name",
                f"no key {name!r} is there to be revoked; those of the configuration are removed there",
            )
        key.revoked_at = timezone.now()
        key.save(update_fields=["revoked_at"])
        _note("keys revoke", key, by)


def keys_forget(*, by: Actor) -> int:
    """Deletes revoked and expired keys; how many. Where none is left, nor in the configuration, a node that listens on
    loopback only is open again.
    """
    now = timezone.now()
    with transaction.atomic():
        gone = [key for key in ApiKey.objects.all() if state_of(key, now) != "valid"]
        for key in gone:
            _note("keys forget", key, by)
            key.delete()
    return len(gone)


def state_of(key: ApiKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "valid"


def limits_of(key: ApiKey) -> str:
    """What a key may, in words."""
    budget = f", {key.budget_sat} sat in 24 h" if key.budget_sat is not None else ""
    rate = f", {key.calls_per_minute} calls a minute" if key.calls_per_minute is not None else ""
    until = f", until {key.expires_at:%Y-%m-%d %H:%M:%S} UTC" if key.expires_at else ""
    return f"{' '.join(key.scopes)}{budget}{rate}{until}"


def check_name(name: str, taken: Iterable[str]) -> None:
    """Raises KeyProblem."""
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isprintable() or name != name.strip():
        raise KeyProblem("name", f"must be 1 to {MAX_NAME_CHARACTERS} printable characters")
    if name in taken:
        raise KeyProblem("name", f"{name!r} is the name of a key in server.api_keys; take another")
    if ApiKey.objects.filter(name=name, revoked_at=None).exists():
        raise KeyProblem(
            "name", f"{name!r} is the name of another key; revoke that first, or take another name"
        )


def _check_whole(field: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise KeyProblem(field, f"must be {low} to {high}")


def _note(operation: str, key: ApiKey, by: Actor, *, detail: str = "") -> None:
    note(operation, by, detail=f"key {key.name!r}" + (f": {detail}" if detail else ""))
