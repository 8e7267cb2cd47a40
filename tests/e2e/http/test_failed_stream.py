"""A stream whose log cannot be read ends, and says so: a client that hears nothing more must not go on waiting."""

import json
import sqlite3
from contextlib import closing, contextmanager

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.databases import only_on_sqlite
from tests.support.nodes import Node
from tests.support.streams import LineStream, WebsocketStream, send

INTERNAL = 13
INTERNAL_ERROR = 1011


@contextmanager
def log_away(node: Node):
    path = node.directory / "impervious.sqlite3"
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as database:
        database.execute("ALTER TABLE messaging_event RENAME TO event_of_the_tests")
        yield
        database.execute("ALTER TABLE event_of_the_tests RENAME TO messaging_event")


@only_on_sqlite
def test_stream_whose_log_cannot_be_read_ends_and_says_so(network, tmp_path):
    with Node(network.nodes["carol"], tmp_path / "carol") as node, log_away(node):
        with LineStream(node, "?after=0") as lines:
            assert json.loads(lines.text())["error"]["code"] == INTERNAL
            assert lines.text() == ""
        with WebsocketStream(node, "?after=0") as websocket, pytest.raises(ConnectionClosed) as closed:
            websocket.text()
        assert closed.value.rcvd.code == INTERNAL_ERROR


def test_acknowledgement_that_is_no_number_is_ignored(alice, bob):
    with WebsocketStream(bob, "?ack=1000") as stream:
        for text in ('{"ack":1e999}', '{"ack":"x"}', '{"ack":null}', "[", "7"):
            stream.connection.send(text)
        message_id = send(alice, bob)
        stream.until(lambda event: event["id"] == message_id)
