"""The product's code: its packages, and copies that tests change."""

import shutil
from pathlib import Path

from tests.support.nodes import ROOT

ROOMS = ("impervious_site", "nodeapi", "federation", "invoices", "vpn", "messaging", "lightning", "protos")


def copy_of_the_code(target: Path) -> Path:
    for room in ROOMS:
        shutil.copytree(ROOT / room, target / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "manage.py", target / "manage.py")
    return target
