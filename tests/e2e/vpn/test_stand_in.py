"""`./impervious simulate --vpn NAME`: a lease can be bought of that node without root and without WireGuard."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.support.nodes import ROOT, Node, node_environ
from tests.support.ports import free_range
from tests.support.vpn_market import bought, buy, file_of, wait_for_shop


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "network"
    arguments = [
        "simulate",
        "buyer",
        "seller",
        "--vpn",
        "seller",
        "--base-port",
        str(free_range(2)[0]),
        "--attached",
    ]
    process = subprocess.Popen(
        [sys.executable, ROOT / "manage.py", *arguments, "--dir", directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=node_environ(),
        text=True,
    )
    try:
        # The stand-in is told of, and then the nodes.
        lines = [process.stdout.readline() for _ in range(3)]
        assert "seller sells VPN by a stand-in for wg" in lines[0], lines
        yield directory
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def node(network: Path, name: str, directory: Path) -> Node:
    config = yaml.safe_load((network / name / "config.yml").read_text())
    lnd = config["lightning"]["lnd_node"]
    made = SimpleNamespace(
        host=lnd["ip"],
        port=lnd["port"],
        tls_cert_path=lnd["tls_cert"],
        macaroon_path=lnd["admin_macaroon"],
        pubkey=lnd["pub_key"],
    )
    return Node(made, directory / name, extra={"vpn": config["vpn"]})


def test_a_lease_is_sold_without_root(network, tmp_path):
    with node(network, "seller", tmp_path) as seller, node(network, "buyer", tmp_path) as buyer:
        wait_for_shop(seller)
        lease = buy(buyer, seller, 100)
        assert lease["endpoint"] == "127.0.0.1:51820"
        assert bought(buyer, lease["id"])["state"] == "active"
        assert "[Peer]" in file_of(buyer, lease["id"]).body.decode()


def test_a_name_that_is_none_of_the_nodes(tmp_path):
    command = [sys.executable, ROOT / "manage.py", "simulate", "alice", "--dir", tmp_path, "--vpn", "bob"]
    done = subprocess.run(command, capture_output=True, text=True, env=node_environ(), check=False)
    assert done.returncode == 1
    assert "--vpn bob: is none of the nodes alice" in done.stderr
