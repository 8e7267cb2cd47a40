"""The committed code of the protos is what protoc makes of them now."""

import subprocess

from tests.support.nodes import ROOT


def test_generated_code_is_current():
    checked = subprocess.run(
        [ROOT / ".ci" / "protos", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
