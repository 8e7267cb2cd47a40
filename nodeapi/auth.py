"""Who calls, and what they may: API keys and scopes, the same for REST, gRPC and the stream; Host and Origin of the web."""

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from urllib.parse import urlsplit

import grpc
from django.utils import timezone

from messaging import metrics
from messaging.database import Database
from messaging.required import required
from nodeapi.addresses import FORWARDED_FOR, client_address, hops_of, ip_of
from nodeapi.errors import ApiError
from nodeapi.keys import StoredKeys, hash_of, read_keys
from nodeapi.rates import Rates

logger = logging.getLogger("nodeapi.auth")
audit_logger = logging.getLogger("audit")

REMEMBERED_HOSTS = 256
ALL_SCOPES = frozenset({"read", "send", "pay", "admin"})
# How soon a key that was made, changed or revoked elsewhere is known here.
LOOK_SECONDS = 1.0
_NEEDED = "an API key is needed: Authorization: Bearer KEY (or X-API-KEY)"


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Headers or gRPC metadata (names in lower case); the client's address, and the one of this node that it came to
    (empty: not known).
    """

    metadata: Mapping[str, str]
    address: str = ""
    at: str = ""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whoever passed the door. `name` is the key's name, empty where no key is needed; `hash` the key's SHA-256."""

    name: str
    scopes: frozenset[str]
    hash: bytes = b""
    expires_at: datetime | None = None
    budget_sat: int | None = None
    calls_per_minute: int | None = None

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()


NOBODY = Caller(name="", scopes=ALL_SCOPES)


@dataclass
class _Watched:
    caller: Caller
    ended: set[asyncio.Future] = field(default_factory=set)


