"""The ready config.yml of a node on a simulated lnd, in the format that users of 2021 have."""

import re
import secrets
import shlex
from pathlib import Path
from typing import Any

import yaml

from lightning.simulator.credentials import write_secret

# Of the first node's lnd.
BASE_PORT = 10001
SERVICES = {
    "federate": 100000,
    "vpn": 200000,
    "websocket": 300000,
    "message": 400000,
    "socket": 500000,
    "sign": 800000,
}


def service_ports(index: int, shift: int = 0) -> tuple[int, int]:
    """gRPC and HTTP port of the index-th node of a network: 8881/8882, then 9991/9992 to 9999/10000, then from 10201 on,
    behind those of lnd. `shift`: how far the ports of this network are from the usual ones.
    """
    first = 8881 if index == 0 else 9989 + 2 * index if index < 6 else 10189 + 2 * index
    return first + shift, first + shift + 1


def write_config(directory: Path, *, name: str, pubkey: str, lnd_port: int, ports: tuple[int, int]) -> Path:
    """Writes DIRECTORY/config.yml. `ports`: the node's for gRPC and HTTP. One that is there stays as it was edited, but for
    ports that this function gave it; with another pubkey it is written anew.
    """
    directory = directory.resolve()
    path = directory / "config.yml"
    lnd = _lnd_of(path)
    if lnd.get("pub_key") != pubkey:
        write_secret(path, _config(directory, name, pubkey, lnd_port, *ports).encode())
    elif isinstance(old_port := lnd.get("port"), int) and old_port != lnd_port:
        write_secret(path, _moved(path.read_text(), old_port, lnd_port, ports).encode())
    return path


def _moved(text: str, old_port: int, lnd_port: int, ports: tuple[int, int]) -> str:
    """The configuration after lnd's port has changed: the node's own follow where they are as far from it as they were."""
    text = re.sub(r"(?m)^(\s+lnd_node:(?:\n\s{4,}.*)*?\n\s+port:)\s*\S+", rf"\1 {lnd_port}", text)
    for key, port in zip(("grpc_addr", "http_addr"), ports, strict=True):
        given = port - lnd_port + old_port
        text = re.sub(rf"(?m)^(\s+{key}:\s*)127\.0\.0\.1:{given}\s*$", rf"\g<1>127.0.0.1:{port}", text)
    return text


def _lnd_of(path: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load(path.read_text())["lightning"]["lnd_node"] or {}
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return {}


def _config(directory: Path, name: str, pubkey: str, port: int, grpc_port: int, http_port: int) -> str:
    config = {
        "server": {
            "enabled": True,
            "grpc_addr": f"127.0.0.1:{grpc_port}",
            "http_addr": f"127.0.0.1:{http_port}",
        },
        "sqlite3": {"username": "admin", "password": secrets.token_urlsafe(18)},
        "service_list": [
            {
                "service_type": service,
                "active": True,
                "custom_record_number": number,
                "additional_service_data": None,
            }
            for service, number in SERVICES.items()
        ],
        "lightning": {
            "lnd_node": {
                "ip": "127.0.0.1",
                "port": port,
                "pub_key": pubkey,
                "tls_cert": str(directory / "tls.cert"),
                "admin_macaroon": str(directory / "admin.macaroon"),
            }
        },
        "federate": {"ttl": 31560000, "imp_id": name},
        "vpn": {
            "price": 100,
            "server_ip": "127.0.0.1",
            "server_port": 51820,
            "subnet": "10.0.0.0/24",
            "server_pub_key": "",
            "allowed_ips": "0.0.0.0/0",
            "binary_path": "/usr/bin/wg",
            "dns": "8.8.8.8",
            # Sellers of a simulated network are on this machine.
            "private_networks": "127.0.0.0/8",
        },
        "socket": {"server_ip": "127.0.0.1"},
        "database": {"url": f"sqlite:///{directory / 'impervious.sqlite3'}"},
    }
    command = f"./impervious --config {shlex.quote(str(directory / 'config.yml'))}"
    header = f"# The node {name} on a simulated Lightning network. Start it: {command}\n"
    return header + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
