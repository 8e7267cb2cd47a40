"""The examples of a documentation page, run as they stand there. They find addresses in environment variables that
the page names. `inside` are words before each command (a namespace), `cwd` is where it runs.

    page = Page("socket.md", ALICE=alice.http)
    page.run("curl -s -X POST http://$ALICE/v1/socket/start")    # the block that has these words in it; what it printed
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.nodes import ROOT

GUARD_SECONDS = 600
RUNNERS = {"sh": ["sh", "-eu", "-c"], "python": [sys.executable, "-c"]}

_FENCED = re.compile(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """`title` is what stands behind the language, such as the name of a file."""

    language: str
    title: str
    text: str


class Page:
    """A page of docs/. `left` are the blocks that can run and have not been run: at the end there should be none."""

    def __init__(self, name: str, *, inside: Sequence[str] = (), cwd: Path | None = None, **environ: str):
        self.blocks = [Block(*found) for found in _FENCED.findall((ROOT / "docs" / name).read_text())]
        self.left = [block for block in self.blocks if block.language in RUNNERS]
        self._inside, self._cwd = inside, cwd
        self._environ = os.environ | {"no_proxy": "127.0.0.1,localhost"} | environ

    def block(self, words: str) -> Block:
        """The only block that can run and has these words in it."""
        (found,) = [block for block in self.blocks if block.language in RUNNERS and words in block.text]
        return found

    def output(self, words: str) -> str:
        """The block behind the one with these words: what it is said to print."""
        return self.blocks[self.blocks.index(self.block(words)) + 1].text

    def start(self, words: str) -> subprocess.Popen:
        return self.start_block(self.block(words))

    def start_block(self, block: Block) -> subprocess.Popen:
        return self._popen(
            block.language, block.text, [block], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    @contextmanager
    def running(self, *words: str, output: Path) -> Iterator[subprocess.Popen]:
        """The blocks with these words in one terminal, until Ctrl-C; what they print goes to a file."""
        blocks = [self.block(found) for found in words]
        with output.open("w") as file:
            text = "\n".join(block.text for block in blocks)
            process = self._popen("sh", text, blocks, stdout=file, stderr=file, start_new_session=True)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(GUARD_SECONDS)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def _popen(self, language: str, text: str, blocks: list[Block], **more) -> subprocess.Popen:
        self.left = [block for block in self.left if block not in blocks]
        command = [*self._inside, *RUNNERS[language], text]
        return subprocess.Popen(command, env=self._environ, cwd=self._cwd, text=True, **more)

    def run(self, words: str) -> str:
        return ended(self.start(words))

    def run_block(self, block: Block) -> str:
        return ended(self.start_block(block))


def ended(process: subprocess.Popen) -> str:
    """What an example printed, once it has ended well."""
    try:
        printed, errors = process.communicate(timeout=GUARD_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return printed
