"""The floors of the house: who may import whom. What the code says is read, nothing is imported."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.nodes import ROOT

ROOMS = ("lightning", "messaging", "federation", "invoices", "vpn", "nodeapi", "impervious_site", "protos")
# A floor imports from these rooms only, and from its own.
MAY_IMPORT = {
    "protos": set(),
    "lightning": {"protos"},
    "messaging": {"protos", "lightning"},
    "federation": {"protos", "lightning", "messaging"},
    "invoices": {"protos", "lightning", "messaging"},
    "vpn": {"protos", "lightning", "messaging", "invoices"},
    "nodeapi": {"protos", "lightning", "messaging", "federation", "invoices", "vpn"},
    "impervious_site": {"protos", "lightning", "messaging", "federation", "invoices", "vpn", "nodeapi"},
}
# Django has to be set up, or not be loaded at all, before these import.
MAY_IMPORT_INSIDE_FUNCTIONS = {"manage.py"}
MAY_IMPORT_THE_SIMULATOR = {"nodeapi/partner.py"}

FILES = [*sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")), ROOT / "manage.py"]


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    return place(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), place(path))


def imports(node: ast.AST, importer: Path) -> Iterator[str]:
    """Full names of what is imported: of `from a import b` both a and a.b."""
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            source = statement.module or ""
            if statement.level:
                package = module_name(importer).split(".")
                package = package[: len(package) - statement.level + (importer.name == "__init__.py")]
                source = ".".join([*package, source]).rstrip(".")
            yield source
            yield from (f"{source}.{alias.name}" for alias in statement.names)


def rooms_of(names) -> set[str]:
    return {name.partition(".")[0] for name in names} & set(ROOMS)


def top_names(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(tree(path), path)}


def test_a_floor_imports_only_from_floors_below():
    too_high = {}
    for path in FILES[:-1]:
        room = path.relative_to(ROOT).parts[0]
        too_high[place(path)] = rooms_of(imports(tree(path), path)) - {room} - MAY_IMPORT[room]
    assert not {path: names for path, names in too_high.items() if names}


def test_lightning_knows_no_django():
    django = {"django", "rest_framework", "channels", "django_grpc_framework", "daphne"}
    files = [path for path in FILES if path.is_relative_to(ROOT / "lightning")]
    assert files
    assert not [place(path) for path in files if top_names(path) & django]


def test_no_import_is_hidden_in_a_function():
    # protoc writes such imports into nothing that is ours.
    assert (
        not {place(path): hidden for path in FILES if (hidden := imports_in_functions(path))}.keys()
        - MAY_IMPORT_INSIDE_FUNCTIONS
    )


def imports_in_functions(path: Path) -> set[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]
    return {name for function in functions for name in imports(function, path)}


def test_the_simulator_is_no_part_of_the_node():
    importers = {
        place(path)
        for path in FILES
        if not path.is_relative_to(ROOT / "lightning" / "simulator")
        and any(name.startswith("lightning.simulator") for name in imports(tree(path), path))
    }
    assert importers <= MAY_IMPORT_THE_SIMULATOR


def test_only_the_event_log_sends_to_a_group():
    senders = [
        place(path)
        for path in FILES
        if any(isinstance(node, ast.Attribute) and node.attr == "group_send" for node in ast.walk(tree(path)))
    ]
    assert senders == ["messaging/events.py"]


def test_no_test_imports_another_and_bench_imports_helpers_only():
    importers = {
        place(path): names
        for directory in ("tests", "bench")
        for path in (ROOT / directory).rglob("*.py")
        if (names := [name for name in imports(tree(path), path) if is_test(name)])
    }
    assert not importers


def is_test(name: str) -> bool:
    """Whether this module, or what stands in it, is a test."""
    return name.startswith(("tests.unit", "tests.integration", "tests.e2e"))


def test_modules_do_not_import_in_circles():
    names = {module_name(path) for path in FILES}
    graph = {
        module_name(path): set(imports(tree(path), path)) & names - {module_name(path)} for path in FILES
    }
    finished, on_the_way = set(), []

    def visit(name: str) -> None:
        if name in finished:
            return
        assert name not in on_the_way, " → ".join([*on_the_way[on_the_way.index(name) :], name])
        on_the_way.append(name)
        for imported in sorted(graph[name]):
            visit(imported)
        on_the_way.pop()
        finished.add(name)

    for name in sorted(graph):
        visit(name)
