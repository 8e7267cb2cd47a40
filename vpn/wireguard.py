"""The `wg` command: the only module that runs it. Works for interfaces of the kernel and of wireguard-go alike.

    wireguard = WireGuard("/usr/bin/wg")
    interface = await wireguard.interface_of(server_pub_key)
    await wireguard.apply(interface, changes)
    missing = missing_after(desired, await wireguard.peers(interface))

Never `wg syncconf` or `setconf`, which wipe the server's key or interrupt traffic, and never `wg show … dump`, which
tells private keys.
"""

import getpass
import ipaddress
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from vpn import programs
from vpn.keys import decoded
from vpn.pool import Network
from vpn.programs import ProgramError, ProgramMissing
from vpn.reconcile import Changes

# deploy/vpn/impervious-wg, where it is installed, and its list of interfaces.
WRAPPER = "/usr/local/sbin/impervious-wg"
INTERFACES_FILE = "/etc/impervious/wireguard-interfaces"

# 5,000 peers one by one take 12 s, in batches half a second; a batch's arguments stay far below the system's limit.
PEERS_PER_CALL = 500

Item = TypeVar("Item")

_INTERFACE = re.compile(r"[A-Za-z0-9_=+.][A-Za-z0-9_=+.-]{0,14}", re.ASCII)
_WORDS_OF_WG = ("all", "interfaces")
_DENIED = ("Operation not permitted", "Permission denied", "a password is required", "not allowed to execute")
_ABSENT = (
    "No such device",
    "No such file or directory",
    "Protocol not supported",
    "is not a WireGuard interface",
    "Unable to access interface: Operation not supported",
)
_NO_VALUE = ("(none)", "off")

# Runs a program as programs.run does.
Run = Callable[..., Awaitable[programs.Output]]


class WireGuardError(Exception):
    """What went wrong and what to do, for the operator's log and `./impervious vpn check`. No key is in it."""


class NotPermitted(WireGuardError):
    pass


class NoInterface(WireGuardError):
    pass


class Statistics(NamedTuple):
    """Of one peer; the counters begin anew when the interface is made anew."""

    latest_handshake: datetime | None
    received_bytes: int
    sent_bytes: int


