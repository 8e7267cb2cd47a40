"""The commands about a node, run as their user does: a process of its own."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.nodes import ROOT, Node, node_environ

GUARD_SECONDS = 600


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def _command(name: str, arguments: tuple[str, ...], config: Path | None) -> list[str]:
    named = ["--config", str(config)] if config else []
    return [sys.executable, str(ROOT / "manage.py"), name, *named, *arguments]


def _environ(environ: dict[str, str] | None) -> dict[str, str]:
    return node_environ() | {"PYTHONIOENCODING": "utf-8"} | (environ or {})


def run(
    name: str, *arguments: str, config: Path | None, cwd: Path, environ=None, stdin: bytes = b"", **options
) -> Ended:
    """`options` are of subprocess.run. A traceback is never right."""
    ended = subprocess.run(
        _command(name, arguments, config),
        cwd=cwd,
        env=_environ(environ),
        input=stdin,
        capture_output=True,
        timeout=GUARD_SECONDS,
        check=False,
        **options,
    )
    found = Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())
    assert "Traceback" not in found.out + found.err, found.err
    return found


def command(node: Node, name: str, *arguments: str, **options) -> Ended:
    return run(name, *arguments, config=node.config_path, cwd=node.directory, **options)


class Running:
    """A command that goes on until it is ended, with what it has printed so far."""

    def __init__(self, name: str, *arguments: str, config: Path, cwd: Path, environ=None):
        self._paths = cwd / f"{name}-{time.time_ns()}.out", cwd / f"{name}-{time.time_ns()}.err"
        with open(self._paths[0], "wb") as out, open(self._paths[1], "wb") as err:
            self.process = subprocess.Popen(
                _command(name, arguments, config),
                cwd=cwd,
                env=_environ(environ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> str:
        return self._paths[0].read_text()

    @property
    def err(self) -> str:
        return self._paths[1].read_text()

    def wait_until(self, condition) -> None:
        for _ in range(GUARD_SECONDS * 20):
            if condition(self):
                return
            assert self.process.poll() is None or condition(self), (self.out, self.err)
            time.sleep(0.05)
        raise AssertionError(f"not within {GUARD_SECONDS} s: {self.out}\n{self.err}")

    def wait(self) -> int:
        return self.process.wait(timeout=GUARD_SECONDS)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()


def shell(node: Node, code: str) -> str:
    """Django in a process beside the node, as the admin of a daphne is."""
    done = subprocess.run(
        [sys.executable, str(node.root / "manage.py"), "shell", "-v", "0", "-c", code],
        env=os.environ | {"IMPD_CONFIG": str(node.config_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
