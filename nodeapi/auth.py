"""Who calls, and what they may: API keys and scopes, the same for REST, gRPC and the stream; Host and Origin of the web."""

import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import grpc

from nodeapi.errors import ApiError

REMEMBERED_HOSTS = 256
ALL_SCOPES = frozenset({"read", "send", "pay", "admin"})


@dataclass(frozen=True)
class Caller:
    """Whoever passed the door. `name` is the key's name, empty where no key is needed."""

    name: str
    scopes: frozenset[str]


@dataclass(frozen=True, repr=False)
class Key:
    name: str
    secret: str
    scopes: frozenset[str]


class Keys:
    """The API keys of this node. Without any, whoever reaches the (loopback only) doors may do everything."""

    def __init__(self, keys: Iterable[Key]):
        self._keys = tuple(keys)

    def authenticate(self, metadata: Mapping[str, str]) -> Caller:
        """The caller with these headers or gRPC metadata (names in lower case). ApiError UNAUTHENTICATED."""
        if not self._keys:
            return Caller("", ALL_SCOPES)
        offered = _offered(metadata)
        if not offered:
            raise ApiError(
                grpc.StatusCode.UNAUTHENTICATED, "an API key is needed: Authorization: Bearer KEY (or X-API-KEY)"
            )
        # Every key is compared, in constant time, so that the answer's time tells nothing.
        matching = [key for key in self._keys if hmac.compare_digest(key.secret.encode(), offered.encode())]
        if not matching:
            raise ApiError(grpc.StatusCode.UNAUTHENTICATED, "the API key is not known")
        return Caller(matching[0].name, matching[0].scopes)


def require(caller: Caller, scope: str) -> None:
    if scope not in caller.scopes:
        raise ApiError(grpc.StatusCode.PERMISSION_DENIED, f"the API key {caller.name!r} lacks the scope {scope!r}")


def _offered(metadata: Mapping[str, str]) -> str:
    scheme, _, key = metadata.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    return metadata.get("grpc-metadata-x-api-key") or metadata.get("x-api-key") or ""


class WebGuard:
    """The Host and Origin checks: without them a web page could spend the node's money (bodies are read whatever their
    Content-Type), directly or by DNS rebinding."""

    def __init__(self, *, allowed_hosts: Iterable[str], allowed_origins: Iterable[str], bound_hosts: Iterable[str]):
        self._hosts = {host.lower() for host in (*allowed_hosts, *bound_hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in allowed_origins}

    def check(self, headers: Mapping[str, str]) -> None:
        """ApiError PERMISSION_DENIED for a Host or an Origin that is not allowed."""
        host = _host_name(headers.get("host", ""))
        if not (host in self._hosts or _is_loopback(host)):
            raise ApiError(grpc.StatusCode.PERMISSION_DENIED, "the Host header is not in server.allowed_hosts")
        if "origin" in headers and not self.origin_allowed(headers["origin"]):
            raise ApiError(grpc.StatusCode.PERMISSION_DENIED, "the Origin is not in server.allowed_origins")

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
    """Header names in lower case. Of a repeated header the first counts, and a Host or Origin given twice is none."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        if name in headers and name in ("host", "origin"):
            headers[name] = "given twice"
        else:
            headers.setdefault(name, raw_value.decode("latin-1"))
    return headers
