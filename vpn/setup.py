"""Makes the server's interface, tells what is wrong with one, and undoes what it made.

What was made is remembered in a small file beside the configuration, written before anything is made: an interface that
is not in it, or that has another key than the one in it, belongs to somebody else and is not touched.
"""

import ipaddress
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vpn import keys, programs, rules
from vpn.pool import Address, Network, Pool
from vpn.wireguard import WireGuard

WIREGUARD_GO = "wireguard-go"
FORWARDING = {4: Path("/proc/sys/net/ipv4/ip_forward"), 6: Path("/proc/sys/net/ipv6/conf/all/forwarding")}


class SetupError(Exception):
    """Why it cannot be done, for the operator."""


@dataclass(frozen=True)
class Wanted:
    """What the configuration says of the server: the fields of `vpn` that matter here, and where its files are."""

    config_path: Path
    binary_path: str
    server_pub_key: str
    server_ip: str
    server_port: int
    subnet: tuple[Network, ...]
    allowed_ips: tuple[Network, ...]
    dns: tuple[Address, ...]
    exit_rules: bool

    @classmethod
    def from_config(cls, path: Path, vpn: Any) -> "Wanted":
        """Of the configuration's file and its section `vpn`."""
        return cls(
            config_path=path,
            binary_path=vpn.binary_path,
            server_pub_key=vpn.server_pub_key,
            server_ip=vpn.server_ip,
            server_port=vpn.server_port,
            subnet=vpn.subnet,
            allowed_ips=vpn.allowed_ips,
            dns=tuple(map(ipaddress.ip_address, vpn.dns)),
            exit_rules=vpn.exit_rules,
        )

    @property
    def state_path(self) -> Path:
        return self.config_path.with_suffix(".vpn.json")

    @property
    def key_path(self) -> Path:
        return self.config_path.with_suffix(".vpn.key")


