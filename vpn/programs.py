"""Runs programs of the system: argument lists, no shell, bounded in time and output."""

import asyncio
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from messaging.required import required

TIMEOUT_SECONDS = 30
END_SECONDS = 5
# Some 65,000 peers of `wg show … transfer`.
MAX_OUTPUT_BYTES = 8 * 2**20

# Where Debian keeps ip and nft is not on every user's PATH.
_PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


class ProgramError(Exception):
    """A program could not be run to its end; the text is for the operator."""


class ProgramMissing(ProgramError):
    pass


class ProgramTimeout(ProgramError):
    pass


@dataclass(frozen=True)
class Output:
    code: int
    stdout: str
    stderr: str


def find(name: str) -> str | None:
    """Its path, as `run` finds it."""
    return shutil.which(name, path=_PATH)


async def run(command: Sequence[str], *, stdin: str = "", timeout_seconds: float = TIMEOUT_SECONDS) -> Output:
    """Its output, whatever its exit code. ProgramError if it cannot be started, takes too long or tells too much."""
    name = command[0]
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": _PATH, "LC_ALL": "C"},
            start_new_session=True,
        )
    except FileNotFoundError:
        raise ProgramMissing(f"{name}: there is no such program") from None
    except (OSError, ValueError) as error:
        raise ProgramError(f"{name}: cannot be run: {getattr(error, 'strerror', None) or error}") from None
    try:
        async with asyncio.timeout(timeout_seconds), asyncio.TaskGroup() as tasks:
            tasks.create_task(_write(required(process.stdin), stdin))
            stdout = tasks.create_task(_read(required(process.stdout), name))
            stderr = tasks.create_task(_read(required(process.stderr), name))
            code = await process.wait()
    except TimeoutError:
        raise ProgramTimeout(f"{name}: did not end within {timeout_seconds:g} s") from None
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        await _end(process)
    return Output(code, stdout.result(), stderr.result())


async def _write(stream: asyncio.StreamWriter, text: str) -> None:
    try:
        stream.write(text.encode())
        await stream.drain()
        stream.close()
        await stream.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it ended without reading, and its exit code tells why


async def _read(stream: asyncio.StreamReader, name: str) -> str:
    chunks, size = [], 0
    while chunk := await stream.read(65_536):
        size += len(chunk)
        if size > MAX_OUTPUT_BYTES:
            raise ProgramError(f"{name}: told more than {MAX_OUTPUT_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks).decode("utf-8", errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """With a wrapper's children: all that it started is in its session."""
    if process.returncode is not None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # ended, or sudo's, which ends with its pipes
    try:
        async with asyncio.timeout(END_SECONDS):
            # wait() waits for its pipes too, and a full one is not read to its end by itself.
            await asyncio.gather(_drain(required(process.stdout)), _drain(required(process.stderr)))
            await process.wait()
    except TimeoutError:
        pass


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65_536):
        pass
