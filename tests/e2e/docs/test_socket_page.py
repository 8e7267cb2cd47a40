"""docs/socket.md: its examples, run as they stand there."""

import json
import re
from uuid import UUID

from tests.support.doc_examples import Page, ended
from tests.support.streams import nothing_told


def test_the_page_from_top_to_bottom(alice, bob):
    # An example prints the first event that it sees.
    with nothing_told(alice, bob):
        pass
    page = Page("socket.md", ALICE=alice.http, BOB=bob.http)
    assert page.run("export ALICE") == f"{alice.http} {bob.http} {bob.pubkey}\n"
    page = Page("socket.md", ALICE=alice.http, BOB=bob.http, BOB_KEY=bob.pubkey)
    try:
        told = json.loads(page.run("/v1/socket/start\n"))
        assert list(told) == list(json.loads(page.output("/v1/socket/start\n")))
        assert page.run('b"hello"') == "hello\n"

        listening = page.start("service=socket")
        assert listening.stdout.readline() == "listening\n"
        assert UUID(json.loads(page.run("/v1/socket/sendRequest"))["id"])
        assert ended(listening) == f"{alice.pubkey} {told['ip']} {told['port2']}\n"
    finally:
        stopped = page.run("/v1/socket/stop")
    assert json.loads(stopped) == json.loads(page.output("/v1/socket/stop")) == {}
    assert [block.text for block in page.left if "export ALICE" not in block.text] == []


def test_the_event_is_shown_as_it_is(alice, bob):
    """The JSON of a `socket` event, but for the numbers."""
    page = Page("socket.md")
    (shown,) = [block.text for block in page.blocks if '"recordId"' in block.text]
    start = json.loads(page.output("/v1/socket/start\n"))
    assert re.sub(r'"recordId":"SOCKET",', "", shown.strip()) == json.dumps(start, separators=(",", ":"))
