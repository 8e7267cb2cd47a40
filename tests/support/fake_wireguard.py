"""WireGuard interfaces in memory: vpn.wireguard.WireGuard as it is, on a `wg` that is a method of this process.

wireguard = FakeWireGuard()
own_key = wireguard.add_interface("wg0")
await wireguard.apply("wg0", Changes(add={key: networks}))
wireguard.is_permitted = False
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from vpn import keys, programs
from vpn.pool import Network
from vpn.wireguard import WireGuard

NOT_PERMITTED = "Unable to access interface: Operation not permitted"
NO_SUCH_INTERFACE = "Unable to access interface: No such device"


@dataclass
class FakePeer:
    networks: list[Network] = field(default_factory=list)
    latest_handshake: datetime | None = None
    received_bytes: int = 0
    sent_bytes: int = 0


@dataclass
class FakeInterface:
    public_key: str
    listen_port: int
    peers: dict[str, FakePeer] = field(default_factory=dict)
    # Which peer has a network.
    holders: dict[Network, str] = field(default_factory=dict)

    def set_peer(self, key: str, networks: Sequence[Network]) -> None:
        """An address belongs to one peer: the last one that it was given to. The interface is no peer of its own."""
        if key == self.public_key:
            return
        for network in networks:
            if holder := self.holders.pop(network, None):
                self.peers[holder].networks.remove(network)
        self._take_networks(key)
        self.peers.setdefault(key, FakePeer()).networks = list(networks)
        self.holders |= dict.fromkeys(networks, key)

    def remove_peer(self, key: str) -> None:
        self._take_networks(key)
        self.peers.pop(key, None)

    def _take_networks(self, key: str) -> None:
        for network in self.peers.get(key, FakePeer()).networks:
            del self.holders[network]


class WgRefusal(Exception):
    """Exit code 1, with this on standard error."""


class WgProgram:
    """The program `wg`. `commands` are the arguments of each call, in their order."""

    def __init__(self) -> None:
        self.interfaces: dict[str, FakeInterface] = {}
        self.commands: list[tuple[str, ...]] = []
        self.is_permitted = True
        # `wg` is not there, or hangs: what programs.run would raise.
        self.trouble: programs.ProgramError | None = None
        # Standard error of each call of `wg set` that fails, although all is right with it.
        self.set_fails_with = ""

    async def run(self, command: Sequence[str], *, timeout_seconds: float) -> programs.Output:
        arguments = tuple(command[1:])
        self.commands.append(arguments)
        if self.trouble is not None:
            raise self.trouble
        try:
            verb, interface, *words = arguments
            if not self.is_permitted:
                raise WgRefusal(NOT_PERMITTED)
            if verb == "set":
                self._set(self._interface(interface), words)
                return programs.Output(0, "", "")
            return programs.Output(0, self._show(interface, *words), "")
        except WgRefusal as refusal:
            return programs.Output(1, "", f"{refusal}\n")

    def _interface(self, name: str) -> FakeInterface:
        if name not in self.interfaces:
            raise WgRefusal(NO_SUCH_INTERFACE)
        return self.interfaces[name]

    def _show(self, interface: str, what: str) -> str:
        if interface == "all":
            assert what == "public-key", f"`wg show all {what}` is not written yet"
            rows = [(name, one.public_key or "(none)") for name, one in self.interfaces.items()]
            return _lines(rows)
        shown = self._interface(interface)
        peers = shown.peers.items()
        if what == "public-key":
            return f"{shown.public_key or '(none)'}\n"
        if what == "listen-port":
            return f"{shown.listen_port}\n"
        if what == "allowed-ips":
            return _lines((key, " ".join(map(str, peer.networks)) or "(none)") for key, peer in peers)
        if what == "latest-handshakes":
            return _lines((key, str(_seconds(peer.latest_handshake))) for key, peer in peers)
        if what == "transfer":
            return _lines((key, str(peer.received_bytes), str(peer.sent_bytes)) for key, peer in peers)
        raise WgRefusal(f"Invalid parameter: `{what}'")

    def _set(self, interface: FakeInterface, words: list[str]) -> None:
        """The words are read before anything is changed, as `wg` does it."""
        changes = list(_read(words))
        if self.set_fails_with:
            raise WgRefusal(self.set_fails_with)
        for name, *values in changes:
            if name == "listen-port":
                interface.listen_port = int(values[0])
            elif name == "private-key":
                interface.public_key = keys.public_of(Path(values[0]).read_text().strip())
            elif name == "remove":
                interface.remove_peer(values[0])
            else:
                interface.set_peer(values[0], values[1])


class FakeWireGuard(WireGuard):
    """WireGuard with a `wg` of its own."""

    def __init__(self) -> None:
        self.wg = WgProgram()
        super().__init__("/usr/bin/wg", run=self.wg.run)

    def add_interface(self, name: str, *, public_key: str | None = None, listen_port: int = 51820) -> str:
        """Its public key, which is new unless given; "" for none."""
        key = keys.new_key_pair().public if public_key is None else public_key
        self.wg.interfaces[name] = FakeInterface(key, listen_port)
        return key


def _read(words: list[str]):
    """(name, values…) of each thing that is set."""
    rest = iter(words)
    for word in rest:
        if word in ("listen-port", "private-key"):
            yield word, next(rest)
        elif word == "peer":
            key, action = _key(next(rest)), next(rest)
            if action == "remove":
                yield "remove", key
            elif action == "allowed-ips":
                yield "peer", key, [_network(text) for text in next(rest).split(",") if text]
            else:
                raise WgRefusal(f"Invalid argument: {action}")
        else:
            raise WgRefusal(f"Invalid argument: {word}")


def _key(text: str) -> str:
    try:
        keys.decoded(text)
    except ValueError:
        raise WgRefusal(f"Key is not the correct length or format: `{text}'") from None
    return text


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise WgRefusal(f"Unable to parse IP address: `{text}'") from None


def _lines(rows) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def _seconds(moment: datetime | None) -> int:
    return int(moment.timestamp()) if moment else 0
