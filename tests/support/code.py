"""The product's code: its packages, and copies that tests change."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.support.nodes import ROOT

ROOMS = ("impervious_site", "nodeapi", "federation", "invoices", "vpn", "messaging", "lightning", "protos")


def modules() -> Iterator[Path]:
    """All of its files, without the code that protoc makes."""
    for room in ROOMS:
        if room != "protos":
            yield from (ROOT / room).rglob("*.py")


def copy_of_the_code(target: Path) -> Path:
    for room in ROOMS:
        shutil.copytree(ROOT / room, target / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "manage.py", target / "manage.py")
    return target