@dataclass
class State:
    """What was made. `forwarding` are the versions of IP for which forwarding was off before."""

    interface: str
    public_key: str
    forwarding: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One thing to do, in words, and the doing."""

    words: str
    do: Callable[[], Awaitable[None]]


class Setup:
    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._wireguard = WireGuard(wanted.binary_path)

    def public_key(self) -> str | None:
        """Of what was set up here."""
        state = read_state(self._wanted)
        return state.public_key if state else None

    async def plan(self, interface: str | None = None) -> list[Step]:
        """What has to be done to have the interface; SetupError if it may not be. `interface` is a name of one's own
        choice for a new one.
        """
        _need("ip", "iproute2")
        _need(rules.NFT, "nftables")
        wanted, state = self._wanted, read_state(self._wanted)
        present = await self._interfaces()
        steps = []
        if state is None:
            state = await self._new(interface, present)
            steps.append(
                Step(
                    f"make the server's keys; the private one goes to {wanted.key_path}, for root alone",
                    lambda: self._write_keys(state),
                )
            )
        elif interface not in (None, state.interface):
            raise SetupError(
                f"{state.interface} is set up already; ./impervious vpn setup --remove removes it"
            )
        elif not wanted.key_path.exists():
            raise SetupError(
                f"{wanted.key_path} is missing; put it back, or undo all: ./impervious vpn setup --remove"
            )
        if await self._ours(state, present):
            steps.append(Step(f"keep the interface {state.interface}, which was made before", _nothing))
        else:
            command = await _making(state.interface)
            steps.append(
                Step(f"make the interface {state.interface}: {' '.join(command)}", _calling(command))
            )
        return [*steps, *self._steps_of_interface(state), *self._steps_of_traffic(state)]

    def _steps_of_interface(self, state: State) -> list[Step]:
        wanted, name = self._wanted, state.interface
        steps = [
            Step(
                f"give it its key and UDP port {wanted.server_port}",
                lambda: self._wireguard.configure(
                    name, listen_port=wanted.server_port, key_file=wanted.key_path
                ),
            )
        ]
        for address in Pool(wanted.subnet).server:
            command = ["ip", "address", "replace", str(address), "dev", name]
            steps.append(Step(f"give it the address {address}: {' '.join(command)}", _calling(command)))
        command = ["ip", "link", "set", name, "up"]
        return [*steps, Step(f"bring it up: {' '.join(command)}", _calling(command))]

    def _steps_of_traffic(self, state: State) -> list[Step]:
        wanted, name, steps = self._wanted, state.interface, []
        for version in sorted({network.version for network in wanted.subnet}):
            if not forwards(version):
                steps.append(
                    Step(
                        f"forward IPv{version} between interfaces: write 1 to {FORWARDING[version]}",
                        partial(self._forward, state, version),
                    )
                )
        nat = rules.nat_rules(name, wanted.subnet)
        steps.append(
            Step(
                f"send clients out under this machine's address: nft table {rules.nat_table(name)}",
                lambda: rules.apply(nat),
            )
        )
        if wanted.exit_rules:
            text = rules.exit_rules(name, wanted.allowed_ips, wanted.dns)
            steps.append(
                Step(
                    "keep clients from this machine's services and from private networks: nft table "
                    f"{rules.exit_table(name)}",
                    lambda: rules.apply(text),
                )
            )
        return steps

    async def removal_plan(self) -> list[Step]:
        """How all that was made is undone; SetupError if nothing was."""
        wanted, state = self._wanted, read_state(self._wanted)
        if state is None:
            raise SetupError(f"nothing was set up here: there is no {wanted.state_path}")
        name = state.interface
        tables = (rules.exit_table(name), rules.nat_table(name))
        text = "".join(map(rules.without, tables))
        steps = [Step(f"remove the nft tables {' and '.join(tables)}", lambda: rules.apply(text))]
        for version in state.forwarding:
            steps.append(
                Step(
                    f"no longer forward IPv{version}, as before: write 0 to {FORWARDING[version]}",
                    partial(_write_forwarding, version, "0"),
                )
            )
        if await self._ours(state, await self._interfaces()):
            steps.append(
                Step(
                    f"remove the interface {name}: ip link delete {name}",
                    _calling(["ip", "link", "delete", name]),
                )
            )
        return [
            *steps,
            Step(
                f"delete {wanted.key_path} and {wanted.state_path}: the server's key is gone then",
                self._delete_files,
            ),
        ]

    async def _interfaces(self) -> dict[str, str | None]:
        """All interfaces here, with WireGuard's public keys: "" where none is set, None for those of other kinds."""
        found: dict[str, str | None] = dict.fromkeys(link["ifname"] for link in await links())
        return found | {
            name: key for name, key in (await self._wireguard.interfaces()).items() if name in found
        }

    async def _new(self, interface: str | None, present: dict[str, str | None]) -> State:
        wanted = self._wanted
        name = interface or f"impd{secrets.token_hex(4)}"
        if name in present:
            raise SetupError(f"{name} is there already and was not made by this command; choose another name")
        # Of all namespaces, where wireguard-go runs.
        if name in await self._wireguard.interfaces():
            raise SetupError(
                f"{name} is the name of an interface of wireguard-go elsewhere; choose another name"
            )
        if wanted.server_pub_key in filter(None, present.values()):
            raise SetupError(
                "there is an interface with vpn.server_pub_key already, which this command did not make: "
                "nothing to set up; see ./impervious vpn check"
            )
        if wanted.server_pub_key:
            raise SetupError(
                "vpn.server_pub_key is set, but its private key is not here; bring up that interface "
                "yourself, or empty vpn.server_pub_key to have new keys made"
            )
        if wanted.key_path.exists():
            raise SetupError(f"{wanted.key_path} is there already, of an earlier set-up; move it away")
        rules.nat_table(name)
        return State(name, "")

    async def _ours(self, state: State, present: dict[str, str | None]) -> bool:
        """Whether the interface is there and is the one that was made; without a key it was left half made."""
        if state.interface not in present:
            return False
        if present[state.interface] in ("", state.public_key):
            return True
        raise SetupError(
            f"{state.interface} has not the key that was made here, so it is somebody else's; "
            f"remove it yourself, or delete {self._wanted.state_path} to begin anew"
        )

    async def _write_keys(self, state: State) -> None:
        pair = keys.new_key_pair()
        state.public_key = pair.public
        _write_state(self._wanted.state_path, state)
        _write_new(self._wanted.key_path, pair.private + "\n", mode=0o600)

    async def _forward(self, state: State, version: int) -> None:
        if version not in state.forwarding:
            state.forwarding.append(version)
            _write_state(self._wanted.state_path, state)
        await _write_forwarding(version, "1")

    async def _delete_files(self) -> None:
        for path in (self._wanted.key_path, self._wanted.state_path):
            path.unlink(missing_ok=True)


