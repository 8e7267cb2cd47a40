"""Django's SQLite, whose new files are readable by the node's user alone, whoever's command makes them."""

from pathlib import Path
from sqlite3 import Connection
from typing import Any

from django.db.backends.sqlite3 import base

from nodeapi.node_files import make_private

IN_MEMORY = ":memory:"


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection:
        name = str(conn_params["database"])
        if name != IN_MEMORY and not name.startswith("file:"):
            # SQLite gives -wal and -shm the mode of this file and, for root, its owner (os_unix.c, findCreateFileMode).
            make_private(Path(name))
        connection: Connection = super().get_new_connection(conn_params)
        return connection