class Keys:
    """The API keys of this node: those of the configuration, and those in the database, which are looked at every second.

    Where there never was a key, whoever comes over loopback may do everything (`open_on_loopback`: the node listens
    nowhere else), but nobody whom a proxy brings from elsewhere. As soon as there is one, even one that was revoked,
    nobody passes without. `run` until cancelled, after `load`.
    """

    def __init__(
        self,
        configured: Iterable[Caller],
        *,
        database: Database | None,
        open_on_loopback: bool,
        tells: bool,
    ):
        self._configured = {caller.hash: caller for caller in configured}
        self._names = {caller.name for caller in self._configured.values()}
        self._database = database
        self._open_on_loopback = open_on_loopback
        self._tells = tells
        self._stored = StoredKeys(keys=(), any_ever=True)
        self._callers = dict(self._configured)
        self._watched: dict[bytes, _Watched] = {}
        self.rates = Rates()

    def configure(self, configured: Iterable[Caller]) -> None:
        """These instead of the ones that the configuration had before; streams of those that are gone end."""
        self._configured = {caller.hash: caller for caller in configured}
        self._names = {caller.name for caller in self._configured.values()}
        self._take(self._stored, first=True)
        self._end_streams()

    async def load(self) -> None:
        """Before the first call. Raises django.db.Error."""
        self._take(await required(self._database).read(read_keys), first=True)

    def go_without_stored(self) -> None:
        """As if the database had none, for what is no secret."""
        self._take(StoredKeys(keys=(), any_ever=False), first=True)

    async def run(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self._take(await required(self._database).read(read_keys))
                failing = False
            except Exception as error:
                if not failing:
                    logger.warning(
                        "the API keys could not be read (%s); those of before hold meanwhile", error
                    )
                failing = True
            self._end_streams()

    @property
    def is_open(self) -> bool:
        return self._open_on_loopback and not self._configured and not self._stored.any_ever

    def authenticate(self, visit: Visit) -> Caller:
        """ApiError UNAUTHENTICATED."""
        if self.is_open and may_be_of_this_machine(visit):
            return NOBODY
        offered = offered_key(visit.metadata)
        if not offered:
            raise _unauthenticated(_NEEDED, metrics.NO_KEY)
        key_hash = hash_of(offered)
        caller = self._callers.get(key_hash)
        if caller is None:
            raise self._unknown(key_hash)
        if caller.has_expired:
            raise _unauthenticated(_expired(caller), metrics.EXPIRED, caller.name)
        metrics.KEY_CALLS.labels(caller.name).inc()
        return caller

    def _unknown(self, key_hash: bytes) -> ApiError:
        name = self._stored.revoked.get(key_hash)
        if name is None:
            return _unauthenticated("the API key is not known", metrics.UNKNOWN)
        return _unauthenticated(f"the API key {name!r} was revoked", metrics.REVOKED, name)

    def admit(self, visit: Visit, scope: str) -> Caller:
        """As `authenticate`; the call counts. ApiError RESOURCE_EXHAUSTED and PERMISSION_DENIED too."""
        caller = self.authenticate(visit)
        self.require(caller, scope)
        return caller

    def require(self, caller: Caller, scope: str) -> None:
        if caller.calls_per_minute is not None:
            self._count(caller.name, caller.calls_per_minute)
        if scope not in caller.scopes:
            metrics.KEY_REFUSALS.labels(caller.name, metrics.SCOPE).inc()
            raise ApiError(
                grpc.StatusCode.PERMISSION_DENIED, f"the API key {caller.name!r} lacks the scope {scope!r}"
            )

    def _count(self, name: str, per_minute: int) -> None:
        try:
            self.rates.count(name, per_minute)
        except ApiError:
            metrics.KEY_REFUSALS.labels(name, metrics.RATE).inc()
            raise

    @property
    def callers(self) -> list[Caller]:
        """With keys that are not revoked."""
        return list(self._callers.values())

    def watch(self, caller: Caller, end: Callable[[ApiError], None]) -> Callable[[], None]:
        """Calls `end` once, when this caller would not be let in again, to a stream that is open. Answers what ends the
        watch.
        """
        ended = asyncio.get_running_loop().create_future()
        ended.add_done_callback(lambda future: None if future.cancelled() else end(future.result()))
        watched = self._watched.setdefault(caller.hash, _Watched(caller))
        watched.ended.add(ended)

        def forget() -> None:
            ended.cancel()
            watched.ended.discard(ended)
            if not watched.ended and self._watched.get(caller.hash) is watched:
                del self._watched[caller.hash]

        return forget

    def end_all_streams(self, error: ApiError) -> None:
        for key_hash in list(self._watched):
            self._end_watched(key_hash, error)

    def _end_streams(self) -> None:
        for key_hash, watched in list(self._watched.items()):
            if error := self._reason_to_end(watched.caller):
                self._end_watched(key_hash, error)

    def _end_watched(self, key_hash: bytes, error: ApiError) -> None:
        for ended in self._watched.pop(key_hash).ended:
            if not ended.done():
                ended.set_result(error)

    def _reason_to_end(self, caller: Caller) -> ApiError | None:
        if not caller.hash:
            return (
                None if self.is_open else ApiError(grpc.StatusCode.UNAUTHENTICATED, f"{_NEEDED}, from now on")
            )
        now = self._callers.get(caller.hash)
        if now is None:
            return ApiError(grpc.StatusCode.UNAUTHENTICATED, f"the API key {caller.name!r} was revoked")
        if now.has_expired:
            return ApiError(grpc.StatusCode.UNAUTHENTICATED, _expired(now))
        lost = caller.scopes - now.scopes
        return (
            ApiError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the API key {caller.name!r} has lost the scope {min(lost)!r}",
            )
            if lost
            else None
        )

    def _take(self, stored: StoredKeys, *, first: bool = False) -> None:
        if stored == self._stored and not first:
            self._stored = stored
            return
        before, self._stored = self._stored, stored
        self._callers = {
            **{key.hash: _caller(key) for key in stored.keys if key.name not in self._names},
            **self._configured,
        }
        metrics.begin_keys(caller.name for caller in self._callers.values())
        for name in sorted(self._names & {key.name for key in stored.keys}):
            logger.warning(
                "the API key %r in the database has the name of one in server.api_keys, and is not valid",
                name,
            )
        if self._tells and not first:
            self._tell(before, stored)

    def _tell(self, before: StoredKeys, now: StoredKeys) -> None:
        was, is_now = ({key.hash: key for key in stored.keys} for stored in (before, now))
        for key_hash in was.keys() | is_now.keys():
            old, new = was.get(key_hash), is_now.get(key_hash)
            if old != new:
                change = "made" if old is None else "revoked" if new is None else "changed"
                name = next(key.name for key in (new, old) if key)
                audit_logger.info("API key", extra={"key": name, "change": change})


