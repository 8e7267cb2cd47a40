"""What the node prints for the person who started it."""

import json
from collections.abc import Iterable
from pathlib import Path

import yaml


def no_configuration(places: Iterable[str]) -> str:
    return (
        "no configuration file: looked for "
        + " and ".join(str(Path.cwd() / place) for place in places)
        + ". Name one by --config PATH, copy config/example.config.yml, or run ./impervious to try the node on a "
        "simulated network."
    )


def started(config, pubkey: str, *, simulation: Path | None) -> str:
    lines = [f"This node: {pubkey}"]
    if config.server.enabled:
        lines.append(f"gRPC {config.server.grpc_addr}, HTTP and websocket {config.server.http_addr}")
        lines.append(f"Admin: http://{config.server.http_addr}/admin/ (first account: sqlite3 in {config.path})")
    if simulation:
        lines += _simulated(config, simulation)
    return "\n".join(lines)


def _simulated(config, simulation: Path) -> list[str]:
    partner = yaml.safe_load((simulation / "partner" / "config.yml").read_text())["lightning"]["lnd_node"]["pub_key"]
    http = config.server.http_addr
    body = json.dumps({"msg": "aGVsbG8=", "pubkey": partner})
    return [
        "No configuration file: this node runs on a SIMULATED Lightning network; no real money moves.",
        f"Its partner answers every message with the message itself: {partner}",
        "Listen in one terminal, send in another:",
        f"  curl -N http://{http}/v1/subscribe",
        f"  curl -d '{body}' http://{http}/v1/message/send",
    ]
