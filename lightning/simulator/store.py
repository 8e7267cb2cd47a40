"""The network's state on disk: SQLite in WAL mode, one transaction for each transition.

synchronous=NORMAL: what is committed survives kill -9 of the process. Invoices, payments and requests are kept as the
protobuf messages they are. Amounts in msat unless named _sat.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS node (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, secret BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS channel (
    id INTEGER PRIMARY KEY, node_a INTEGER NOT NULL, node_b INTEGER NOT NULL,
    capacity_sat INTEGER NOT NULL, private INTEGER NOT NULL,
    balance_a INTEGER NOT NULL, balance_b INTEGER NOT NULL, htlc_a INTEGER NOT NULL, htlc_b INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS invoice (
    node INTEGER, add_index INTEGER, hash BLOB NOT NULL, state INTEGER NOT NULL, invoice BLOB NOT NULL,
    PRIMARY KEY (node, add_index)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS invoice_hash ON invoice (node, hash);
CREATE INDEX IF NOT EXISTS invoice_pending ON invoice (node, state) WHERE state IN (0, 3);
CREATE TABLE IF NOT EXISTS settle (
    node INTEGER, settle_index INTEGER, add_index INTEGER NOT NULL, PRIMARY KEY (node, settle_index)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS payment (
    node INTEGER, hash BLOB, number INTEGER NOT NULL, status INTEGER NOT NULL, payment BLOB NOT NULL,
    request BLOB, route TEXT, accepted INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (node, hash)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS payment_number ON payment (node, number);
CREATE INDEX IF NOT EXISTS payment_open ON payment (status) WHERE status = 1;
"""
_MAX_INDEX = 2**62
# What a payment in flight waits for (column accepted): its way, a hold invoice's receiver, or nothing any more.
UNDER_WAY, ACCEPTED, STRANDED = range(3)
_PENDING = (lightning_pb2.Invoice.OPEN, lightning_pb2.Invoice.ACCEPTED)


