"""The examples of a page of the documentation, run as they stand: fenced blocks marked `sh` or `python`, in their order."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SECONDS = 120


@dataclass(frozen=True)
class Example:
    """`title` is what stands behind the language, such as the name of a file."""

    language: str
    title: str
    code: str
    line: int


def examples(page: Path) -> Iterator[Example]:
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Example(found[1], found[2].strip(), found[3], line)


def run(example: Example, environ: Mapping[str, str]) -> str:
    """What it prints. AssertionError with all that it said when it fails."""
    command = ["bash", "-euo", "pipefail", "-c"] if example.language == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, example.code], env=os.environ | dict(environ), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, f"line {example.line}:\n{example.code}\n{done.stdout}\n{done.stderr}"
    return done.stdout
