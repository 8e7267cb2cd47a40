"""The pages of the node (the admin, styles, what is not found) before strangers: nothing to get, and nothing to fill the
log with.
"""

import json
import logging
import re

import pytest

from impervious_site.logs import STRANGERS_A_MINUTE, OfStrangers
from tests.support.nodes import Node


@pytest.fixture(scope="module")
def named(network, tmp_path_factory):
    """carol's node, which others know by an address of IPv6."""
    server = {"allowed_hosts": ["2001:db8::7", "node.example"]}
    with Node(network.nodes["carol"], tmp_path_factory.mktemp("named"), extra={"server": server}) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/static/../../config.yml", "/static/%2e%2e/%2e%2e/etc/passwd", "/static/a%00b", "/static/"]
)
def test_a_path_out_of_the_static_files_is_not_found(alice, path):
    assert alice.get(path).status == 404
    assert "Exception inside application" not in alice.log


def test_a_style_is_there(alice):
    assert alice.get("/static/admin/css/base.css").status == 200


def test_the_icon_that_browsers_ask_for(named):
    icon = named.get("/favicon.ico")
    assert (icon.status, icon.headers["content-type"], icon.body[:4]) == (200, "image/x-icon", b"\0\0\1\0")
    assert "favicon" not in named.log


def test_what_strangers_ask_for_stands_in_the_log_without_a_stack_and_without_their_words(named):
    """On a node of these tests alone, which has room for the lines: what other tests ask of alice may fill a minute's."""
    assert named.get("/admin/", {"Host": "evil.example"}).status == 400
    assert named.get("/nothing-of-this-name?api_key=a-key-in-the-wrong-place").status == 404
    named.wait_until(lambda: "/nothing-of-this-name" in named.log and "evil.example" in named.log)
    told = [json.loads(line) for line in named.log.splitlines() if '"part": "django.' in line]
    assert told
    assert not any("exc_info" in line or "request" in line for line in told)
    assert "a-key-in-the-wrong-place" not in named.log


@pytest.mark.parametrize("path", ["/admin/login/", "/docs/api", "/nothing"])
def test_a_browser_runs_only_scripts_that_are_files_of_the_node(alice, path):
    page = alice.get(path)
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers.get("x-frame-options", "DENY") == "DENY"
    scripts = re.findall(rb"<script([^>]*)>(.*?)</script>", page.body, re.DOTALL)
    assert all(b"src=" in attributes and not inside.strip() for attributes, inside in scripts)
    for source in re.findall(rb'<script[^>]*src="([^"]*)"', page.body):
        assert alice.get(source.decode()).status == 200


@pytest.mark.parametrize(
    "host", ["[2001:db8::7]", "[2001:db8::7]:8882", "node.example", "localhost", "[::1]:8882"]
)
def test_the_pages_know_the_node_by_all_its_names_as_the_api_does(named, host):
    assert [named.get(path, {"Host": host}).status for path in ("/v1/node", "/admin/login/", "/docs/")] == [
        200
    ] * 3


def refusal(status: int = 404, text: str = "Not Found: /x") -> logging.LogRecord:
    record = logging.LogRecord("django.request", logging.WARNING, __file__, 1, text, (), None)
    record.status_code, record.request = status, "GET /x?y"
    return record


def test_refusals_are_bounded_and_errors_are_not():
    now = 1000.0
    log = OfStrangers(lambda: now)
    assert sum(log.filter(refusal()) for _ in range(5 * STRANGERS_A_MINUTE)) == STRANGERS_A_MINUTE
    assert all(log.filter(refusal(500)) for _ in range(5 * STRANGERS_A_MINUTE))
    now += 61
    again = refusal(text="Not Found: /" + "x" * 5_000)
    assert log.filter(again)
    assert again.left_out == 4 * STRANGERS_A_MINUTE
    assert len(again.getMessage()) < 500
    assert not hasattr(again, "request")
