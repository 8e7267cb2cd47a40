"""docs/monitoring.md, the dashboard and the alerts name what a living node tells, all of it and nothing else."""

import json
import re

import pytest
import yaml

from tests.support.daphnes import Daphne
from tests.support.nodes import ROOT, Node
from tests.support.scrapes import families
from tests.support.streams import WebsocketStream, is_end, send

DASHBOARD = ROOT / "deploy" / "grafana" / "impervious.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PAGE = ROOT / "docs" / "monitoring.md"
# Of a histogram and of Prometheus itself.
SUFFIXES = ("_bucket", "_count", "_sum")
PARTIAL = {"le", "instance", "job"}
IDENTIFIER = re.compile(r"\b((?:impervious|process|python)_[a-z_]+)\b(\{[^}]*\})?")


@pytest.fixture(scope="module")
def both(network, bob, tmp_path_factory):
    """Of carol's node, after a message of its own and one that it dropped, and of a daphne beside it."""
    node = Node(
        network.nodes["carol"],
        tmp_path_factory.mktemp("told"),
        extra={"lightning": {"daily_budget_sat": 1_000_000}},
    )
    with node:
        with WebsocketStream(node) as stream:
            stream.until(is_end(send(node, bob)))
        network.pay("bob", "carol", {100000: b"not of ours"})
        node.wait_until(lambda: families(node)["impervious_records_dropped_total"].samples)
        with Daphne(node) as daphne:
            # A database that does not answer for some seconds is told as away.
            for each in (node, daphne):
                each.wait_until(lambda each=each: "impervious_database_bytes" in families(each))
            yield families(node), families(daphne)


@pytest.fixture(scope="module")
def scrapes(both):
    return both[0]


def labels_of(family) -> set[str]:
    return {name for sample in family.samples for name in sample.labels} - {"le"}


def queries() -> list[str]:
    board = json.loads(DASHBOARD.read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    found += [
        rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]
    return found


def test_dashboard_and_alerts_ask_for_what_is_there(scrapes):
    asked = [
        (expression, name, selector)
        for expression in queries()
        for name, selector in IDENTIFIER.findall(expression)
    ]
    assert len(asked) > 60
    for expression, name, selector in asked:
        base = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
        family = scrapes.get(name) or scrapes.get(base)
        assert family, f"{name} of {expression} is in no scrape"
        assert name == base or family.type == "histogram", f"{name} of {expression}"
        used = set(re.findall(r"(\w+)\s*(?:=|!)", selector)) | grouped_by(expression)
        if family.samples and len(IDENTIFIER.findall(expression)) == 1:
            assert used - PARTIAL <= labels_of(family), f"{expression}: {family.name} has {labels_of(family)}"


def grouped_by(expression: str) -> set[str]:
    names = re.findall(r"\bby \(([^)]*)\)", expression)
    return {name.strip() for group in names for name in group.split(",")}


def test_every_metric_of_ours_is_on_the_dashboard(scrapes):
    shown = {name for expression in queries() for name, _ in IDENTIFIER.findall(expression)}
    shown |= {name.removesuffix(suffix) for name in shown for suffix in SUFFIXES if name.endswith(suffix)}
    assert {name for name in scrapes if name.startswith("impervious_")} <= shown


def test_dashboard_is_whole():
    board = json.loads(DASHBOARD.read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["targets"]


def test_page_lists_every_metric(both):
    table = table_of(*both)
    assert table in PAGE.read_text(), f"docs/monitoring.md should have this table:\n{table}"


def table_of(scraped, of_daphne) -> str:
    rows = ["| metric | type | labels | of | what |", "| --- | --- | --- | --- | --- |"]
    for name, family in sorted(scraped.items()):
        if name.startswith("impervious_"):
            labels = ", ".join(f"`{label}`" for label in sorted(labels_of(family) or LABELS.get(name, ())))
            process = "each" if name in of_daphne else "runimpd"
            rows.append(f"| `{name}` | {family.type} | {labels} | {process} | {family.documentation} |")
    return "\n".join(rows)


# Of metrics that have no line yet.
LABELS = {
    "impervious_refused_total": ("cause", "service"),
    "impervious_certificate_not_after_timestamp_seconds": ("certificate",),
    "impervious_key_budget_limit_msat": ("key",),
    "impervious_key_spent_msat": ("key",),
    "impervious_key_calls_total": ("key",),
}
