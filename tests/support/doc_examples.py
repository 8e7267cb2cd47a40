"""The examples of a documentation page, run as they stand there. They find addresses in environment variables that
the page names.

    page = Page("socket.md", ALICE=alice.http)
    page.run("curl -s -X POST http://$ALICE/v1/socket/start")    # the block that has these words in it; what it printed
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass

from tests.support.nodes import ROOT

GUARD_SECONDS = 60
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

    def __init__(self, name: str, **environ: str):
        self.blocks = [Block(*found) for found in _FENCED.findall((ROOT / "docs" / name).read_text())]
        self.left = [block for block in self.blocks if block.language in RUNNERS]
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
        if block in self.left:
            self.left.remove(block)
        return subprocess.Popen(
            [*RUNNERS[block.language], block.text], env=self._environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

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
