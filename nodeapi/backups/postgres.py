"""A PostgreSQL database as a file and back, by the server's own programs (pg_dump, pg_restore, psql)."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from messaging.required import required
from nodeapi.backups.archive import BackupError

# The database is the node's own (docs/operating.md). Tables take their indexes and sequences along.
DROP_ALL = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
    LOOP EXECUTE format('DROP TABLE public.%I CASCADE', name); END LOOP;
END $$;
"""


def connect(parameters: Mapping[str, str]) -> psycopg.Connection:
    try:
        return psycopg.connect(**dict[str, Any](parameters))
    except psycopg.Error as error:
        raise BackupError(f"database.url: the PostgreSQL database cannot be used ({error})") from None


def dump(parameters: Mapping[str, str], target: Path, *, snapshot: str = "") -> None:
    """As pg_dump's custom format. `snapshot`: of a transaction that is still open."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    options = [f"--snapshot={snapshot}"] if snapshot else []
    _run(
        parameters,
        "pg_dump",
        "--format=custom",
        "--no-owner",
        "--no-privileges",
        f"--file={target}",
        *options,
    )


def script_of(dumped: Path, target: Path) -> None:
    """The dump as SQL: what pg_restore can write out whole is a whole dump."""
    _run({}, "pg_restore", "--no-owner", "--no-privileges", "--no-comments", f"--file={target}", str(dumped))


def is_empty(parameters: Mapping[str, str]) -> bool:
    with connect(parameters) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        return required(tables)[0] == 0


def replace(parameters: Mapping[str, str], *scripts: Path) -> None:
    """All or nothing: drops what is there and runs these, in one transaction."""
    files = [f"--file={path}" for path in scripts]
    _run(
        parameters,
        "psql",
        "--no-psqlrc",
        "--quiet",
        "--single-transaction",
        "--set=ON_ERROR_STOP=1",
        "--output=/dev/null",
        f"--command={DROP_ALL}",
        *files,
    )


def _run(parameters: Mapping[str, str], program: str, *arguments: str) -> None:
    """The password goes by the environment: arguments are for all to see."""
    environ = dict(os.environ)
    if parameters:
        shown = {name: value for name, value in parameters.items() if name != "password"}
        arguments = (f"--dbname={make_conninfo(**shown)}", *arguments)
        if "password" in parameters:
            environ["PGPASSWORD"] = parameters["password"]
    try:
        done = subprocess.run(
            [program, *arguments],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        advice = "apt install postgresql-client (of the server's version)"
        raise BackupError(f"{program} is not installed: {advice}") from None
    if done.returncode:
        raise BackupError(f"{program} failed: {done.stderr.strip()[-2000:]}")
