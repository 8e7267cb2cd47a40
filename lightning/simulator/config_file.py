"""The ready config.yml of a node on a simulated lnd, in the format that users of 2021 have."""

import re
import secrets
from pathlib import Path
from typing import Any

import yaml

from lightning.simulator.credentials import write_secret

SERVICES = {
    "federate": 100000,
    "vpn": 200000,
    "websocket": 300000,
    "message": 400000,
    "socket": 500000,
    "sign": 800000,
}


def service_ports(index: int) -> tuple[int, int]:
    """gRPC and HTTP port of the index-th node of a network: 8881/8882, then 9991/9992, 9993/9994 and so on."""
    return (8881, 8882) if index == 0 else (9989 + 2 * index, 9990 + 2 * index)


def write_config(
    directory: Path, *, name: str, pubkey: str, lnd_port: int, grpc_port: int, http_port: int
) -> Path:
    """Writes DIRECTORY/config.yml. One that is there stays as it was edited, but for lnd's port; with another pubkey it
    is written anew.
    """
    directory = directory.resolve()
    path = directory / "config.yml"
    lnd = _lnd_of(path)
    if lnd.get("pub_key") != pubkey:
        text = _config(directory, name, pubkey, lnd_port, grpc_port, http_port)
        write_secret(path, text.encode())
    elif lnd.get("port") != lnd_port:
        text = re.sub(
            r"(?m)^(\s+lnd_node:(?:\n\s{4,}.*)*?\n\s+port:)\s*\S+", rf"\1 {lnd_port}", path.read_text()
        )
        write_secret(path, text.encode())
    return path


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
    command = f"./impervious --config {directory / 'config.yml'}"
    header = f"# The node {name} on a simulated Lightning network. Start it: {command}\n"
    return header + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
