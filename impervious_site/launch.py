"""What has to happen before Django reads its settings: the configuration is named, and a simulated network started when
there is no configuration at all and the node was started by ./impervious.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import MutableMapping
from pathlib import Path

from impervious_site.config import ConfigError, find_config

ROOT = Path(__file__).resolve().parent.parent
SIMULATION = Path("data/simulated")
NODE, PARTNER = "you", "partner"
START_SECONDS = 60
# Commands about a node that runs, or should. They print for people: gRPC's own lines are none of theirs.
ABOUT_A_NODE = frozenset({"status", "send", "message", "listen", "peers", "leases", "doctor", "keys"})


def take_config(argv: list[str], environ: MutableMapping[str, str]) -> list[str]:
    """The arguments without `--config PATH`, `--config=PATH` or `-config PATH`; the path goes to IMPD_CONFIG."""
    rest, remaining = [], iter(argv)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if name not in ("--config", "-config"):
            rest.append(argument)
            continue
        path = value if equals else next(remaining, None)
        if not path:
            sys.exit("--config: name the configuration file: --config PATH")
        environ["IMPD_CONFIG"] = path
    return rest


def name_command(arguments: list[str], environ: MutableMapping[str, str]) -> None:
    """Leaves in IMPD_COMMAND which command this is, unless it is the node itself, for the settings."""
    environ.pop("IMPD_COMMAND", None)
    if arguments[1:] and arguments[1] != "runimpd":
        environ["IMPD_COMMAND"] = arguments[1]


def find_simulated(arguments: list[str], environ: MutableMapping[str, str]) -> None:
    """Names the configuration of the simulated node, for a command about a node where there is no other."""
    if not ABOUT_A_NODE.intersection(arguments[1:2]):
        return
    environ["GRPC_VERBOSITY"] = "NONE"
    config = Path.cwd() / SIMULATION / NODE / "config.yml"
    if config.exists() and find_config(environ.get("IMPD_CONFIG"), Path.cwd()) is None:
        environ["IMPD_CONFIG"] = str(config)
        environ["IMPD_SIMULATED"] = str(Path.cwd() / SIMULATION)


def leave_config_unread(arguments: list[str], environ: MutableMapping[str, str]) -> None:
    if arguments[1:2] == ["cert"]:
        environ["IMPD_UNREAD"] = "1"


def forgo_macaroon(arguments: list[str], environ: MutableMapping[str, str]) -> None:
    """The command `macaroon` is for those who have none yet, though their configuration may name its file already."""
    if arguments[1:2] != ["macaroon"]:
        return
    for name in ("ADMIN_MACAROON", "ADMIN_MACAROON_FILE", "ADMIN_MACAROON_HEX_FILE"):
        environ.pop(f"IMPD_LIGHTNING__LND_NODE__{name}", None)
    environ["IMPD_LIGHTNING__LND_NODE__ADMIN_MACAROON_HEX"] = "00"


def prepare_simulation(arguments: list[str], environ: MutableMapping[str, str]) -> None:
    """Starts the simulated network for `runimpd`, when ./impervious found no configuration file."""
    if arguments[1:2] != ["runimpd"] or "IMPD_LAUNCHED" not in environ:
        return
    try:
        if find_config(environ.get("IMPD_CONFIG"), Path.cwd()):
            return
    except ConfigError:
        return
    directory = Path.cwd() / SIMULATION
    config = directory / NODE / "config.yml"
    known = config.exists()
    simulator = _start_simulator(directory)
    # A network that was there before keeps its files: both programs can start side by side.
    if not known:
        _wait_for(config, simulator)
    environ["IMPD_CONFIG"] = str(config)
    environ["IMPD_SIMULATED"] = str(directory)


def _start_simulator(directory: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "manage.py"), "simulate", "--dir", str(directory), "--attached"]
    simulator = subprocess.Popen(
        [*command, "--echo", PARTNER, NODE, PARTNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        process_group=0,
    )
    atexit.register(_end, simulator)
    threading.Thread(target=_end_with, args=[simulator], daemon=True).start()
    return simulator


def _end_with(simulator: subprocess.Popen[bytes]) -> None:
    """Without its network the node would wait for lnd for ever."""
    code = simulator.wait()
    if code:
        print("The simulated network has ended; its message stands above.", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGINT)


def _end(simulator: subprocess.Popen[bytes]) -> None:
    """The simulator ends when its standard input does: so it also ends with a node that was killed."""
    if simulator.stdin:
        simulator.stdin.close()
    try:
        simulator.wait(timeout=10)
    except subprocess.TimeoutExpired:
        simulator.kill()


def _wait_for(config: Path, simulator: subprocess.Popen[bytes]) -> None:
    for _ in range(START_SECONDS * 20):
        if config.exists():
            return
        if simulator.poll() is not None:
            sys.exit(simulator.returncode or 1)
        time.sleep(0.05)
    sys.exit(f"the simulated network did not start within {START_SECONDS} s")
