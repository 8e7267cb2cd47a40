"""The site at /docs: whole, without anything from elsewhere; and what pages quote is so."""

import ast
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from docs.generator import configuration, navigation, site
from impervious_site import config, config_models
from impervious_site.config import PLACES
from impervious_site.config_sources import env_name
from tests.support.nodes import ROOT

DOCS = ROOT / "docs"
# Pages of the node that are no part of the site.
BESIDE = {"/docs/api", "/admin/"}
COMMAND = "run ./impervious docs, and commit what it changes"


class Parsed(HTMLParser):
    """The ids of a page, its links, and what a browser loads with it."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.scripts_within = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.ids.update(value for name, value in attributes if name == "id" and value)
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag == "link" and values.get("href"):
            loaded = values.get("rel") not in ("next", "prev", "index", "search")
            (self.loads if loaded else self.links).append(values["href"])
        elif values.get("src"):
            self.loads.append(values["src"])
        elif tag == "script":
            self.scripts_within += 1
        assert not [name for name in values if name.startswith("on")], "the policy forbids such scripts"


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> dict[str, bytes]:
    return site.build(tmp_path_factory.mktemp("docs") / "site")


@pytest.fixture(scope="module")
def pages(served) -> dict[str, Parsed]:
    return {name: Parsed(content.decode()) for name, content in served.items() if name.endswith(".html")}


def test_the_reference_of_the_configuration_is_fresh():
    assert (DOCS / configuration.PAGE).read_text() == configuration.page(), COMMAND


def test_every_page_has_its_place_in_the_navigation(pages):
    start = pages["index.html"]
    names = {f"{path.stem}.html" for path in DOCS.glob("*.md")}
    assert names <= pages.keys()
    assert names - {"index.html"} <= set(start.links)


def test_the_table_of_the_navigation_names_each_page_once():
    named = [page for pages in navigation.SECTIONS.values() for page in pages]
    assert len(named) == len(set(named))
    assert sorted(page for pages in navigation.sections(DOCS).values() for page in pages) == sorted(
        path.stem for path in DOCS.glob("*.md") if path.stem != navigation.START
    )


def test_every_link_leads_somewhere(served, pages):
    dead = []
    for name, page in pages.items():
        for link in page.links:
            if not leads_somewhere(link, name, served, pages):
                dead.append(f"{name}: {link}")
    assert not dead
    assert sum(len(page.links) for page in pages.values()) > 500


def leads_somewhere(link: str, name: str, served, pages) -> bool:
    parts = urlsplit(urljoin(f"/docs/{name}", link))
    if parts.scheme:
        return parts.scheme in ("http", "https") and re.fullmatch(r"[\w.-]+(:\d+)?", parts.netloc) is not None
    if parts.path in BESIDE:
        return True
    target = unquote(parts.path).removeprefix("/docs/") or "index.html"
    return target in served and (not parts.fragment or unquote(parts.fragment) in pages[target].ids)


def test_nothing_is_loaded_from_elsewhere(served, pages):
    for name, page in pages.items():
        assert not page.scripts_within, name
        for address in page.loads:
            parts = urlsplit(urljoin(f"/docs/{name}", address))
            assert not parts.netloc, (name, address)
            assert parts.path.removeprefix("/docs/") in served, (name, address)
    for name, content in served.items():
        if name.endswith(".css"):
            assert not re.findall(r"@import|url\(\s*['\"]?(?:https?:)?//", content.decode()), name


# the reference of the configuration


def described() -> list[configuration.Key]:
    return [
        key for keys in configuration.sections(configuration.EXAMPLE.read_text()).values() for key in keys
    ]


def test_every_key_has_a_meaning():
    """It is the comment behind the key in config/example.config.yml."""
    assert not configuration.without_meaning(), "each key needs a comment in config/example.config.yml"


def test_no_meaning_is_of_a_key_that_is_gone():
    assert configuration.MEANINGS.keys() <= {key.path for key in described()}


def test_every_list_of_mappings_is_described():
    assert configuration.LISTS.keys() == set(config._JSON_KEYS)


def test_every_key_is_in_the_reference():
    page = (DOCS / configuration.PAGE).read_text()
    for section, others in configuration.alike().items():
        for name in config_models.SECTIONS[section].model_fields:
            assert f"`{env_name(f'{section}.{name}')}`" in page, f"{section}.{name}"
        assert all(f"`{other}`" in page for other in others)
    assert all(place in page for place in PLACES)


def test_bounds_and_defaults_are_those_of_the_types():
    keys = {key.path: key for key in described()}
    assert (keys["message.in_flight"].type, keys["message.in_flight"].default) == (
        "whole number, at least 1",
        "`256`",
    )
    assert keys["federate.max_members"].type == "whole number, 1 to 1000"
    assert (keys["server.grpc_addr"].default, keys["lightning.lnd_node.ip"].default) == (
        "`127.0.0.1:8881`",
        "required",
    )
    assert (keys["socket.pin"].default, keys["lightning.max_fee_percent"].default) == ("`true`", "`5`")


# the messages in errors.md

ROOMS = ("impervious_site", "nodeapi", "federation", "invoices", "vpn", "messaging", "lightning")
GAP = "…"


def texts_of(node: ast.AST) -> str:
    """A string of the code with … for what is put into it, or … alone for what is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[sd]", GAP, node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(texts_of(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return texts_of(node.left) + texts_of(node.right)
    return GAP


def messages_of_the_code() -> Iterator[str]:
    """Strings, and the arguments of calls with a colon between, as `invalid(field, text)` puts them together."""
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                    yield texts_of(node)
                elif isinstance(node, ast.Call) and len(node.args) == 2:
                    yield ": ".join(texts_of(argument) for argument in node.args)


def quoted_messages(page: Path) -> list[str]:
    """What stands in backticks in the first column of its tables that are of messages or words."""
    quoted, of_messages = [], False
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if not line.startswith("|"):
            of_messages = False
        elif cells[1] in ("message", "word"):
            of_messages = True
        elif of_messages and not cells[1].startswith("---"):
            found = re.findall(r"``(.+?)``|`([^`]+)`", cells[1])
            assert found, line
            quoted += [double or single for double, single in found]
    return quoted


def simple(text: str) -> str:
    return re.sub(rf"{GAP}+", GAP, text)


def test_every_message_that_is_explained_is_one_of_the_code():
    known = "\n".join({simple(message) for message in messages_of_the_code()})
    quoted = quoted_messages(DOCS / "errors.md")
    assert len(quoted) > 80
    assert not [
        text for text in quoted if simple(text) not in known and without_field(simple(text)) not in known
    ]


def without_field(text: str) -> str:
    """Of "field: what is wrong" the field may stand elsewhere in the code."""
    _, colon, rest = text.partition(": ")
    return rest if colon else text


def test_every_status_of_the_code_is_explained():
    page = (DOCS / "errors.md").read_text()
    used = {
        node.attr
        for path in (ROOT / "nodeapi").rglob("*.py")
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("StatusCode")
    }
    # The rest are what lnd answers, and what a client does.
    for status in used - {"OK", "UNKNOWN", "CANCELLED"}:
        assert f"| {status.title().replace('_', '')} |" in page, status
