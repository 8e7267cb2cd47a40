"""A program in place of `wg`, for trying the sale of VPN leases without root and without WireGuard: it notes the peers that
it is given in a file beside itself, and tells of them. There is no interface, and no tunnel comes of the leases.
"""

import json
import os
import re
import sys
from pathlib import Path

import yaml

from vpn import keys

INTERFACE = "wg-stand-in"
PROGRAM = "wg-stand-in"
STATE = "wg-stand-in.json"
LISTEN_PORT = 51820

_TEXT = '''#!{python} -I
"""A stand-in for `wg`, for trying: no tunnel comes of what it is told. Written by ./impervious simulate --vpn."""

import json
import os
import sys

STATE = {state!r}


def show(what):
    key, port, peers = (state[name] for name in ("public_key", "listen_port", "peers"))
    rows = {{
        "public-key": [key],
        "listen-port": [str(port)],
        "allowed-ips": ["\\t".join((peer, networks.replace(",", " "))) for peer, networks in peers.items()],
        "latest-handshakes": [peer + "\\t0" for peer in peers],
        "transfer": [peer + "\\t0\\t0" for peer in peers],
    }}
    return rows[what]


def put(words):
    rest = iter(words)
    for _ in rest:
        peer, action = next(rest), next(rest)
        if action == "remove":
            state["peers"].pop(peer, None)
        else:
            state["peers"][peer] = next(rest)
    draft = STATE + ".new"
    with open(draft, "w") as file:
        json.dump(state, file)
    os.replace(draft, STATE)


with open(STATE) as file:
    state = json.load(file)
try:
    verb, interface, *words = sys.argv[1:]
    if verb == "show" and interface == "all":
        print({interface!r} + "\\t" + show(*words)[0])
    elif interface != {interface!r}:
        sys.exit("Unable to access interface: No such device")
    elif verb == "set":
        put(words)
    else:
        print("\\n".join(show(*words)))
except (ValueError, KeyError, StopIteration, TypeError, RuntimeError):
    sys.exit("the stand-in for wg does not know this call")
'''


def equip(directory: Path, config_path: Path) -> None:
    """Gives the node of this configuration a stand-in for `wg` in the directory, on which it sells. What was sold before
    stays.
    """
    state_path, program = directory / STATE, directory / PROGRAM
    public_key = _state(state_path)["public_key"]
    text = _TEXT.format(python=sys.executable, state=str(state_path), interface=INTERFACE)
    _write(program, text, mode=0o700)
    config = config_path.read_text()
    for name, value in (("server_pub_key", public_key), ("binary_path", str(program))):
        lines = re.findall(rf"(?m)^  {name}:.*$", config)
        config = config.replace(lines[0], f"  {name}: {json.dumps(value)}") if lines else config
        if len(lines) != 1:
            raise ValueError(f"{config_path}: has no line vpn.{name} that could be set; delete the file")
    yaml.safe_load(config)
    _write(config_path, config, mode=0o600)


def _state(path: Path) -> dict:
    if path.exists():
        return json.loads(path.read_text())
    state = {"public_key": keys.new_key_pair().public, "listen_port": LISTEN_PORT, "peers": {}}
    _write(path, json.dumps(state), mode=0o600)
    return state


def _write(path: Path, text: str, *, mode: int) -> None:
    draft = path.with_name(path.name + ".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    os.replace(draft, path)
