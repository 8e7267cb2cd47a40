"""Machines in network namespaces, joined by cables, with WireGuard interfaces of the kernel or of wireguard-go.

Names are unique: two userspace interfaces of one name share a socket in /var/run/wireguard even across namespaces.
"""

import functools
import os
import secrets
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.waiting import until
from vpn import keys

PROBE = Path(__file__).with_name("probe.py")
PROBE_PORT = 7
LISTEN_PORT = 51820
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
# Of wireguard-go.
SOCKETS = Path("/run/wireguard")
# Ends what hangs, on however busy a machine.
GUARD_SECONDS = 600


def new_name() -> str:
    return f"impt{secrets.token_hex(4)}"


def command(*words: object, **more) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": PATH},
        timeout=GUARD_SECONDS,
        check=False,
        **more,
    )
    assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if not shutil.which(name, path=PATH)]
    return pytest.mark.skipif(
        bool(missing), reason=f"not run: {', '.join(missing)} missing; see tests/services.sh"
    )


@functools.cache
def why_no_machines() -> str:
    """Empty if this machine can make namespaces and WireGuard interfaces."""
    if os.geteuid():
        return "not root"
    for name in ("ip", "wg", "nft"):
        if not shutil.which(name, path=PATH):
            return f"the program {name} is missing"
    name = new_name()
    try:
        command("ip", "netns", "add", name)
        try:
            command("ip", "netns", "exec", name, "true")
        finally:
            command("ip", "netns", "delete", name)
    except AssertionError as error:
        return f"no network namespaces here ({error})"
    if kernel_has_wireguard():
        return ""
    if not shutil.which("wireguard-go", path=PATH):
        return "neither a kernel with WireGuard nor wireguard-go"
    return "" if os.path.exists("/dev/net/tun") else "no /dev/net/tun for wireguard-go"


@functools.cache
def kernel_has_wireguard() -> bool:
    name = new_name()
    made = subprocess.run(
        ["ip", "link", "add", name, "type", "wireguard"], capture_output=True, env={"PATH": PATH}, check=False
    )
    if made.returncode == 0:
        command("ip", "link", "delete", name)
    return made.returncode == 0


class Machine:
    """A namespace. `wg` is a program that is `wg` in it."""

    def __init__(self, directory: Path) -> None:
        self.name, self.directory = new_name(), directory
        self.wg = directory / f"{self.name}-wg"
        self.wg.write_text(f'#!/bin/sh\nexec ip netns exec {self.name} wg "$@"\n')
        self.wg.chmod(0o755)
        self._stack = ExitStack()

    def __enter__(self) -> "Machine":
        command("ip", "netns", "add", self.name)
        self._stack.callback(command, "ip", "netns", "delete", self.name)
        self.run("ip", "link", "set", "lo", "up")
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def run(self, *words: object, **more) -> str:
        return command("ip", "netns", "exec", self.name, *words, **more)

    def start(self, *words: object, **more) -> subprocess.Popen:
        inside = ["ip", "netns", "exec", self.name, *map(str, words)]
        process = subprocess.Popen(inside, text=True, env=os.environ | {"PATH": PATH}, **more)
        self._stack.callback(_end, process)
        return process

    def cable(self, other: "Machine", own: str, others: str) -> None:
        """Joins two machines; both get their address, with prefix length."""
        one, two = new_name(), new_name()
        command(
            "ip",
            "link",
            "add",
            one,
            "netns",
            self.name,
            "type",
            "veth",
            "peer",
            "name",
            two,
            "netns",
            other.name,
        )
        for machine, device, address in ((self, one, own), (other, two, others)):
            machine.run(
                "ip", "address", "add", address, "dev", device, *(["nodad"] if ":" in address else [])
            )
            machine.run("ip", "link", "set", device, "up")

    def add_interface(self, name: str = "") -> str:
        """A new WireGuard interface without keys, down."""
        name = name or new_name()
        if kernel_has_wireguard():
            self.run("ip", "link", "add", name, "type", "wireguard")
        else:
            # Whoever makes it: `wg` tells those who may not use a socket so only if they see it.
            SOCKETS.mkdir(exist_ok=True)
            SOCKETS.chmod(0o755)
            self.run("wireguard-go", name)
        self._stack.callback(self.remove_interface, name)
        return name

    def remove_interface(self, name: str) -> None:
        if name in self.run("ip", "-brief", "link"):
            self.run("ip", "link", "delete", name)
        self.wait_until_gone(name)

    def wait_until_gone(self, name: str) -> None:
        """wireguard-go ends a little after its interface, and until then its socket answers, and keeps the name."""
        until(lambda: name not in self.run("wg", "show", "interfaces").split())

    def key_file(self, private: str) -> Path:
        file = self.directory / f"{new_name()}.key"
        file.touch(mode=0o600)
        file.write_text(private + "\n")
        return file

    def serve(self, address: str, port: int = PROBE_PORT) -> None:
        """Echoes UDP and TCP there until the machine ends."""
        server = self.start(sys.executable, PROBE, "serve", address, port, stdout=subprocess.PIPE)
        assert server.stdout.readline() == "ready\n"

    def reaches(
        self, kind: str, address: str, port: int = PROBE_PORT, seconds: float = GUARD_SECONDS
    ) -> bool:
        words = [
            "ip",
            "netns",
            "exec",
            self.name,
            sys.executable,
            str(PROBE),
            kind,
            address,
            str(port),
            str(seconds),
        ]
        return subprocess.run(words, env=os.environ | {"PATH": PATH}, check=False).returncode == 0


