"""Whether files that hold secrets can be read by every user of this machine."""

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nodeapi.cli.doctor.findings import Finding, Patient, ok, wrong

# Keys whose value is a secret, and the key that names the file of one.
_SECRETS = ("sqlite3.password", "database.url", "redis.url", "lightning.lnd_node.admin_macaroon_hex")
_NAME = "lightning.lnd_node.admin_macaroon"


def check(patient: Patient) -> Iterator[Finding]:
    files = [path for path in _files(patient) if path.exists()]
    exposed = [path for path in files if _others_can_read(path)]
    for path in exposed:
        yield wrong(
            f"every user of this machine can read {path}, which holds secrets",
            f"chmod o= {shlex.quote(str(path))}",
        )
    if not exposed:
        yield ok(f"the {len(files)} files with secrets are closed to other users")


def _files(patient: Patient) -> Iterator[Path]:
    config = patient.config
    if config.path is not None:
        yield from _configured(config.path)
        yield config.path.with_suffix(".vpn.key")
    directory = config.path.parent if config.path else Path.cwd()
    for name, value in os.environ.items():
        if name.startswith("IMPD_") and (
            name.endswith("_FILE") or name == "IMPD_LIGHTNING__LND_NODE__ADMIN_MACAROON"
        ):
            yield directory / value
    if config.server.tls_key:
        yield config.server.tls_key
    yield config.database.secret_key_path
    if database := config.database.sqlite_path:
        yield database
        yield from database.parent.glob(f"{database.name}-wal")
        yield from database.parent.glob(f"{database.name}.*before-*")


def _configured(path: Path) -> Iterator[Path]:
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return
    if any(_holds_secret(_value(tree, key)) for key in _SECRETS):
        yield path
    keys = _value(tree, "server.api_keys")
    named = (
        [entry.get("key_file") for entry in keys if isinstance(entry, dict)] if isinstance(keys, list) else []
    )
    for name in (*named, _value(tree, _NAME)):
        if name and isinstance(name, str):
            yield path.parent / Path(name).expanduser()


def _holds_secret(value: Any) -> bool:
    """Of the addresses of servers, those with a password."""
    text = str(value or "")
    return bool(text) and ("@" in text or "://" not in text)


def _value(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _others_can_read(path: Path) -> bool:
    try:
        real = path.resolve()
        return bool(real.stat().st_mode & stat.S_IROTH) and all(
            parent.stat().st_mode & stat.S_IXOTH for parent in real.parents
        )
    except OSError:
        return False
