"""The committed code of the protos is what protoc makes of them now."""

from pathlib import Path

import pytest

from tests.support.nodes import ROOT
from tests.support.protoc import PROTOS, generate


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("generated")
    generate(target)
    return target


@pytest.mark.parametrize("proto", PROTOS, ids=str)
def test_generated_code_is_not_stale(generated, proto):
    for suffix in ("_pb2.py", "_pb2_grpc.py"):
        name = proto.with_name(proto.stem + suffix)
        committed = ROOT / name
        if suffix == "_pb2_grpc.py" and "service " not in (ROOT / proto).read_text():
            assert not committed.exists()
            continue
        assert committed.read_text() == (generated / name).read_text(), f"{name}: generate it again"


def test_no_generated_code_without_its_proto():
    committed = {path.relative_to(ROOT) for path in (ROOT / "protos").rglob("*_pb2*.py")}
    expected = {
        proto.with_name(proto.stem + suffix) for proto in PROTOS for suffix in ("_pb2.py", "_pb2_grpc.py")
    }
    assert committed <= expected
