"""Django's SQLite, whose new files are readable by the node's user alone, whoever's command makes them, and shrink when
rows are deleted (nodeapi/sqlite_space.py).
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from django.db.backends.sqlite3 import base

from nodeapi.node_files import make_private

IN_MEMORY = ":memory:"
BUSY_SECONDS = 20


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection:
        name = str(conn_params["database"])
        if name != IN_MEMORY and not name.startswith("file:"):
            # SQLite gives -wal and -shm the mode of this file and, for root, its owner (os_unix.c, findCreateFileMode).
            make_private(Path(name))
            _prepare_new(name)
        connection: Connection = super().get_new_connection(conn_params)
        return connection


def _prepare_new(name: str) -> None:
    """Of an empty file: once it has a page, SQLite changes nothing of this any more. To repeat it does no harm."""
    if Path(name).stat().st_size == 0:
        with closing(sqlite3.connect(name, timeout=BUSY_SECONDS)) as database:
            database.execute("PRAGMA auto_vacuum=INCREMENTAL")
            # Writes the first page.
            database.execute("VACUUM")
