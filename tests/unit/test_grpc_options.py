"""Every option that is given to gRPC is one that its library knows: it takes any, and ignores what it does not know."""

import ast
import string
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from grpc._cython import cygrpc

from tests.support.nodes import ROOT

NAME_CHARACTERS = string.ascii_letters + "_."
DIRECTORIES = (
    "bench",
    "deploy",
    "docs",
    "federation",
    "impervious_site",
    "invoices",
    "lightning",
    "messaging",
    "nodeapi",
    "tests",
    "vpn",
)


def python_files() -> list[Path]:
    return sorted(path for name in DIRECTORIES for path in (ROOT / name).rglob("*.py"))


def options_in(source: str) -> Iterator[str]:
    """First of a pair, or key of a dict: ("grpc.…", value)."""
    # Most files have none.
    for node in ast.walk(ast.parse(source)) if '"grpc.' in source else ():
        names: list[ast.expr | None] = []
        if isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 2:
            names = [node.elts[0]]
        elif isinstance(node, ast.Dict):
            names = [*node.keys]
        for name in names:
            if isinstance(name, ast.Constant) and str(name.value).startswith("grpc."):
                yield str(name.value)


@cache
def library() -> bytes:
    return Path(cygrpc.__file__).read_bytes()


def is_known(option: str) -> bool:
    """Whether the name stands in the library as a string of its own, which may follow upon what is no text."""
    name, start = option.encode() + b"\0", 0
    while (start := library().find(name, start)) >= 0:
        if chr(library()[start - 1]) not in NAME_CHARACTERS:
            return True
        start += 1
    return False


def options() -> dict[str, str]:
    """Each option, and one of the files that set it."""
    return {
        option: path.relative_to(ROOT).as_posix()
        for path in python_files()
        if path != Path(__file__)
        for option in options_in(path.read_text())
    }


def test_options_are_known():
    found = options()
    assert {path.partition("/")[0] for path in found.values()} >= {"lightning", "nodeapi", "tests"}
    assert not {option: path for option, path in found.items() if not is_known(option)}


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("grpc.keepalive_time_ms", True),
        ("grpc.http2.min_ping_interval_without_data_ms", True),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", False),
        ("grpc.keepalive_time", False),
        ("keepalive_time_ms", False),
    ],
)
def test_what_is_known(option, known):
    assert is_known(option) == known


def test_how_options_are_found():
    source = 'a = [("grpc.a", 1), ["grpc.b", x]]; b = {"grpc.c": 1}; c = ("grpc.d", 1, 2); d = "grpc.e"'
    assert sorted(options_in(source)) == ["grpc.a", "grpc.b", "grpc.c"]
