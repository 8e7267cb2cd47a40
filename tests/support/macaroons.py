"""Macaroons as `./impervious macaroon` says them."""

import asyncio
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from lightning.rpcs import Rpc
from protos.lnrpc import lightning_pb2
from tests.support.lnd_rpc import BareClient
from tests.support.nodes import ROOT

# Ends what hangs, on however busy a machine.
GUARD_SECONDS = 600


def printed(*arguments: str, cwd: Path, environ: dict | None = None) -> str:
    """What the command prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("IMPD_")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "macaroon", *arguments],
        cwd=cwd,
        env=inherited | (environ or {}),
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def uris(line: str) -> list[str]:
    return [word.removeprefix("uri:") for word in line.split() if word.startswith("uri:")]


def baked(lnd, directory: Path, calls: Iterable[str]):
    """The same lnd, with a macaroon for these calls (full names) alone."""
    path = directory / "impervious.macaroon"
    path.write_bytes(bytes.fromhex(asyncio.run(_bake(lnd, calls))))
    return dataclasses.replace(lnd, macaroon_path=path)


async def _bake(lnd, calls: Iterable[str]) -> str:
    request = lightning_pb2.BakeMacaroonRequest(
        permissions=[lightning_pb2.MacaroonPermission(entity="uri", action=call) for call in calls]
    )
    async with BareClient(lnd) as client:
        return (await client.lightning.BakeMacaroon(request)).macaroon


def all_but(*missing: Rpc) -> list[str]:
    return [rpc.path for rpc in Rpc if rpc not in missing]
