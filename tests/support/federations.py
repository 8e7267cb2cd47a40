"""Nodes that federate, and what they list."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.support.networks import Network
from tests.support.nodes import Node

LIST = "/v1/federate"
TTL_SECONDS = 3600


def federate(imp_id: str, **values) -> dict:
    return {"federate": {"imp_id": imp_id, "ttl": TTL_SECONDS, **values}}


@contextmanager
def running(network: Network, directory, **extra: dict) -> Iterator[list[Node]]:
    """Fresh nodes by these names, each with this configuration."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(Node(network.nodes[name], directory / name, extra=values))
            for name, values in extra.items()
        ]


def listed(node: Node, query: str = "") -> list[dict]:
    return node.get(LIST + query).json["federations"]


def row(node: Node, other: Node) -> dict:
    found = listed(node, f"?state=all&pubkey={other.pubkey}")
    return found[0] if found else {"state": "", "expiresAt": "", "cause": ""}


def state(node: Node, other: Node) -> str:
    return row(node, other)["state"]
