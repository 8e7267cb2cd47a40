"""protoc on the project's own protos."""

import subprocess
import sys
from pathlib import Path

from tests.support.nodes import ROOT

PROTOS = sorted(path.relative_to(ROOT) for path in (ROOT / "protos").rglob("*.proto"))


def generate(target: Path, protos=PROTOS) -> None:
    """protoc from the root, because two files named lightning.proto would clash."""
    arguments = [f"--python_out={target}", f"--grpc_python_out={target}", *map(str, protos)]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *arguments], cwd=ROOT, check=True)