def _caller(key) -> Caller:
    return Caller(
        name=key.name,
        scopes=frozenset(key.scopes),
        hash=key.hash,
        expires_at=key.expires_at,
        budget_sat=key.budget_sat,
        calls_per_minute=key.calls_per_minute,
    )


def _unauthenticated(text: str, cause: str, name: str = "") -> ApiError:
    """What is refused, counted. `name` is the key's, where it is known."""
    metrics.KEY_REFUSALS.labels(name, cause).inc()
    return ApiError(grpc.StatusCode.UNAUTHENTICATED, text)


def _expired(caller: Caller) -> str:
    return f"the API key {caller.name!r} expired at {caller.expires_at:%Y-%m-%d %H:%M:%S} UTC"


def may_be_of_this_machine(visit: Visit) -> bool:
    """Of whoever comes without a key: neither the address that was called, nor the client's, nor one that a proxy tells is
    of elsewhere. What is no IP address is a socket of this machine's own.
    """
    told = hops_of(visit.metadata.get(FORWARDED_FOR, ""))
    found = [ip for text in (visit.at, visit.address, *told) if (ip := ip_of(text))]
    return all(ip.is_loopback for ip in found)


def offered_key(metadata: Mapping[str, str]) -> str:
    """The API key that comes with a call, valid or not; empty without one."""
    scheme, _, key = metadata.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    return metadata.get("grpc-metadata-x-api-key") or metadata.get("x-api-key") or ""


class WebGuard:
    """The Host and Origin checks: without them a web page could spend the node's money (bodies are read whatever their
    Content-Type), directly or by DNS rebinding.
    """

    def __init__(
        self, *, allowed_hosts: Iterable[str], allowed_origins: Iterable[str], bound_hosts: Iterable[str]
    ):
        self._hosts = {host.lower() for host in (*allowed_hosts, *bound_hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in allowed_origins}

    def check(self, headers: Mapping[str, str]) -> None:
        """ApiError PERMISSION_DENIED for a Host or an Origin that is not allowed."""
        host = _host_name(headers.get("host", ""))
        if not (host in self._hosts or _is_loopback(host)):
            raise ApiError(
                grpc.StatusCode.PERMISSION_DENIED, "the Host header is not in server.allowed_hosts"
            )
        if "origin" in headers and not self.allowed_origin(headers):
            raise ApiError(grpc.StatusCode.PERMISSION_DENIED, "the Origin is not in server.allowed_origins")

    def allowed_origin(self, headers: Mapping[str, str]) -> str:
        """The Origin that a page gives; empty where there is none, or one that is not allowed."""
        origin = headers.get("origin", "")
        return origin if origin and self.origin_allowed(origin) else ""

    def origin_allowed(self, origin: str) -> bool:
        origin = origin.lower().rstrip("/")
        if origin in self._origins:
            return True
        try:
            parts = urlsplit(origin)
            return parts.scheme in ("http", "https") and _is_loopback(parts.hostname or "")
        except ValueError:
            return False


@lru_cache(REMEMBERED_HOSTS)
def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


@lru_cache(REMEMBERED_HOSTS)
def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def headers_of(scope) -> dict[str, str]:
    """Header names in lower case. Of a repeated header the first counts, but all that proxies tell, and a Host or Origin
    given twice is none.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        if name in headers and name in ("host", "origin"):
            headers[name] = "given twice"
        else:
            join(headers, name, raw_value.decode("latin-1"))
    return headers


def join(metadata: dict[str, str], name: str, value: str) -> None:
    """Of a name that comes again the first value counts; some proxies tell a client's address in a line of their own."""
    if name == FORWARDED_FOR and name in metadata:
        metadata[name] += f",{value}"
    else:
        metadata.setdefault(name, value)


def visit_of(scope, headers: Mapping[str, str]) -> Visit:
    """Of an ASGI scope with these headers."""
    return Visit(metadata=headers, address=client_address(scope), at=str((scope.get("server") or ("",))[0]))
