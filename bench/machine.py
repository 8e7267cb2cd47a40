"""What the figures were measured on."""

import importlib.metadata
import os
import platform
import resource
import shutil
import sqlite3
import subprocess
import tempfile

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
    return subprocess.run(["lnd", "--version"], capture_output=True, text=True).stdout.strip()


def raise_file_limit() -> int:
    """As many open files as the system lets this process, and those it starts, have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 65_536
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, 65_536)), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def rss_kb(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown processor")


def _file_system() -> str:
    done = subprocess.run(["df", "--output=fstype", tempfile.gettempdir()], capture_output=True, text=True)
    return done.stdout.split()[-1] if done.returncode == 0 else "unknown file system"
