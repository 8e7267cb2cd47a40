"""The address of a PostgreSQL database, as libpq reads it. Loads psycopg: for nodes on PostgreSQL alone."""

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict

# A server that has vanished without a word is given up within half a minute (seconds, but tcp_user_timeout in ms).
DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "impervious",
}


def parse(text: str) -> dict[str, str]:
    """libpq's parameters by their names, with defaults that end the wait for a server that has vanished."""
    try:
        parameters = {name: str(value) for name, value in conninfo_to_dict(text).items()}
    except (psycopg.Error, ValueError):
        parameters = {}
    ports = parameters.get("port", "").split(",")
    # An @ in the host is the end of a password that was not written in percent codes: it must not get into a message.
    usable = "@" not in parameters.get("host", "") and all(re.fullmatch("[0-9]{0,5}", port) for port in ports)
    if not text.startswith(("postgresql://", "postgres://")) or not parameters.get("dbname") or not usable:
        raise ValueError(
            "is no address of a PostgreSQL database; must be postgresql://user:password@host:port/name with percent "
            "codes for special characters (%40 for @), and ?host=/directory for a socket"
        )
    return DEFAULTS | parameters
