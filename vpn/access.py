"""How a node that does not run as root is let to `wg`: what is wrong with the script that vpn.binary_path names."""

import os
import re
import stat
from pathlib import Path

from vpn import programs
from vpn.wireguard import WRAPPER

SHIPPED = Path(__file__).resolve().parents[1] / "deploy" / "vpn" / "impervious-wg"
MAX_SCRIPT_BYTES = 65_536
# Of ./impervious simulate --vpn.
STAND_IN = "wg-stand-in"
INSTALL = f"install -o root -g root -m 755 deploy/vpn/impervious-wg {WRAPPER}"


def problems(binary_path: str, *, shipped: Path = SHIPPED) -> list[str]:
    """Each with what to do about it. Of programs that are no scripts there is nothing to say."""
    found = programs.find(binary_path)
    script = _script(Path(found)) if found else b""
    if not found or not script:
        return []
    if Path(found).name == STAND_IN:
        return [f"{found} is a stand-in for trying: no tunnel comes of the leases; use the real wg"]
    if Path(found).name == Path(WRAPPER).name:
        return [*_not_roots_own(Path(found)), *_outdated(Path(found), script, shipped)]
    if re.search(rb"\bsudo\b.*\bwg\b", script) and Path(WRAPPER).name.encode() not in script:
        return [
            (
                f"{found} calls `wg` itself by sudo, and whoever may do that reads root's files by it "
                f"(wg set … preshared-key FILE); {INSTALL}, name that in vpn.binary_path, and let /etc/sudoers.d permit it alone"
            )
        ]
    return []


def _script(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_SCRIPT_BYTES)
    except OSError:
        return b""
    return content if content.startswith(b"#!") else b""


def _not_roots_own(path: Path) -> list[str]:
    """Who can change it, or put another one in its place, is root."""
    return [
        f"{place} does not belong to root, or others may write it: who does is root by sudo; chown root:root and "
        f"chmod 755 {place}"
        for place in (path.resolve(), path.resolve().parent)
        if not _is_roots_own(place)
    ]


def _is_roots_own(path: Path) -> bool:
    found = os.stat(path)
    return found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _outdated(path: Path, script: bytes, shipped: Path) -> list[str]:
    if not shipped.exists() or shipped.read_bytes() == script:
        return []
    return [f"{path} is not the one of this version; {INSTALL}"]