class Flow:
    """Numbered datagrams to an address where a machine serves, until `end`."""

    def __init__(self, machine: Machine, address: str, port: int = PROBE_PORT) -> None:
        self._process = machine.start(
            sys.executable, PROBE, "flow", address, port, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout.readline() == "flowing\n"

    def end(self) -> tuple[int, int]:
        """How many were sent, many at least, and how many of them were lost."""
        assert self._process.stdout.readline() == "many are sent\n"
        told, _ = self._process.communicate("", timeout=GUARD_SECONDS)
        sent, lost = map(int, told.split())
        return sent, lost


class WireGuardServer(Machine):
    """A machine with a WireGuard interface that has a key, a port and an address, and is up."""

    def __init__(self, directory: Path, *addresses: str) -> None:
        super().__init__(directory)
        self.addresses, self.pair = addresses, keys.new_key_pair()

    def __enter__(self) -> "WireGuardServer":
        super().__enter__()
        self.open_interface()
        return self

    def renew_interface(self) -> None:
        """Deleted and made anew, under another name; the key is the same."""
        self.remove_interface(self.interface)
        self.open_interface()

    def open_interface(self) -> None:
        self.interface = self.add_interface()
        self.run(
            "wg",
            "set",
            self.interface,
            "listen-port",
            LISTEN_PORT,
            "private-key",
            self.key_file(self.pair.private),
        )
        for address in self.addresses:
            self.run(
                "ip", "address", "add", address, "dev", self.interface, *(["nodad"] if ":" in address else [])
            )
        self.run("ip", "link", "set", self.interface, "up")


class Client(Machine):
    def bring_up(self, file: str) -> str:
        """What `wg-quick up` does with a file, but for DNS, by `wg addconf` and `ip`; the interface's name."""
        interface = self.add_interface()
        sections = [line.split(" = ", 1) for line in file.splitlines() if " = " in line]
        values = dict(sections)
        rest = "".join(f"{line}\n" for line in file.splitlines() if not line.startswith(("Address", "DNS")))
        self.run("wg", "addconf", interface, "/dev/stdin", input=rest)
        for address in values["Address"].split(", "):
            self.run("ip", "address", "add", address, "dev", interface)
        self.run("ip", "link", "set", interface, "mtu", "1420", "up")
        for network in values["AllowedIPs"].split(", "):
            halves = {"0.0.0.0/0": ["0.0.0.0/1", "128.0.0.0/1"], "::/0": ["::/1", "8000::/1"]}
            for route in halves.get(network, [network]):
                self.run("ip", "-6" if ":" in route else "-4", "route", "replace", route, "dev", interface)
        return interface


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()
