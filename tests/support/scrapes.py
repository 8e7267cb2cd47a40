"""What /metrics of a node tells, parsed by Prometheus' own parser."""

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.nodes import Node


def families(node: Node, headers: dict | None = None) -> dict[str, Metric]:
    """By the names in which Prometheus asks for them: counters with _total."""
    reply = node.get("/metrics", headers)
    assert reply.status == 200, reply.body
    found = text_string_to_metric_families(reply.body.decode())
    return {family.name + ("_total" if family.type == "counter" else ""): family for family in found}


def value(node: Node, sample: str, headers: dict | None = None, **labels: str) -> float:
    """Of one sample, the only one with these labels; 0 where there is none."""
    found = [
        one.value
        for family in families(node, headers).values()
        for one in family.samples
        if one.name == sample and labels.items() <= one.labels.items()
    ]
    assert len(found) <= 1, found
    return found[0] if found else 0.0
