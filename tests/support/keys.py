"""API keys of nodes under test: by the command, and, where that is not what is tested, straight into the database."""

import hashlib
import json
import secrets
import subprocess
import sys
from datetime import UTC, datetime

from tests.support.databases import execute
from tests.support.nodes import Node


def keys_command(node: Node, *arguments: str) -> subprocess.CompletedProcess:
    """./impervious keys … on the node's configuration."""
    return subprocess.run(
        [sys.executable, str(node.root / "manage.py"), "keys", *arguments, "--config", str(node.config_path)],
        cwd=node.directory,
        capture_output=True,
        text=True,
        check=False,
    )


def make_key(node: Node, name: str, *options: str) -> str:
    made = keys_command(node, "make", "--name", name, *options)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def store_key(node: Node, name: str, scopes: list[str], *, budget_sat="NULL", calls_per_minute="NULL") -> str:
    """A new key, which the node accepts when this returns; a daphne beside it reads it for itself."""
    key = "test_" + secrets.token_urlsafe(24)
    hashed = hashlib.sha256(key.encode()).hexdigest()
    blob = f"X'{hashed}'" if node.database_url.startswith("sqlite") else f"'\\x{hashed}'"
    columns = "name, hash, scopes, budget_sat, calls_per_minute, created_at"
    values = (
        f"'{name}', {blob}, '{json.dumps(scopes)}', {budget_sat}, {calls_per_minute}, '{datetime.now(UTC)}'"
    )
    execute(node.database_url, f"INSERT INTO nodeapi_apikey ({columns}) VALUES ({values})")
    node.wait_until(lambda: f'"key": "{name}", "change": "made"' in node.log)
    return key


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def end_key(node: Node, name: str, column: str) -> None:
    """As if it was revoked, or had expired, by now: `column` is revoked_at or expires_at."""
    execute(
        node.database_url, f"UPDATE nodeapi_apikey SET {column} = '{datetime.now(UTC)}' WHERE name = '{name}'"
    )


def audit_rows(node: Node, where: str) -> list[tuple]:
    """(operation, caller, peer, amount_msat, outcome, address, message_id), the oldest first."""
    columns = "operation, caller, peer, amount_msat, outcome, address, message_id"
    return execute(node.database_url, f"SELECT {columns} FROM nodeapi_auditentry WHERE {where} ORDER BY id")
