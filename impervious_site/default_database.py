"""Which SQLite file a node uses whose configuration names none.

One folder may hold the configurations of several nodes: each has a database that is named after it. Those with the usual
name, and every node before version 0.2, use `impervious.sqlite3`; what is in such a file says whose it is.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

DATABASE_NAME = "impervious.sqlite3"
USUAL_NAMES = frozenset({"config.yml", "local.config.yml"})
# The keys of the lnds that a database was used with (messaging.models.InvoiceMark).
_PUBKEYS = "SELECT pubkey FROM messaging_invoicemark"
# Another process that writes at this moment is soon ready.
BUSY_SECONDS = 5.0


def default_database(config: Path | None, directory: Path, pub_key: str) -> tuple[Path, bool]:
    """The file, and whether it may turn out to be another node's.

    Args:
        config: The configuration file; None on the simulated network.
        directory: Where the file is.
        pub_key: The node's key, if the configuration has it.
    """
    shared = directory / DATABASE_NAME
    if config is None or config.name in USUAL_NAMES:
        return shared, False
    own = config.with_suffix(".sqlite3")
    if own.exists() or not shared.exists():
        return own, False
    pubkeys = pubkeys_in(shared)
    if pub_key and pubkeys:
        return (shared, False) if pub_key.lower() in pubkeys else (own, False)
    return shared, True


def pubkeys_in(database: Path) -> frozenset[str]:
    """The keys of the nodes that have used it; empty where it cannot be told."""
    # Opened otherwise, a database that nobody has open would get files beside it, which stay.
    how = "mode=ro" if _has_open_journal(database) else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(_uri(database, how), uri=True, timeout=BUSY_SECONDS)) as connection:
            return frozenset(pubkey for (pubkey,) in connection.execute(_PUBKEYS))
    except sqlite3.Error:
        return frozenset()


def _has_open_journal(database: Path) -> bool:
    """Whether a process has it open, or was killed before all was in the database."""
    try:
        return database.with_name(f"{database.name}-wal").stat().st_size > 0
    except OSError:
        return False


def _uri(database: Path, how: str) -> str:
    return f"file:{quote(str(database))}?{how}"
