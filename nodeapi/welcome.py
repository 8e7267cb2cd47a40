"""What the node prints for the person who started it."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

import yaml

from nodeapi.certificates import read_pair


def no_configuration(places: Iterable[str]) -> str:
    return (
        "no configuration file: looked for "
        + " and ".join(str(Path.cwd() / place) for place in places)
        + ". Name one by --config PATH, copy config/example.config.yml, or run ./impervious to try the node on a "
        "simulated network."
    )


def started(config, pubkey: str, *, with_http: bool = True, simulation: Path | None) -> str:
    scheme, http = config.server.scheme, config.server.http_addr
    lines = [f"This node: {pubkey}"]
    over_tls = ", all over TLS" if config.server.tls_cert else ""
    if config.server.enabled and not with_http:
        lines.append(f"gRPC {config.server.grpc_addr}, HTTP and websocket by daphnes{over_tls}")
    elif config.server.enabled:
        lines.append(f"gRPC {config.server.grpc_addr}, HTTP and websocket {http}{over_tls}")
        lines.append(f"Admin: {scheme}://{reachable(http)}/admin/ (first account: sqlite3 in {config.path})")
    if simulation:
        lines += _simulated(config, simulation)
    return "\n".join(lines)


def _simulated(config, simulation: Path) -> list[str]:
    partner = yaml.safe_load((simulation / "partner" / "config.yml").read_text())["lightning"]["lnd_node"][
        "pub_key"
    ]
    url = f"{config.server.scheme}://{reachable(config.server.http_addr)}"
    curl = " ".join(["curl", *curl_options(config)])
    body = json.dumps({"msg": "aGVsbG8=", "pubkey": partner})
    return [
        "No configuration file: this node runs on a SIMULATED Lightning network; no real money moves.",
        f"Its partner answers every message with the message itself: {partner}",
        "Listen in one terminal, send in another:",
        f"  {curl} -N {url}/v1/subscribe",
        f"  {curl} -d '{body}' {url}/v1/message/send",
    ]


def reachable(address):
    """Where a program on this machine finds what listens there."""
    if not address.is_any:
        return address
    return address._replace(host="::1" if ":" in address.host else "127.0.0.1")


def curl_options(config) -> list[str]:
    """What curl needs to accept this node's certificate, when it is called by address."""
    if not config.server.tls_cert:
        return []
    pair = read_pair(config.server.tls_cert, config.server.tls_key)
    if pair.is_for(reachable(config.server.http_addr).host):
        return ["--cacert", shlex.quote(str(config.server.tls_cert))]
    # The certificate is for a name in the DNS.
    return ["-k"]
