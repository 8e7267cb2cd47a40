"""The file with which a buyer brings the tunnel up (`wg-quick up FILE`), from typed fields only. Pure.

A seller's answer is hostile text: `parse_peering` takes it apart, so that nothing of it gets into the file as it came.
A PostUp, which wg-quick would run as root, cannot be expressed.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vpn.keys import check_public_key, decoded
from vpn.pool import Address, Network, host_networks

MAX_ALLOWED_IPS = 256
MAX_TEXT = 64 * MAX_ALLOWED_IPS
MAX_KEEPALIVE_SECONDS = 65_535
MAX_DNS = 8

_NUMBER = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Peering:
    """What a seller tells of a lease. ValueError unless all fields are of their types and within bounds."""

    addresses: tuple[Address, ...]
    endpoint_host: Address
    endpoint_port: int
    server_pub_key: str
    allowed_ips: tuple[Network, ...]
    keepalive_seconds: int
    dns: tuple[Address, ...] = ()

    def __post_init__(self) -> None:
        for name, addresses in (
            ("address", self.addresses),
            ("endpoint", (self.endpoint_host,)),
            ("dns", self.dns),
        ):
            for address in addresses:
                _check_address(name, address)
        if len({address.version for address in self.addresses}) != len(self.addresses) or not self.addresses:
            raise ValueError("address: must be one IPv4 address, one IPv6 address, or both")
        if len(self.dns) > MAX_DNS:
            raise ValueError(f"dns: must be at most {MAX_DNS} addresses")
        if not 1 <= len(self.allowed_ips) <= MAX_ALLOWED_IPS:
            raise ValueError(f"allowed_ips: must be 1 to {MAX_ALLOWED_IPS} networks")
        for network in self.allowed_ips:
            if type(network) not in (ipaddress.IPv4Network, ipaddress.IPv6Network):
                raise ValueError("allowed_ips: must be networks")
            _check_address("allowed_ips", network.network_address)
        _check_number("endpoint", self.endpoint_port, 1, 65_535)
        _check_number("keepalive", self.keepalive_seconds, 0, MAX_KEEPALIVE_SECONDS)
        _named("server_pub_key", check_public_key, self.server_pub_key)

    @property
    def endpoint(self) -> str:
        return endpoint(self.endpoint_host, self.endpoint_port)


@dataclass(frozen=True)
class _Section:
    name: str
    lines: list[str] = field(default_factory=list)

    def set(self, key: str, *values: object) -> None:
        if values:
            self.lines.append(f"{key} = {', '.join(str(value) for value in values)}")

    def text(self) -> str:
        return "\n".join([f"[{self.name}]", *self.lines, ""])


def render(peering: Peering, private_key: str) -> str:
    """The file's text, with the buyer's private key: for the buyer's own eyes alone."""
    decoded(private_key)
    interface = _Section("Interface")
    interface.set("PrivateKey", private_key)
    interface.set("Address", *sorted(host_networks(peering.addresses), key=lambda network: network.version))
    interface.set("DNS", *peering.dns)
    peer = _Section("Peer")
    peer.set("PublicKey", peering.server_pub_key)
    peer.set("AllowedIPs", *peering.allowed_ips)
    peer.set("Endpoint", peering.endpoint)
    if peering.keepalive_seconds:
        peer.set("PersistentKeepalive", peering.keepalive_seconds)
    return f"{interface.text()}\n{peer.text()}"


def peering_fields(peering: Peering) -> dict[str, Any]:
    """The fields of a `lease` message that parse_peering reads. Nodes of old take one address as `dns` and know no
    `further_dns`.
    """
    first, *further = (str(address) for address in peering.dns or ("",))
    fields = {
        "address": ", ".join(str(network) for network in map(ipaddress.ip_network, peering.addresses)),
        "endpoint": peering.endpoint,
        "server_pub_key": peering.server_pub_key,
        "dns": first,
        "allowed_ips": ", ".join(str(network) for network in peering.allowed_ips),
        "keepalive": peering.keepalive_seconds,
    }
    return fields | ({"further_dns": ", ".join(further)} if further else {})


def parse_peering(fields: Mapping[str, Any]) -> Peering:
    """From the fields of a `lease` message. ValueError "field: what is wrong"; `dns` and `further_dns` may be empty or
    absent.
    """
    host, port = _parse_endpoint(_text(fields, "endpoint"))
    return Peering(
        addresses=tuple(_host(item) for item in _items(fields, "address")),
        endpoint_host=host,
        endpoint_port=port,
        server_pub_key=_text(fields, "server_pub_key"),
        allowed_ips=tuple(_network("allowed_ips", item) for item in _items(fields, "allowed_ips")),
        keepalive_seconds=fields.get("keepalive", 0),
        dns=tuple(
            _address("dns", item) for name in ("dns", "further_dns") for item in _optional(fields, name)
        ),
    )


def endpoint(host: Address, port: int) -> str:
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"{name}: must be text of at most {MAX_TEXT} characters")
    return value


def _items(fields: Mapping[str, Any], name: str) -> list[str]:
    items = [item.strip(" ") for item in _text(fields, name).split(",")]
    if len(items) > MAX_ALLOWED_IPS:
        raise ValueError(f"{name}: must be at most {MAX_ALLOWED_IPS}")
    return items


def _optional(fields: Mapping[str, Any], name: str) -> list[str]:
    return _items(fields, name) if fields.get(name) else []


def _parse_endpoint(text: str) -> tuple[Address, int]:
    host, _, port = text.rpartition(":")
    if not _NUMBER.fullmatch(port):
        raise ValueError("endpoint: must be IP:port such as 203.0.113.5:51820")
    bracketed = host.startswith("[") and host.endswith("]")
    address = _address("endpoint", host[1:-1] if bracketed else host)
    if bracketed != (address.version == 6):
        raise ValueError("endpoint: needs brackets around an IPv6 address and none around IPv4")
    return address, int(port)


def _host(text: str) -> Address:
    network = _network("address", text)
    _check_address("address", network.network_address)
    if network.prefixlen != network.max_prefixlen:
        raise ValueError("address: must be of a single host, such as 10.0.0.7/32")
    return network.network_address


def _address(name: str, text: str) -> Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{name}: must be an IP address") from None
    _check_address(name, address)
    return address


def _network(name: str, text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"{name}: must be networks such as 10.0.0.0/24, with commas between") from None


def _check_address(name: str, address: Address) -> None:
    # A zone (fe80::1%…) is free text of any characters.
    if type(address) not in (ipaddress.IPv4Address, ipaddress.IPv6Address) or getattr(
        address, "scope_id", None
    ):
        raise ValueError(f"{name}: must be an IP address without a zone")


def _check_number(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name}: must be a whole number from {low} to {high}")


def _named(name: str, check: Callable[[str], object], value: object) -> None:
    try:
        check(value) if isinstance(value, str) else check("")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
