"""The body of a `socket` message: where a UDP relay is. Pure. Names and order are the published interface's."""

import json
import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

RECORD_ID = "SOCKET"
MAX_BYTES = 1_024

_PROTOCOL = re.compile(r"[a-z0-9]{1,16}")
_PORT = re.compile(r":([1-9][0-9]{0,4})")
MAX_PORT = 65_535


class NoOffer(ValueError):
    """These bytes tell of no relay."""


@dataclass(frozen=True, kw_only=True)
class SocketOffer:
    """Each of two clients speaks to one of the two ports."""

    protocol: str = "udp"
    ip: str
    port1: int
    port2: int

    def fields(self) -> dict[str, str]:
        return {
            "protocol": self.protocol,
            "ip": self.ip,
            "port1": f":{self.port1}",
            "port2": f":{self.port2}",
        }

    def encode(self) -> bytes:
        return json.dumps({"recordId": RECORD_ID, **self.fields()}, separators=(",", ":")).encode()


def decode(body: bytes) -> SocketOffer:
    """What a stranger sent, checked; unknown keys are left out. NoOffer when it is none."""
    if len(body) > MAX_BYTES:
        raise NoOffer(f"is longer than {MAX_BYTES} bytes")
    try:
        told = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise NoOffer("is no JSON") from None
    if not isinstance(told, dict) or told.get("recordId") != RECORD_ID:
        raise NoOffer(f"is no JSON object with the recordId {RECORD_ID}")
    return SocketOffer(
        protocol=_matching(_PROTOCOL, told, "protocol")[0],
        ip=_ip(told.get("ip")),
        port1=_port(told, "port1"),
        port2=_port(told, "port2"),
    )


def _matching(pattern: re.Pattern[str], told: dict[str, Any], name: str) -> re.Match[str]:
    value = told.get(name)
    found = pattern.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise NoOffer(f"has no {name}")
    return found


def _ip(value: Any) -> str:
    # Numbers would do for ip_address.
    if not isinstance(value, str) or "%" in value:
        raise NoOffer("has no ip")
    try:
        return str(ip_address(value))
    except ValueError:
        raise NoOffer("has no ip") from None


def _port(told: dict[str, Any], name: str) -> int:
    port = int(_matching(_PORT, told, name)[1])
    if port > MAX_PORT:
        raise NoOffer(f"has no {name}")
    return port