async def links() -> list[dict[str, Any]]:
    """The interfaces of this machine, as `ip -json address show` tells."""
    return [
        link for link in json.loads(await _call("ip", "-json", "address", "show") or "[]") if "ifname" in link
    ]


def forwards(version: int) -> bool:
    try:
        return FORWARDING[version].read_text().strip() not in ("", "0")
    except OSError:
        return False


async def _write_forwarding(version: int, value: str) -> None:
    try:
        FORWARDING[version].write_text(value)
    except OSError as error:
        raise SetupError(f"cannot write {FORWARDING[version]}: {error.strerror}; run this as root") from None


async def _making(name: str) -> list[str]:
    """The command that makes an interface: the kernel's, where it has WireGuard."""
    if Path("/sys/module/wireguard").exists():  # noqa: ASYNC240 (no disk)
        return ["ip", "link", "add", name, "type", "wireguard"]
    try:
        if not (await programs.run(["modprobe", "--dry-run", "--quiet", "wireguard"])).code:
            return ["ip", "link", "add", name, "type", "wireguard"]
    except programs.ProgramError:
        pass
    if not programs.find(WIREGUARD_GO):
        raise SetupError(
            "this kernel has no WireGuard, and wireguard-go is missing; apt install wireguard-go"
        )
    if not Path("/dev/net/tun").exists():  # noqa: ASYNC240 (no disk)
        raise SetupError("wireguard-go needs /dev/net/tun: mkdir -p /dev/net && mknod /dev/net/tun c 10 200")
    return [WIREGUARD_GO, name]


def read_state(wanted: Wanted) -> State | None:
    """What was made beside this configuration; None if nothing was."""
    try:
        content = json.loads(wanted.state_path.read_bytes())
        return State(content["interface"], content["public_key"], list(content["forwarding"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SetupError(f"{wanted.state_path} cannot be read: {error.strerror}; run this as root") from None
    except (ValueError, KeyError, TypeError):
        raise SetupError(f"{wanted.state_path} is not as it was written; put back what stood there") from None


def _write_state(path: Path, state: State) -> None:
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    # No secret is in it, and `vpn check` reads it as the user who runs the node.
    _write_new(draft, json.dumps(asdict(state)) + "\n", mode=0o644)
    os.replace(draft, path)


def _write_new(path: Path, text: str, *, mode: int) -> None:
    """A new file, on disk when this returns."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SetupError(f"{path} cannot be made: {error.strerror}") from None


def _need(program: str, package: str) -> None:
    if not programs.find(program):
        raise SetupError(f"{program}: there is no such program; apt install {package}")


async def _call(*command: str) -> str:
    try:
        output = await programs.run(command)
    except programs.ProgramError as error:
        raise SetupError(str(error)) from None
    if output.code:
        text = " ".join(output.stderr.split())[:300]
        denied = any(words in text for words in ("not permitted", "denied"))
        raise SetupError(f"{' '.join(command)} failed: {text}" + ("; run this as root" if denied else ""))
    return output.stdout


def _calling(command: Sequence[str]) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        await _call(*command)

    return call


async def _nothing() -> None:
    pass
