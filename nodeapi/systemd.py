"""What systemd is told of this process, where it is a unit of Type=notify: sd_notify(3)."""

import asyncio
import os
import socket
from contextlib import suppress

READY = "READY=1"
STOPPING = "STOPPING=1"

# An event loop holds its tasks only weakly.
_tasks: set[asyncio.Task[None]] = set()


def notify(*lines: str) -> None:
    """Does nothing where nobody listens (NOTIFY_SOCKET)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        # A name that begins with @ is of the abstract namespace.
        sender.sendto("\n".join(lines).encode(), "\0" + address[1:] if address[0] == "@" else address)


def status(text: str) -> None:
    """One line that `systemctl status` shows."""
    notify(f"STATUS={text}")


def watchdog_seconds() -> float | None:
    """How long systemd waits for a sign of life of this process; None where it does not."""
    microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6


def begin_unit() -> None:
    """Tells that this process serves, and gives signs of life from now on. Called from its event loop."""
    notify(READY)
    alive = asyncio.get_running_loop().create_task(keep_alive())
    _tasks.add(alive)
    alive.add_done_callback(_tasks.discard)


async def keep_alive() -> None:
    """Gives a sign of life from the event loop, until cancelled: one that hangs gives none, and systemd starts it again."""
    seconds = watchdog_seconds()
    while seconds:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds / 3)
