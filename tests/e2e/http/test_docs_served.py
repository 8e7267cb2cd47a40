"""The documentation at /docs, as the node and a daphne beside it serve it."""

from collections.abc import Iterator

import pytest

from docs.generator import site
from tests.support.daphnes import Daphne
from tests.support.nodes import Node

FILES = {path.relative_to(site.SERVED).as_posix(): path for path in site.SERVED.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=["runimpd", "daphne"])
def node(request, alice) -> Iterator[Node]:
    if request.param == "runimpd":
        yield alice
        return
    with Daphne(alice) as daphne:
        yield daphne


def test_every_file_is_served_as_it_is(node):
    assert "index.html" in FILES
    assert len(FILES) > 30
    for name, path in FILES.items():
        reply = node.get(f"/docs/{name}")
        assert (reply.status, reply.body) == (200, path.read_bytes()), name
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "script-src 'self';" in reply.headers["content-security-policy"]


def test_the_start_page(node):
    moved = node.get("/docs")
    assert (moved.status, moved.headers["location"]) == (302, "/docs/")
    assert node.get("/docs/").body == FILES["index.html"].read_bytes()


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("messages.html", "text/html; charset=utf-8"),
        ("_static/styles/furo.css", "text/css; charset=utf-8"),
        ("searchindex.js", "text/javascript; charset=utf-8"),
        ("_static/favicon.svg", "image/svg+xml"),
        (next(name for name in FILES if name.endswith(".yml")), "text/plain; charset=utf-8"),
    ],
)
def test_content_types(node, name, content_type):
    assert node.get(f"/docs/{name}").headers["content-type"] == content_type


@pytest.mark.parametrize(
    "path",
    [
        "nothing.html",
        "_static",
        "_static/",
        "messages.html/",
        "../docs_site.py",
        "%2e%2e/docs_site.py",
        "..%2fdocs_site.py",
        "_static/../../docs_site.py",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "..%5cdocs_site.py",
        "index.html%00",
        "index.html%00.css",
    ],
)
def test_nothing_else_is_served(node, path):
    reply = node.get(f"/docs/{path}")
    assert reply.status == 404
    assert b"import" not in reply.body
    assert b"root:" not in reply.body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8882", "localhost.evil.example"])
def test_host_is_checked_as_in_the_admin(node, host):
    assert {
        node.get(path, {"Host": host}).status for path in ("/docs", "/docs/", "/docs/vpn.html", "/admin/")
    } == {400}


def test_a_browser_asks_whether_a_page_is_still_the_same(node):
    first = node.get("/docs/vpn.html")
    assert first.headers["cache-control"] == "no-cache"
    again = node.get("/docs/vpn.html", {"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert node.get("/docs/vpn.html", {"If-None-Match": '"of before"'}).status == 200


def test_it_is_only_read(node):
    assert node.post("/docs/index.html", {}).status in (403, 405)
    head = node.request("HEAD", "/docs/index.html")
    assert (head.status, head.body) == (200, b"")


def test_what_was_there_before_stays(node):
    assert b"nodeapi/api.js" in node.get("/docs/api").body
    assert b"SwaggerUIBundle" in node.get("/static/nodeapi/api.js").body
    assert node.get("/v1/openapi.json").json["openapi"]
    assert {node.get(path).status for path in ("/docs/api/", "/v1/node/", "/v1/openapi.json/")} == {404}
