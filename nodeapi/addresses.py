"""Who is at the other end: the client's address and scheme, told by a proxy where the peer is one that is trusted."""

import ipaddress
import urllib.parse
from collections.abc import Iterable
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

FORWARDED_FOR, FORWARDED_PROTO = "x-forwarded-for", "x-forwarded-proto"
IPV6_SITE_BITS = 64
_WEBSOCKET_SCHEMES = {"http": "ws", "https": "wss"}
_trusted: tuple[Network, ...] = ()


def trust(networks: Iterable[Network]) -> None:
    """From now on, what peers of these networks say of their clients is believed (server.trusted_proxies)."""
    global _trusted  # noqa: PLW0603 (set once, before anything is served)
    _trusted = tuple(networks)


def client_address(source: Any) -> str:
    """The IP address of the client of an ASGI scope or of a gRPC servicer's context; empty for what is no TCP
    connection.
    """
    if isinstance(source, dict):
        peer = (source.get("client") or ("",))[0]
        told = [
            value.decode("latin-1")
            for name, value in source["headers"]
            if name.lower() == FORWARDED_FOR.encode()
        ]
    else:
        peer = _grpc_peer(source.peer())
        told = [value for name, value in source.invocation_metadata() or () if name == FORWARDED_FOR]
    ip = ip_of(peer)
    return _before_proxies(ip, ",".join(told)) if ip else ""


def client_scheme(scope: dict) -> str:
    """http or https (of a websocket: ws or wss): what the client speaks, whatever its proxy does."""
    scheme = scope.get("scheme") or "ws"
    ip = ip_of((scope.get("client") or ("",))[0])
    if ip is None or not is_trusted(ip):
        return scheme
    told = [value for name, value in scope["headers"] if name.lower() == FORWARDED_PROTO.encode()]
    word = told[-1].decode("latin-1").rpartition(",")[2].strip().lower() if told else ""
    if word not in _WEBSOCKET_SCHEMES:
        return scheme
    return word if scope["type"] == "http" else _WEBSOCKET_SCHEMES[word]


def is_trusted(ip: IpAddress) -> bool:
    return any(ip in network for network in _trusted)


def _before_proxies(peer: IpAddress, forwarded_for: str) -> str:
    """The nearest address that is not of a trusted proxy: what stands left of it may be anybody's invention."""
    nearest = peer
    for hop in reversed(hops_of(forwarded_for)):
        if not is_trusted(nearest):
            break
        ip = ip_of(hop)
        if ip is None:
            break
        nearest = ip
    return str(nearest)


def hops_of(forwarded_for: str) -> list[str]:
    """What X-Forwarded-For lists, without ports; anything may stand there."""
    return [_without_port(hop.strip()) for hop in forwarded_for.split(",")]


def _without_port(hop: str) -> str:
    """Some proxies add the port: 203.0.113.5:4711, [2001:db8::1]:4711."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def ip_of(text: str) -> IpAddress | None:
    """An IPv4 address that is written as IPv6 is the IPv4 one; None for what is no address, such as a socket's path."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def site_of(host: str) -> str:
    """What counts as one place: an IPv4 address, or what one site of IPv6 has at the least; empty for what is no address."""
    ip = ip_of(host)
    if ip is None or ip.version == 4:
        return str(ip or "")
    return str(ipaddress.ip_network((ip, IPV6_SITE_BITS), strict=False))


def sources_of(context: Any) -> tuple[str, str]:
    """Who counts as one client of gRPC: a place, and within it a connection."""
    return site_of(client_address(context)), context.peer()


def _grpc_peer(peer: str) -> str:
    """Of ipv4:127.0.0.1:4711 and ipv6:%5B::1%5D:4711 the address."""
    kind, _, rest = urllib.parse.unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""


class ClientsOfProxies:
    """An ASGI application in front of others: tells them the client and the scheme, not those of a trusted proxy."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope, receive, send) -> None:
        address, peer = client_address(scope), scope.get("client")
        if peer and address and address != peer[0]:
            # The port of the client's connection to its proxy is not told. The headers have been heeded.
            scope = {
                **scope,
                "client": [address, 0],
                "scheme": client_scheme(scope),
                "headers": _without_told(scope),
            }
        elif peer and address:
            scope = {**scope, "scheme": client_scheme(scope)}
        await self._application(scope, receive, send)


def _without_told(scope) -> list[tuple[bytes, bytes]]:
    told = {FORWARDED_FOR.encode(), FORWARDED_PROTO.encode()}
    return [header for header in scope["headers"] if header[0].lower() not in told]
