"""What commands print: tables and colour on a terminal, plain text elsewhere, JSON for programs.

Text from elsewhere goes through `safe` first: a control character of another node's must not reach the terminal, where
it could move the cursor, change the title or forge lines.
"""

import json
import os
import sys
import unicodedata
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

# Control, format (bidi overrides, zero width), surrogate, private, unassigned; line and paragraph separators.
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MARKS = frozenset({"Mn", "Me"})
# As many as a letter of a living language bears; more of them climb over the lines above.
MAX_MARKS = 4
TAB_COLUMNS = 4
# A table of nodes shows whole keys from this width on.
WIDE_COLUMNS = 120
# So that a pipe or a file gets every line whole.
_NO_TERMINAL_COLUMNS = 10_000
_THEME = Theme(
    {"good": "green", "warn": "yellow", "bad": "bold red", "head": "bold", "dim": "dim", "id": "cyan"}
)


def console(stream: TextIO | None = None) -> Console:
    """For standard output, or another stream. Honours NO_COLOR, and uses no colour and no wrapping where there is no
    terminal. It takes no markup: `[red]` in a message is just text.
    """
    stream = stream or sys.stdout
    # A locale without UTF-8 must not end a command with an error.
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    width = None if stream.isatty() or "COLUMNS" in os.environ else _NO_TERMINAL_COLUMNS
    return Console(file=stream, markup=False, highlight=False, emoji=False, theme=_THEME, width=width)


def errors() -> Console:
    """For what is not the command's answer: progress, and why it cannot be done."""
    return console(sys.stderr)


def fail(text: str) -> SystemExit:
    """To be raised: one line on standard error, exit code 1."""
    errors().print(Text.assemble(("Error: ", "bad"), safe(text)), soft_wrap=True)
    return SystemExit(1)


def safe(text: str, *, lines: bool = False) -> str:
    r"""The text without anything that a terminal would obey: such characters stand as \x1b or \u202e. With `lines`,
    line breaks stay and tabs become spaces.
    """
    if lines:
        text = text.replace("\r\n", "\n").expandtabs(TAB_COLUMNS)
    shown, marks = [], 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in _MARKS else 0
        obeyed = category in _ESCAPED and not (lines and character == "\n")
        shown.append(_escape(character) if obeyed or marks > MAX_MARKS else character)
    return "".join(shown)


def _escape(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def is_text(data: bytes) -> bool:
    """Whether bytes are meant to be read: UTF-8, and hardly anything in it that would have to be escaped."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    escaped = sum(
        unicodedata.category(character) in _ESCAPED and character not in "\n\r\t" for character in text
    )
    return escaped * 4 <= len(text)


def print_json(data: Any, *, indent: int | None = 2) -> None:
    """JSON in ASCII alone, so that it does nothing to a terminal either."""
    text = json.dumps(data, indent=indent).replace("\x7f", "\\u007f")
    print(text, flush=True)


def put(out: Console, renderable: Table) -> None:
    """Prints a table; where there is no terminal, without the spaces that fill its last column."""
    if out.is_terminal:
        out.print(renderable)
        return
    with out.capture() as captured:
        out.print(renderable)
    out.print("\n".join(line.rstrip() for line in captured.get().splitlines()), soft_wrap=True)


def table(*heads: str, right: tuple[str, ...] = ()) -> Table:
    """Columns without lines around them; those named in `right` are for numbers."""
    made = Table(box=None, pad_edge=False, header_style="head", padding=(0, 2, 0, 0))
    for head in heads:
        made.add_column(head, justify="right" if head in right else "left", overflow="fold")
    return made


def facts() -> Table:
    """A grid of names and values."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    return made


def key(pubkey: str, out: Console) -> str:
    """A node's key: whole, or on a narrow terminal its ends."""
    if not pubkey or out.width >= WIDE_COLUMNS or len(pubkey) <= 24:
        return pubkey
    return f"{pubkey[:14]}…{pubkey[-6:]}"


def sat(amount: int) -> str:
    return f"{amount:,} sat"


def duration(seconds: float) -> str:
    """In its two largest units: 3 d 4 h."""
    seconds = max(0, int(seconds))
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if seconds >= size:
            parts.append(f"{seconds // size} {unit}")
            seconds %= size
    return " ".join(parts[:2]) or "0 s"


def ago(moment: str) -> str:
    """How long ago a moment in RFC 3339 was."""
    passed = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    return "now" if passed < 1 else f"{duration(passed)} ago"
