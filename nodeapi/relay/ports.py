"""The relay's two UDP ports: which, and on what addresses they listen."""

import socket
from ipaddress import ip_address

# As much as the system lets it have: a burst waits here while the pump's process is not on a processor.
SOCKET_BUFFER_BYTES = 4 * 2**20

Pair = tuple[socket.socket, socket.socket]


class NoPorts(Exception):
    """Two ports could not be had; `str()` says why and what to do."""


def bind_pair(
    server_ip: str, *, port_range: tuple[int, int] | None, wanted: tuple[int, int] | None = None
) -> Pair:
    """Two bound sockets: on the `wanted` ports, else on the first two of `port_range` that are free, else on any. They
    are reachable from everywhere, or, where `server_ip` is a loopback address, on that alone. Raises NoPorts.
    """
    candidates = wanted or (range(port_range[0], port_range[1] + 1) if port_range else (0, 0))
    bound: list[socket.socket] = []
    cause = None
    for port in candidates:
        try:
            bound.append(_bind(server_ip, port))
        except OSError as error:
            cause = error
        if len(bound) == 2:
            return bound[0], bound[1]
    for one in bound:
        one.close()
    raise NoPorts(_explain(port_range, wanted, cause))


def _explain(
    port_range: tuple[int, int] | None, wanted: tuple[int, int] | None, cause: OSError | None
) -> str:
    reason = cause.strerror if cause else "too few"
    if wanted:
        return f"the UDP ports {wanted[0]} and {wanted[1]} cannot be had ({reason})"
    if port_range:
        return f"socket.port_range: no two free UDP ports from {port_range[0]} to {port_range[1]} ({reason})"
    return f"no two free UDP ports ({reason})"


def _bind(server_ip: str, port: int) -> socket.socket:
    """Never with SO_REUSEADDR or SO_REUSEPORT: others could take the datagrams."""
    family, host = listening_on(server_ip)
    bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            bound.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def listening_on(server_ip: str) -> tuple[int, str]:
    """Family and address to bind. `server_ip` itself may be a router's: it is bound only where it is loopback."""
    ip = ip_address(server_ip)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    if ip.is_loopback:
        return family, str(ip)
    return family, "::" if ip.version == 6 else "0.0.0.0"  # noqa: S104 (peers come from anywhere)
