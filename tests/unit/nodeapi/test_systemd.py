"""What systemd is told, on a real datagram socket."""

import asyncio
import os
import socket
from collections.abc import Iterator
from uuid import uuid4

import pytest

from nodeapi import systemd


@pytest.fixture(params=["path", "abstract"])
def told(request, tmp_path, monkeypatch) -> Iterator[socket.socket]:
    name = f"impervious-{uuid4()}"
    address = f"@{name}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}" if request.param == "abstract" else address)
        receiver.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield receiver


def test_lines_arrive_together(told):
    systemd.notify(systemd.READY, "STATUS=well")
    assert told.recv(1000) == b"READY=1\nSTATUS=well"
    systemd.status("the node waits for lnd")
    assert told.recv(1000) == b"STATUS=the node waits for lnd"


@pytest.mark.parametrize("address", ["", "nowhere", "/nowhere/at/all"])
def test_nobody_listens(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.notify(systemd.READY)


@pytest.mark.parametrize(
    ("microseconds", "pid", "seconds"),
    [("30000000", "", 30.0), ("30000000", "own", 30.0), ("30000000", "1", None), ("", "", None)],
)
def test_whose_watchdog_it_is(monkeypatch, microseconds, pid, seconds):
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert systemd.watchdog_seconds() == seconds


async def test_sign_of_life_is_given_again_and_again(told, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "3000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    alive = asyncio.create_task(systemd.keep_alive())
    for _ in range(3):
        assert await asyncio.to_thread(told.recv, 1000) == b"WATCHDOG=1"
    alive.cancel()


async def test_no_watchdog(monkeypatch):
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    await systemd.keep_alive()