class Store:
    """`path` may be ':memory:'."""

    def __init__(self, path: Path | str):
        self._db = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA busy_timeout=5000")
        self._db.executescript(_SCHEMA)
        self._depth = 0
        self._after: list[Callable[[], None]] = []

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One transition. Inner ones join the outer one; what after_commit() was given runs behind the commit."""
        if self._depth:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        self._depth = 1
        try:
            yield
        except BaseException:
            self._after.clear()
            self._db.execute("ROLLBACK")
            raise
        else:
            self._db.execute("COMMIT")
        finally:
            self._depth = 0
        callbacks, self._after = self._after, []
        for callback in callbacks:
            callback()

    def after_commit(self, callback: Callable[[], None]) -> None:
        if self._depth:
            self._after.append(callback)
        else:
            callback()

    # nodes and channels

    def add_node(self, name: str, secret: bytes) -> int:
        cursor = self._db.execute("INSERT INTO node (name, secret) VALUES (?, ?)", (name, secret))
        return cast("int", cursor.lastrowid)

    def nodes(self) -> list[tuple[int, str, bytes]]:
        return self._db.execute("SELECT id, name, secret FROM node ORDER BY id").fetchall()

    def add_channel(self, row: tuple[Any, ...]) -> None:
        self._db.execute("INSERT INTO channel VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def channels(self) -> list[tuple[Any, ...]]:
        return self._db.execute("SELECT * FROM channel ORDER BY id").fetchall()

    def set_balances(self, channel_id: int, balances: list[int], htlcs: list[int]) -> None:
        self._db.execute(
            "UPDATE channel SET balance_a=?, balance_b=?, htlc_a=?, htlc_b=? WHERE id=?",
            (balances[0], balances[1], htlcs[0], htlcs[1], channel_id),
        )

    # invoices

    def put_invoice(self, node: int, invoice: lightning_pb2.Invoice) -> None:
        self._db.execute(
            "INSERT INTO invoice VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (node, add_index) DO UPDATE SET state=excluded.state, invoice=excluded.invoice",
            (node, invoice.add_index, invoice.r_hash, invoice.state, invoice.SerializeToString()),
        )

    def invoice(self, node: int, payment_hash: bytes) -> lightning_pb2.Invoice | None:
        row = self._db.execute(
            "SELECT invoice FROM invoice WHERE node=? AND hash=?", (node, payment_hash)
        ).fetchone()
        return lightning_pb2.Invoice.FromString(row[0]) if row else None

    def invoices_after(
        self, node: int, offset: int, count: int = -1, *, pending: bool = False
    ) -> list[lightning_pb2.Invoice]:
        """In order of add_index, strictly after `offset`."""
        return self._invoices(
            f"node=? AND add_index>? {_only(pending)} ORDER BY add_index", node, offset, count
        )

    def invoices_before(
        self, node: int, offset: int, count: int, *, pending: bool = False
    ) -> list[lightning_pb2.Invoice]:
        """The newest ones strictly before `offset` (0: the very newest), in order of add_index."""
        offset = offset or _MAX_INDEX
        condition = f"node=? AND add_index<? {_only(pending)} ORDER BY add_index DESC"
        return self._invoices(condition, node, offset, count)[::-1]

    def add_settle(self, node: int, settle_index: int, add_index: int) -> None:
        self._db.execute("INSERT INTO settle VALUES (?, ?, ?)", (node, settle_index, add_index))

    def settled_after(self, node: int, settle_index: int) -> list[lightning_pb2.Invoice]:
        """What each settle index after this one leads to; an invoice paid twice stands there twice, as it is now."""
        rows = self._db.execute(
            "SELECT invoice.invoice FROM settle JOIN invoice USING (node, add_index) "
            "WHERE node=? AND settle_index>? ORDER BY settle_index",
            (node, min(settle_index, _MAX_INDEX)),
        )
        return [lightning_pb2.Invoice.FromString(row[0]) for row in rows]

    def last_indices(self, node: int) -> tuple[int, int, int]:
        """The newest add_index, settle_index and payment_index, 0 when there is none."""
        return tuple(
            self._db.execute(
                f"SELECT coalesce(max({column}), 0) FROM {table} WHERE node=?",  # noqa: S608 (names from below)
                (node,),
            ).fetchone()[0]
            for table, column in (("invoice", "add_index"), ("settle", "settle_index"), ("payment", "number"))
        )

    def _invoices(self, condition: str, node: int, offset: int, count: int) -> list[lightning_pb2.Invoice]:
        rows = self._db.execute(
            f"SELECT invoice FROM invoice WHERE {condition} LIMIT ?",  # noqa: S608 (of this module)
            (node, min(offset, _MAX_INDEX), min(count, _MAX_INDEX)),
        )
        return [lightning_pb2.Invoice.FromString(row[0]) for row in rows]

    # payments

    def put_payment(
        self,
        node: int,
        payment: lightning_pb2.Payment,
        request: router_pb2.SendPaymentRequest | None,
        route: list[Any] | None,
    ) -> None:
        """The request and the route are kept only while the payment is in flight."""
        self._db.execute(
            "INSERT OR REPLACE INTO payment VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
            (
                node,
                bytes.fromhex(payment.payment_hash),
                payment.payment_index,
                payment.status,
                payment.SerializeToString(),
                request.SerializeToString() if request is not None else None,
                json.dumps(route) if route is not None else None,
            ),
        )

    def accept_payment(self, node: int, payment_hash: bytes) -> None:
        """The receiver's hold invoice has the payment now; it waits for the receiver."""
        self._set_stage(node, payment_hash, ACCEPTED)

    def strand_payment(self, node: int, payment_hash: bytes) -> None:
        """It stays in flight for good, without an HTLC."""
        self._db.execute("UPDATE payment SET route=NULL WHERE node=? AND hash=?", (node, payment_hash))
        self._set_stage(node, payment_hash, STRANDED)

    def _set_stage(self, node: int, payment_hash: bytes, stage: int) -> None:
        self._db.execute("UPDATE payment SET accepted=? WHERE node=? AND hash=?", (stage, node, payment_hash))

    def payment(self, node: int, payment_hash: bytes) -> lightning_pb2.Payment | None:
        row = self._db.execute(
            "SELECT payment FROM payment WHERE node=? AND hash=?", (node, payment_hash)
        ).fetchone()
        return lightning_pb2.Payment.FromString(row[0]) if row else None

    def open_payments(self) -> list[tuple[Any, ...]]:
        """(node, payment, request, route, what it waits for) of each payment in flight."""
        rows = self._db.execute(
            "SELECT node, payment, request, route, accepted FROM payment WHERE status=1"
        ).fetchall()
        return [
            (
                node,
                lightning_pb2.Payment.FromString(payment),
                router_pb2.SendPaymentRequest.FromString(request),
                json.loads(route) if route else None,
                stage,
            )
            for node, payment, request, route, stage in rows
        ]


def _only(pending: bool) -> str:
    return f"AND state IN {_PENDING}" if pending else ""
