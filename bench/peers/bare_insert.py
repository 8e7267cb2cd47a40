"""One SQLite insert a call, committed to the disk (WAL, synchronous=FULL), in a thread of its own."""

import asyncio
import sqlite3
import uuid
from concurrent.futures import ThreadPoolExecutor


class Inserts:
    def __init__(self, path: str):
        self._executor = ThreadPoolExecutor(1)
        self._path = path
        self._connection = None

    async def insert(self, body: bytes) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._insert, body)

    def _insert(self, body: bytes) -> str:
        if self._connection is None:
            self._connection = sqlite3.connect(self._path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS message (id TEXT PRIMARY KEY, body BLOB)")
        identity = str(uuid.uuid4())
        self._connection.execute("INSERT INTO message VALUES (?, ?)", (identity, body))
        return identity
