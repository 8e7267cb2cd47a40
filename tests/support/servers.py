"""Servers of a test's own: those that tests/services.sh started are shared by all workers, and are neither stopped nor
set otherwise.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from psycopg import sql

from tests.support.ports import HOST, free_port
from tests.support.waiting import GUARD_SECONDS, until


class RedisServer:
    """Empty at each start."""

    def __init__(self, directory: Path):
        self.port = free_port()
        self._directory = directory
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def start(self) -> None:
        command = ["redis-server", "--bind", HOST, "--port", str(self.port), "--dir", str(self._directory)]
        command += ["--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()


class PostgresServer:
    """As tests/services.sh starts one. `url` is that of its database `postgres`."""

    def __init__(self) -> None:
        port, self._password = free_port(), secrets.token_hex(16)
        self.url = f"postgresql://impervious:{self._password}@{HOST}:{port}/postgres"
        # Of a short name, for the socket in it, and where the server's user may enter.
        self._directory = Path(tempfile.mkdtemp(prefix="impervious-postgres-", dir="/tmp"))
        self._command = [_program("postgres"), f"-D{self._directory}/data", f"-p{port}"]
        self._command += [f"-clisten_addresses={HOST}", f"-cunix_socket_directories={self._directory}"]
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        with open(self._directory / "log", "ab") as log:
            process = subprocess.Popen(
                self._command, cwd=self._directory, stdout=log, stderr=log, **_unprivileged()
            )
        self._process = process
        until(lambda: self._answers(process))

    def stop(self) -> None:
        """At once: nobody's transaction is ended well."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(GUARD_SECONDS)

    def new_database_url(self) -> str:
        name = f"test_{uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def __enter__(self) -> Self:
        try:
            self._make()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self._directory)

    def _make(self) -> None:
        password = self._directory / "password"
        password.write_text(self._password)
        owner = _unprivileged()
        if owner:
            for path in (self._directory, password):
                os.chown(path, owner["user"], owner["group"])
        command = [_program("initdb"), f"--pgdata={self._directory}/data", "--username=impervious"]
        command += [f"--pwfile={password}", "--auth=scram-sha-256"]
        command += ["--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(command, check=True, cwd=self._directory, stdout=subprocess.DEVNULL, **owner)
        # In the file, so that a test can set it otherwise.
        with open(self._directory / "data" / "postgresql.conf", "a") as settings:
            settings.write("fsync = off\n")

    def _answers(self, process: subprocess.Popen) -> bool:
        assert process.poll() is None, (self._directory / "log").read_text()[-3000:]
        try:
            with psycopg.connect(self.url):
                return True
        except psycopg.OperationalError:
            return False


def _program(name: str) -> str:
    return f"{os.environ['TEST_POSTGRES_BIN']}/{name}"


def _unprivileged() -> dict[str, Any]:
    """Options for subprocess: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    account = accounts.get("postgres") or accounts["nobody"]
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
