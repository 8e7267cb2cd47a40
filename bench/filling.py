"""A node's SQLite file as it is after years: rows put into it by SQL, while no node has it open.

Of N messages half were sent, each with its attempt and the event of its delivery; half were received, each with its HTLC's key
and its event. They are of the last ten days, so that no event is too old to be kept; the messages of `pubkeys` are an eighth
each, the others are of N / 100 strangers.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

BODY_BYTES = 60
CACHE_KB = 1_000_000


def fill(path: Path, *, messages: int, pubkeys: Sequence[str] = ()) -> None:
    """`pubkeys`: up to two nodes: one that this node heard from, and one that it wrote to, more than others."""
    with _bulk(path) as db:
        _plan(db, messages, pubkeys)
        for statement in _INSERTS:
            db.execute(statement)


def fill_received(path: Path, *, messages: int) -> None:
    """Nothing but the events of messages that were received, as many as that."""
    with _bulk(path) as db:
        _plan(db, messages, ())
        db.execute("UPDATE plan SET sent = 0")
        db.execute(_INSERT_EVENTS)


@contextmanager
def _bulk(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction without the indexes, which are made anew behind it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=OFF")
        db.execute("PRAGMA synchronous=OFF")
        db.execute(f"PRAGMA cache_size=-{CACHE_KB}")
        db.execute("PRAGMA temp_store=MEMORY")
        indexes = db.execute(
            "SELECT name, sql FROM sqlite_master WHERE type='index' AND sql IS NOT NULL AND tbl_name LIKE 'messaging_%'"
        ).fetchall()
        for name, _ in indexes:
            db.execute(f'DROP INDEX "{name}"')
        db.execute("BEGIN")
        yield db
        db.execute("COMMIT")
        for _, sql in indexes:
            db.execute(sql)
        # An lnd that this database has not seen: it begins at its end.
        db.execute("DELETE FROM messaging_invoicemark")
        db.execute("PRAGMA journal_mode=WAL")


def _plan(db: sqlite3.Connection, messages: int, pubkeys: Sequence[str]) -> None:
    strangers = max(1, messages // 100)
    db.execute("CREATE TEMP TABLE stranger (n INTEGER PRIMARY KEY, pubkey TEXT)")
    db.execute(
        f"INSERT INTO stranger {_numbers(strangers)} SELECT i - 1, '02' || lower(hex(randomblob(32))) FROM n"
    )
    # Which row is whose, and when.
    db.execute(
        "CREATE TEMP TABLE plan (i INTEGER PRIMARY KEY, sent INTEGER, pubkey TEXT, message_id TEXT, attempt_id TEXT, at TEXT)"
    )
    cases = "".join(
        f" WHEN i % 8 = {place} THEN '{pubkey}'" for place, pubkey in zip((0, 3), pubkeys, strict=False)
    )
    stranger = f"(SELECT pubkey FROM stranger WHERE stranger.n = i * 7919 % {strangers})"
    pubkey = f"CASE{cases} ELSE {stranger} END" if cases else stranger
    moment = f"strftime('%Y-%m-%d %H:%M:%f', 'now', '-10 days', (864000.0 * i / {messages}) || ' seconds') || '000'"
    db.execute(
        f"INSERT INTO plan {_numbers(messages)}"
        f" SELECT i, i / 2 % 2, {pubkey}, lower(hex(randomblob(16))), lower(hex(randomblob(16))), {moment} FROM n"
    )


def _numbers(count: int) -> str:
    return f"WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {count})"


_INSERT_EVENTS = (
    "INSERT INTO messaging_event (message_id, reply_to, from_pubkey, data, service_type, amount_sat, created_at)"
    " SELECT message_id, NULL, CASE sent WHEN 1 THEN '' ELSE pubkey END, CASE sent WHEN 1 THEN"
    ' CAST(\'{"state":"settled","service":"message","pubkey":"\' || pubkey || \'","attempts":1,"parts":1,"amount":"1",'
    '"feeMsat":"0","error":""}\' AS BLOB)'
    f" ELSE randomblob({BODY_BYTES}) END, CASE sent WHEN 1 THEN 'delivery' ELSE 'message' END, 1, at FROM plan ORDER BY i"
)
_INSERTS = (
    (
        "INSERT INTO messaging_peer (pubkey, label, marked, blocked, refused, written_to, reply_hints, first_seen_at, last_seen_at)"
        " SELECT pubkey, '', 0, 0, 0, max(sent), '[]', min(at), max(at) FROM plan GROUP BY pubkey"
    ),
    (
        "INSERT INTO messaging_attempt (id, secret, name, payer, destination, service, packet, amount_msat, fee_msat, state,"
        " cause, created_at, ended_at)"
        " SELECT attempt_id, randomblob(32), randomblob(32), '', pubkey, 'message', x'', 1000, 0, 'settled', '', at, at"
        " FROM plan WHERE sent ORDER BY attempt_id"
    ),
    (
        "INSERT INTO messaging_message (message_id, direction, pubkey, service, reply_to, body, amount_msat, state, attempts,"
        " fee_msat, error, alone, created_at, updated_at, next_try_at, expires_at, attempt_id, cost_msat, parts)"
        " SELECT message_id, CASE sent WHEN 1 THEN 'out' ELSE 'in' END, pubkey, 'message', NULL,"
        f" randomblob({BODY_BYTES}), 1000, CASE sent WHEN 1 THEN 'settled' ELSE 'received' END, sent, 0, '', 0, at, at, NULL,"
        " CASE sent WHEN 1 THEN at END, CASE sent WHEN 1 THEN attempt_id END, 1000 * sent, 1 FROM plan ORDER BY i"
    ),
    "INSERT INTO messaging_receivedhtlc (key, received_at) SELECT randomblob(32) AS key, at FROM plan WHERE NOT sent",
    _INSERT_EVENTS,
)
