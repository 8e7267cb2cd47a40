"""./impervious cert: a self-signed pair as clients and the configuration want it."""

import os
import re
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from nodeapi.certificates import read_pair
from tests.support.nodes import ROOT


def cert(directory: Path, *arguments: str) -> subprocess.CompletedProcess:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("IMPD_")}
    command = [sys.executable, str(ROOT / "manage.py"), "cert", *arguments]
    return subprocess.run(command, cwd=directory, env=environ, text=True, capture_output=True, check=False)


def test_makes_a_pair_and_prints_the_lines_for_the_configuration(tmp_path):
    made = cert(
        tmp_path,
        "--host",
        "Node.Example.com",
        "--host",
        "203.0.113.5",
        "--host",
        "[2001:db8::1]",
        "--days",
        "10",
    )
    assert made.returncode == 0, made.stderr
    server = yaml.safe_load(re.search(r"  tls_cert: .*\n  tls_key: .*\n", made.stdout)[0])
    pair = read_pair(Path(server["tls_cert"]), Path(server["tls_key"]))
    assert set(pair.names()) == {
        "localhost",
        "127.0.0.1",
        "::1",
        "node.example.com",
        "203.0.113.5",
        "2001:db8::1",
    }
    lifetime = pair.ends - pair.certificate.not_valid_before_utc
    assert timedelta(days=10) <= lifetime <= timedelta(days=10, hours=1)
    assert pair.certificate.public_key().curve.name == "secp256r1"
    assert pair.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o600
    assert {file.name for file in tmp_path.iterdir()} == {"server.cert", "server.key"}
    again = cert(tmp_path)
    assert again.returncode == 1
    assert "--force" in again.stderr
    assert read_pair(tmp_path / "server.cert", tmp_path / "server.key") == pair
    assert cert(tmp_path, "--force", "--out", str(tmp_path)).returncode == 0
    assert read_pair(tmp_path / "server.cert", tmp_path / "server.key") != pair


def test_goes_beside_the_configuration_that_names_it_already(tmp_path):
    """Such a configuration cannot be used before there is a pair."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "node.yml").write_text("server: {tls_cert: server.cert, tls_key: server.key}\n")
    made = cert(tmp_path, "--config", "conf/node.yml")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "conf" / "server.key").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "https://node.example"], ("--host", "without scheme")),
        (["--host", "1.2.3"], ("--host", "no host")),
        (["--host", ""], ("--host", "no host")),
        (["--days", "0"], ("--days", "from 1 to")),
        (["--dir", "/proc/nowhere"], ("/proc/nowhere",)),
    ],
)
def test_wrong_arguments(tmp_path, arguments, words):
    refused = cert(tmp_path, *arguments)
    assert refused.returncode == 1
    assert all(word in refused.stderr for word in words), refused.stderr
    assert not list(tmp_path.iterdir())
