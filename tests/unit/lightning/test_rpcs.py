"""The table of the calls that the node makes of lnd is the truth: no other can be made, and none stands there unused."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning import macaroon
from lightning.macaroon import NoMacaroon
from lightning.rpcs import ONLY_FOR, Rpc, bake_line, calls_for
from protos.invoicesrpc import invoices_pb2
from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2
from tests.support.nodes import ROOT

ROOMS = ("lightning", "messaging", "federation", "invoices", "vpn", "nodeapi", "impervious_site")
CLIENT = ROOT / "lightning" / "client.py"
FILES = [
    path
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
    if "simulator" not in path.parts and path != CLIENT
]
STUBS = ("LightningStub", "RouterStub", "InvoicesStub")


def names(path) -> list[str]:
    """Every name and attribute that the code of a file uses."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    attributes = [node.attr for node in nodes if isinstance(node, ast.Attribute)]
    return attributes + [node.id for node in nodes if isinstance(node, ast.Name)]


def test_each_name_is_a_call_of_lnd():
    modules = (lightning_pb2, router_pb2, invoices_pb2)
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    known = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert {rpc.path for rpc in Rpc} <= known


def test_only_the_client_has_stubs_of_lnd_and_it_takes_them_by_the_table():
    # Our own service is called Lightning too: its stub would be that of another module.
    assert [path for path in FILES if {"router_pb2_grpc", "invoices_pb2_grpc"} & set(names(path))] == []
    lnd_modules = ("protos.lnrpc", "protos.routerrpc", "protos.invoicesrpc")
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in lnd_modules:
                assert not [alias.name for alias in node.names if alias.name.endswith("_grpc")], path
    tree = ast.parse(CLIENT.read_text())
    uses = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in (*STUBS, "_stubs")
    ]
    # Made once, set once, and read in one place.
    assert sorted(uses) == sorted([*STUBS, "_stubs", "_stubs"])


def test_every_call_of_the_table_is_made():
    tree = ast.parse(CLIENT.read_text())
    used = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Rpc"
    ]
    assert set(used) == {rpc.name for rpc in Rpc}
    (client,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "LndClient")
    methods = {
        node.name
        for node in client.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
    }
    assert methods <= {name for path in FILES for name in names(path)}


def test_calls_of_a_service_that_is_off_are_not_asked_for():
    assert set(Rpc) - set(calls_for({"message"})) == set(ONLY_FOR)
    assert calls_for({"vpn"}) == list(Rpc)


def test_line_names_each_call_once():
    line = bake_line(Rpc).split()
    assert line[:2] == ["lncli", "bakemacaroon"]
    assert [word for word in line if word.startswith("uri:")] == [f"uri:{rpc.path}" for rpc in Rpc]


@given(st.binary(max_size=60))
@pytest.mark.parametrize("head", [b"", b"\x02", b"\x02\x02\x04\x03abc\x00\x00\x06\x02"])
def test_bytes_that_are_no_macaroon(head, rest):
    try:
        macaroon.not_permitted(head + rest, [Rpc.GET_INFO])
    except NoMacaroon:
        pass
