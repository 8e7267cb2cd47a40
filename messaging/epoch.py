"""Which process writes: one that takes a node's database raises its epoch, and by that ends all others that wrote there.

A process that was paused, or cut off from the database, does not know that another one has taken over. Each of its write
transactions therefore checks the epoch under a lock that conflicts with raising it: what it commits is committed before
the other begins, or not at all.
"""

from django.db import connection

OVERTAKEN = "another runimpd has taken over this database meanwhile; this one stops, and changes nothing more"
_TABLE = "messaging_epoch"
RAISE = (
    f"INSERT INTO {_TABLE} (id, number) VALUES (1, 1) "  # noqa: S608 (a constant)
    f"ON CONFLICT (id) DO UPDATE SET number = {_TABLE}.number + 1 RETURNING number"
)
READ = f"SELECT number FROM {_TABLE} WHERE id = 1"  # noqa: S608 (a constant)


class OvertakenError(Exception):
    """Another process writes now."""

    def __init__(self) -> None:
        super().__init__(OVERTAKEN)


def begin() -> int:
    """Raise the epoch, and return it. For the process that holds the node's lock, where nobody else can hold a row."""
    with connection.cursor() as cursor:
        cursor.execute(RAISE)
        number: int = cursor.fetchone()[0]
    return number


def check(number: int) -> None:
    """Raise OvertakenError unless this epoch holds. Called in a transaction, it holds until the transaction's end.

    SQLite has one writer at a time, so that there no lock is needed.
    """
    lock = " FOR SHARE" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(READ + lock)
        found = cursor.fetchone()
    if found is None or found[0] != number:
        raise OvertakenError
