"""What the figures were measured on."""

import importlib.metadata
import os
import platform
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("Django", "djangorestframework", "channels", "daphne", "grpcio", "protobuf", "websockets")


def describe() -> str:
    with open("/proc/meminfo") as file:
        memory_kb = int(file.readline().split()[1])
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    lines = [
        f"{len(os.sched_getaffinity(0))} cores ({_processor()}), {memory_kb / 2**20:.1f} GiB memory, {platform.platform()}",
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {versions}",
        f"lnd: {lnd_version() or 'not on PATH'}; files in {tempfile.gettempdir()} ({_file_system()})",
        f"load before the run: {os.getloadavg()[0]:.2f}",
    ]
    return "\n".join(lines)


def lnd_version() -> str | None:
    if not shutil.which("lnd"):
        return None
    return subprocess.run(["lnd", "--version"], capture_output=True, text=True, check=False).stdout.strip()


def raise_file_limit() -> int:
    """As many open files as the system lets this process, and those it starts, have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 65_536
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, 65_536)), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Neighbours:
    """How much of the machine other processes took since this was made: what makes a figure worse than it is."""

    def __init__(self):
        self._start, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def cores(self) -> float:
        used = _busy_seconds() - self._busy - (_own_seconds() - self._own)
        return max(0.0, used / (time.monotonic() - self._start))


def _busy_seconds() -> float:
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """CPU time of this process and all below it; that of an ended one is in its parent's."""
    parents, seconds = {}, {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry)] = int(fields[1])
        seconds[int(entry)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    own, found = set(), {os.getpid()}
    while found:
        own |= found
        found = {pid for pid, parent in parents.items() if parent in found and pid not in own}
    return sum(seconds.get(pid, 0.0) for pid in own)


def node_python() -> str:
    """What ./impervious runs the node with: an environment that has nothing else. This process's own where it is run by hand."""
    own = ROOT / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def rss_kb(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


def cpu_seconds(pid: int) -> float:
    """Of one process, without those below it."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        return next(
            (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")),
            "unknown processor",
        )


def _file_system() -> str:
    done = subprocess.run(
        ["df", "--output=fstype", tempfile.gettempdir()], capture_output=True, text=True, check=False
    )
    return done.stdout.split()[-1] if done.returncode == 0 else "unknown file system"
