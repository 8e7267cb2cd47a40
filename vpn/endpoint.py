"""Where buyers find the server: vpn.server_ip, looked up now and then where it is a host name. Buyers are told addresses
only: a name would be looked up by their machines, each time as its owner likes.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from vpn.pool import Address

TIMEOUT_SECONDS = 10

# As asyncio's getaddrinfo answers.
LookUp = Callable[[str], Awaitable[Sequence[tuple[Any, ...]]]]


class EndpointError(Exception):
    """Why there is no address; for the operator."""


def literal(host: str) -> Address | None:
    """The address that this is; None for a host name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


async def look_up(host: str) -> Sequence[tuple[Any, ...]]:
    return await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_DGRAM)


async def address_of(host: str, *, known: Address | None = None, look_up: LookUp = look_up) -> Address:
    """The `known` address while the name has it, so that a name of several does not change at each look; else the first of
    IPv4, or of IPv6. EndpointError.
    """
    if (address := literal(host)) is not None:
        return address
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            rows = await look_up(host)
    except (OSError, UnicodeError, TimeoutError) as error:
        cause = getattr(error, "strerror", None) or "no answer"
        raise EndpointError(f"vpn.server_ip: {host} cannot be looked up ({cause})") from None
    found = [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows]
    usable = [one for one in found if not (one.is_unspecified or one.is_multicast or one.is_link_local)]
    if known in usable:
        return known
    if not usable:
        raise EndpointError(f"vpn.server_ip: {host} has no address that buyers could reach")
    return min(usable, key=lambda address: address.version)