class WireGuard:
    """Raises WireGuardError from every method: `wg` missing, not permitted, no such interface, no end in time."""

    def __init__(
        self,
        binary_path: str,
        *,
        timeout_seconds: float = programs.TIMEOUT_SECONDS,
        run: Run = programs.run,
    ) -> None:
        self._program = binary_path
        self._timeout_seconds = timeout_seconds
        self._run_program = run

    async def interfaces(self) -> dict[str, str]:
        """The public key of each WireGuard interface by the interface's name; "" where none is set."""
        output = await self._run("show", "all", "public-key", may_fail=True)
        found = dict(_rows(output.stdout, 2))
        # One interface that cannot be asked does not hide the others.
        if output.code and not found:
            raise self._error(output.stderr)
        return {name: "" if key in _NO_VALUE else key for name, key in found.items()}

    async def interface_of(self, server_pub_key: str) -> str | None:
        """The name of the interface with this public key; None if there is none."""
        interfaces = await self.interfaces()
        return next((name for name, key in interfaces.items() if key and key == server_pub_key), None)

    async def public_key(self, interface: str) -> str:
        """The key in base64; "" where none is set."""
        key = (await self._show(interface, "public-key")).strip()
        return "" if key in _NO_VALUE else key

    async def listen_port(self, interface: str) -> int:
        """The UDP port; while an interface of wireguard-go is down, 0 or the one it will have."""
        return int((await self._show(interface, "listen-port")).strip() or 0)

    async def peers(self, interface: str) -> dict[str, frozenset[Network]]:
        """Each peer's public key with its AllowedIPs."""
        peers = {}
        for key, networks in _rows(await self._show(interface, "allowed-ips"), 2):
            words = [] if networks in _NO_VALUE else networks.split()
            peers[key] = frozenset(ipaddress.ip_network(word) for word in words)
        return peers

    async def statistics(self, interface: str) -> dict[str, Statistics]:
        """By public keys."""
        handshakes = dict(_rows(await self._show(interface, "latest-handshakes"), 2))
        transfer = _rows(await self._show(interface, "transfer"), 3)
        return {
            key: Statistics(_time(int(handshakes.get(key, 0))), int(received), int(sent))
            for key, received, sent in transfer
        }

    async def apply(self, interface: str, changes: Changes) -> None:
        """Removes, then sets, in calls of up to 500 peers. What is there afterwards is for the caller to read: `wg`
        answers 0 for a key that it does not take.
        """
        for batch in _batches(changes.remove):
            await self._set(interface, [word for key in batch for word in ("peer", _checked(key), "remove")])
        for peers in _batches([*changes.add.items(), *changes.replace.items()]):
            await self._set(interface, [word for key, networks in peers for word in _peer(key, networks)])

    async def configure(self, interface: str, *, listen_port: int, key_file: Path) -> None:
        """Gives a new interface its port, and its private key from the file."""
        await self._set(interface, ["listen-port", str(listen_port), "private-key", str(key_file)])

    async def _show(self, interface: str, what: str) -> str:
        return (await self._run("show", _named(interface), what)).stdout

    async def _set(self, interface: str, words: Sequence[str]) -> None:
        await self._run("set", _named(interface), *words)

    async def _run(self, *arguments: str, may_fail: bool = False) -> programs.Output:
        try:
            output = await self._run_program(
                [self._program, *arguments], timeout_seconds=self._timeout_seconds
            )
        except ProgramMissing:
            raise WireGuardError(
                f"{self._program}: there is no such program; apt install wireguard-tools, or correct vpn.binary_path"
            ) from None
        except ProgramError as error:
            raise WireGuardError(f"{error} (vpn.binary_path)") from None
        denied = any(text in output.stderr for text in _DENIED)
        if output.code and (denied or not may_fail):
            raise self._error(output.stderr)
        if denied and not output.stdout.strip():
            raise self._error(output.stderr)
        return output

    def _error(self, stderr: str) -> WireGuardError:
        # In lines of its own wg may repeat what it was given.
        text = re.sub(r"[A-Za-z0-9+/]{43}=?", "…", " ".join(stderr.split()))[:300]
        if any(word in stderr for word in _DENIED):
            return NotPermitted(
                f"{self._program}: {getpass.getuser()} is not permitted to use WireGuard ({text}); run the node as "
                f"root, or install deploy/vpn/impervious-wg as {WRAPPER}, name it in vpn.binary_path and the interface "
                f"in {INTERFACES_FILE}, and allow it in /etc/sudoers.d: see sudo_rule in `./impervious vpn check`"
            )
        if any(word in stderr for word in _ABSENT):
            return NoInterface(
                f"there is no such WireGuard interface ({text}); ./impervious vpn setup makes one"
            )
        return WireGuardError(f"{self._program} failed: {text or 'without a word'}")


def sudo_rule(user: str, program: str = WRAPPER) -> str:
    """The line of /etc/sudoers.d that lets this user call the wrapper, which sees to it that he calls nothing of `wg` but
    what the node does. No rule for `wg` itself can: `wg set wg0 peer KEY preshared-key FILE` tells what is in root's
    files.
    """
    return f"{user} ALL=(root) NOPASSWD: {program}"


def _named(interface: str) -> str:
    if not _INTERFACE.fullmatch(interface) or interface in _WORDS_OF_WG:
        raise WireGuardError(
            f"{interface[:40]!r} is no name of a WireGuard interface; must be 1 to 15 letters, digits"
        )
    return interface


def _checked(key: str) -> str:
    try:
        decoded(key)
    except ValueError as error:
        raise WireGuardError(f"a peer's key {error}") from None
    return key


def _peer(key: str, networks: frozenset[Network]) -> list[str]:
    return ["peer", _checked(key), "allowed-ips", ",".join(sorted(str(network) for network in networks))]


def _batches(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[start : start + PEERS_PER_CALL] for start in range(0, len(items), PEERS_PER_CALL)]


def _rows(text: str, columns: int) -> list[list[str]]:
    rows = [line.split("\t") for line in text.splitlines()]
    return [row for row in rows if len(row) == columns]


def _time(seconds: int) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
