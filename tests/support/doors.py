"""The API's dispatcher with keys of the configuration and operations that do what a test asks of them."""

import dataclasses
from collections.abc import Awaitable, Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from messaging.database import Database
from nodeapi.audit import AuditLog
from nodeapi.auth import Caller, Keys, Visit, WebGuard
from nodeapi.doors import Doors
from nodeapi.keys import hash_of
from nodeapi.operations import OPERATIONS, Operation

PUBKEY = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
ADDRESS = "203.0.113.5"
# What the dispatcher asks of an engine.
ENGINE: Any = SimpleNamespace(limits=SimpleNamespace(expires_seconds=7_200))
SEND_MESSAGE, START_SOCKET = "messaging.Messaging/SendMessage", "socket.Socket/StartSocket"
LIST_MESSAGES, GET_INFO = "messaging.Messaging/ListMessages", "node.Node/GetInfo"


def secret_of(name: str) -> str:
    """The API key with this name."""
    return f"key-of-{name}-with-enough-characters"


def caller(
    name: str,
    *scopes: str,
    expires_at: datetime | None = None,
    budget_sat: int | None = None,
    calls_per_minute: int | None = None,
) -> Caller:
    return Caller(
        name=name,
        scopes=frozenset(scopes),
        hash=hash_of(secret_of(name)),
        expires_at=expires_at,
        budget_sat=budget_sat,
        calls_per_minute=calls_per_minute,
    )


def visit(name: str | None = None, *, address: str = ADDRESS, at: str = "", **metadata: str) -> Visit:
    """With the key of this name, or none. Underscores of `metadata` stand for hyphens."""
    given = {header.replace("_", "-"): value for header, value in metadata.items()}
    if name is not None:
        given["authorization"] = f"Bearer {secret_of(name)}"
    return Visit(metadata=given, address=address, at=at)


def operation(rpc: str, function: Callable[..., Awaitable[dict[str, Any]]] | None = None) -> Operation:
    """A row of the table, with another function if one is given."""
    row = next(row for row in OPERATIONS if row.rpc_path == f"/{rpc}")
    return dataclasses.replace(row, function=function) if function else row


def make_doors(database: Database, *callers: Caller, keys: Keys | None = None, **fields: Any) -> Doors:
    """Doors that store their audit log; without an engine unless `fields` bring one."""
    keys = keys or Keys(callers, database=database, open_on_loopback=False, tells=False)
    guard = WebGuard(
        allowed_hosts=["node.example"], allowed_origins=["https://app.example"], bound_hosts=["10.0.0.7"]
    )
    parts: dict[str, Any] = {
        "hub": None,
        "version": "1.2.3",
        "audit": AuditLog(database, stores=True),
        "guard": guard,
    }
    return Doors(database=database, keys=keys, **(parts | fields))
