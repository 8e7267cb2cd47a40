"""A cursor that the event log does not reach back to, or not up to, is told so, in the place of what is missing."""

import pytest

from tests.support.databases import execute
from tests.support.nodes import Node
from tests.support.streams import LineStream, WebsocketStream, delivery_of, grpc_stream, send


@pytest.fixture
def carol(network, tmp_path, bob):
    """A node whose log begins at 4 and ends at 8, one event for each message."""
    with Node(network.nodes["carol"], tmp_path / "carol") as node:
        for _ in range(8):
            send(node, bob)
        node.wait_until(lambda: len(node.get("/v1/messages?state=settled").json["messages"]) == 8)
        execute(node.database_url, "DELETE FROM messaging_event WHERE seq <= 3")
        yield node


@pytest.mark.parametrize("stream", [WebsocketStream, LineStream])
@pytest.mark.parametrize("query", ["?after=1", "?after=1&service=delivery"])
def test_cursor_before_the_log(carol, stream, query):
    with stream(carol, query) as opened:
        told = [opened.event() for _ in range(6)]
    assert (told[0]["serviceType"], told[0]["seq"]) == ("log", "3")
    assert delivery_of(told[0]) == {"error": "events 2 to 3 are no longer kept"}
    assert [event["seq"] for event in told[1:]] == ["4", "5", "6", "7", "8"]


@pytest.mark.parametrize("after", [0, 3, 4])
def test_cursor_that_is_good(carol, after):
    with WebsocketStream(carol, f"?after={after}") as stream:
        assert stream.event()["seq"] == str(max(4, after + 1))


def test_cursor_behind_the_log(carol, bob):
    with grpc_stream(carol, after=1_000) as call:
        told = next(call)
        assert (told.service_type, told.seq) == ("log", 8)
        assert b"the log ends at 8, before 1000" in told.data
        last = send(carol, bob)
        event = next(call)
    assert (event.id, event.seq) == (last, 9)
