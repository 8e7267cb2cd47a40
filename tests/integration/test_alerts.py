"""deploy/prometheus/alerts.yml, evaluated by Prometheus' own promtool: what fires, and what does not."""

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from docs.generator.markdown import Page
from tests.support.nodes import ROOT

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
SEVERITY = {rule["alert"]: rule["labels"]["severity"] for rule in RULES}
MONITORING, RUNBOOK = ROOT / "docs" / "monitoring.md", ROOT / "docs" / "runbook.md"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not here"
)

# Two nodes, the second with its HTTP in a daphne: their processes as Prometheus sees them. A step is a minute.
A = {"instance": "a:8882", "job": "impervious"}
B = {"instance": "b:8882", "job": "impervious-runimpd"}
DAPHNE = {"instance": "b:8882", "job": "impervious-daphne"}
HOURS = "x400"
DAY = 86_400
GIB = 2**30


def series(name: str, target: dict[str, str], **labels: str) -> str:
    return name + "{" + ",".join(f'{k}="{v}"' for k, v in sorted((target | labels).items())) + "}"


def is_always(value: float) -> str:
    return f"{value}{HOURS}"


def of_runimpd(target: dict[str, str]) -> dict[str, str]:
    """Of a node that is well, at work."""
    steady = {
        series("impervious_build_info", target, process="runimpd", version="1"): 1,
        series("impervious_lnd_reachable", target): 1,
        series("impervious_lnd_synced", target): 1,
        series("impervious_lnd_keysend", target): 1,
        series("impervious_lnd_spendable_sat", target): 100_000,
        series("impervious_lnd_receivable_sat", target): 100_000,
        series("impervious_budget_used_msat", target): 500,
        series("impervious_budget_limit_msat", target): 1_000,
        series("impervious_payments_oldest_seconds", target): 20,
        series("impervious_outbox_waiting", target, state="queued"): 10,
        series("impervious_certificate_not_after_timestamp_seconds", target, certificate="own"): 90 * DAY,
        series("impervious_certificate_not_after_timestamp_seconds", target, certificate="lnd"): 90 * DAY,
    }
    growing = {
        series("impervious_messages_total", target, service="message", state="settled"): "0+100",
        series("impervious_messages_total", target, service="message", state="failed"): "0+0.1",
        series("impervious_messages_oldest_seconds", target, state="queued"): "3+0",
        # A recipient that is away for hours is no fault.
        series("impervious_messages_oldest_seconds", target, state="retrying"): "60+60",
    }
    healths = {
        series("impervious_health", target, part=part): 1 for part in ("lnd", "database", "disk", "clock")
    }
    return (
        of_process(target)
        | {name: is_always(value) for name, value in (steady | healths).items()}
        | {name: f"{value}{HOURS}" for name, value in growing.items()}
    )


def of_process(target: dict[str, str]) -> dict[str, str]:
    steady = {
        series("up", target): 1,
        series("impervious_ready", target): 1,
        series("impervious_stream_lag_events", target): 5,
        series("impervious_database_errors_total", target, kind="write"): 3,
        series("impervious_database_commit_seconds_bucket", target, le="1"): 10,
        series("impervious_database_commit_seconds_bucket", target, le="+Inf"): 10,
        series("impervious_disk_free_bytes", target): 50 * GIB,
        series("impervious_last_backup_timestamp_seconds", target): 0,
        series("process_open_fds", target): 100,
        series("process_max_fds", target): 1_000,
        series("impervious_key_refusals_total", target, key="shop", cause="scope"): 4,
        series("impervious_key_refusals_total", target, key="shop", cause="rate"): 4,
    }
    return {name: is_always(value) for name, value in steady.items()}


def of_daphne(target: dict[str, str]) -> dict[str, str]:
    build = {series("impervious_build_info", target, process="daphne", version="1"): is_always(1)}
    return of_process(target) | build


HEALTHY = of_runimpd(A) | of_runimpd(B) | of_daphne(DAPHNE)


@dataclass(frozen=True)
class Case:
    """From the beginning, what is `different` from two nodes that are well. After so many `minutes` exactly the alerts of
    `firing` fire, by name, with these labels. Series that are None are not there.
    """

    name: str
    different: dict[str, str | None] = field(default_factory=dict)
    firing: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    minutes: int = 30

    def as_yaml(self) -> dict:
        inputs = {name: values for name, values in (HEALTHY | self.different).items() if values is not None}
        expected = [
            {"labels": series("ALERTS", _labels(alert, labels)), "value": 1} for alert, labels in self.firing
        ]
        return {
            "name": self.name,
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in inputs.items()],
            "promql_expr_test": [
                {
                    "expr": 'ALERTS{alertstate="firing"}',
                    "eval_time": f"{self.minutes}m",
                    "exp_samples": expected,
                }
            ],
        }


def _labels(alert: str, labels: dict[str, str]) -> dict[str, str]:
    return {"alertname": alert, "alertstate": "firing", "severity": SEVERITY[alert]} | labels


def gone(target: dict[str, str]) -> dict[str, str | None]:
    """A process that is dead: only that it does not answer is known."""
    own = dict.fromkeys(of_runimpd(target) | of_daphne(target))
    return own | {series("up", target): is_always(0)}


def changed(name: str, target: dict[str, str], value: float | str, **labels: str) -> dict[str, str]:
    return {series(name, target, **labels): value if isinstance(value, str) else is_always(value)}


def lnd_is(target: dict[str, str], what: str) -> dict[str, str]:
    return changed(f"impervious_lnd_{what}", target, 0)


INSTANCE_A = {"instance": A["instance"]}
CASES = [
    Case("two nodes that are well"),
    Case("two nodes that are well, for hours", minutes=390),
    Case("one of two nodes is dead", gone(A), [("ImperviousTargetDown", A)]),
    Case("a target is away for a moment", changed("up", A, f"1x8 0 1{HOURS}"), minutes=10),
    Case("a daphne is dead", gone(DAPHNE), [("ImperviousTargetDown", DAPHNE)]),
    Case(
        "all nodes are dead",
        gone(A) | gone(B) | gone(DAPHNE),
        [("ImperviousAway", {"process": "runimpd"})]
        + [("ImperviousTargetDown", target) for target in (A, B, DAPHNE)],
    ),
    Case(
        "a wallet is locked after a restart",
        lnd_is(A, "reachable")
        | lnd_is(A, "synced")
        | lnd_is(A, "keysend")
        | changed("impervious_ready", A, 0)
        | changed("impervious_health", A, 0, part="lnd")
        # What is known only once lnd has answered.
        | dict.fromkeys(
            series(f"impervious_{name}", A) for name in ("lnd_spendable_sat", "lnd_receivable_sat")
        ),
        [("ImperviousLndAway", A), ("ImperviousNotReady", A)],
    ),
    Case("lnd is behind the chain", lnd_is(A, "synced"), [("ImperviousLndAway", A)]),
    Case("lnd takes no keysend", lnd_is(A, "keysend"), [("ImperviousLndAway", A)]),
    Case(
        "Redis is away",
        changed("impervious_health", DAPHNE, 0.5, part="redis"),
        [("ImperviousDegraded", DAPHNE | {"part": "redis"})],
    ),
    Case(
        "the clock is off",
        changed("impervious_health", A, 0.5, part="clock"),
        [("ImperviousClockOff", A | {"part": "clock"})],
    ),
    Case(
        "all is on the other side",
        changed("impervious_lnd_spendable_sat", A, 999),
        [("ImperviousCannotPay", A)],
    ),
    Case(
        "all is on this side",
        changed("impervious_lnd_receivable_sat", A, 0),
        [("ImperviousCannotReceive", A)],
    ),
    Case(
        "the budget is used up",
        changed("impervious_budget_used_msat", A, 950),
        [("ImperviousBudgetNearlySpent", A)],
    ),
    Case(
        "a message has been in flight for an hour",
        changed("impervious_payments_oldest_seconds", A, f"0+60{HOURS}"),
        [("ImperviousPaymentStuck", A)],
        minutes=67,
    ),
    Case(
        "a message has been in flight for half an hour",
        changed("impervious_payments_oldest_seconds", A, f"0+60{HOURS}"),
        minutes=35,
    ),
    Case(
        "messages wait for their first try",
        changed("impervious_messages_oldest_seconds", A, f"0+60{HOURS}", state="queued"),
        [("ImperviousMessagesStuck", A | {"state": "queued"})],
    ),
    Case(
        "messages fail",
        changed("impervious_messages_total", A, f"0+2{HOURS}", service="message", state="failed"),
        [("ImperviousMessagesFail", INSTANCE_A | {"service": "message"})],
    ),
    Case(
        "more is accepted than is sent",
        changed("impervious_outbox_waiting", A, 2_000, state="retrying"),
        [("ImperviousOutboxGrows", INSTANCE_A)],
    ),
    Case(
        "somebody guesses keys",
        changed("impervious_key_refusals_total", DAPHNE, f"0+10{HOURS}", key="", cause="unknown"),
        [("ImperviousKeysRefused", {"instance": DAPHNE["instance"], "cause": "unknown"})],
    ),
    Case(
        "a program calls with a revoked key",
        changed("impervious_key_refusals_total", A, f"0+2{HOURS}", key="shop", cause="revoked"),
        [("ImperviousKeysRefused", INSTANCE_A | {"key": "shop", "cause": "revoked"})],
    ),
    Case(
        "a program calls too often",
        changed("impervious_key_refusals_total", A, f"0+2{HOURS}", key="shop", cause="rate"),
        [("ImperviousKeyAtItsLimit", INSTANCE_A | {"key": "shop", "cause": "rate"})],
    ),
    Case(
        "a client reads too slowly",
        changed("impervious_stream_lag_events", DAPHNE, 20_000),
        [("ImperviousStreamLags", DAPHNE)],
    ),
    Case(
        "the database refuses something",
        changed("impervious_database_errors_total", A, f"0x25 2{HOURS}", kind="write"),
        [("ImperviousDatabaseFails", INSTANCE_A)],
    ),
    Case(
        "commits take long",
        changed("impervious_database_commit_seconds_bucket", A, f"0+1{HOURS}", le="1")
        | changed("impervious_database_commit_seconds_bucket", A, f"0+2{HOURS}", le="5")
        | changed("impervious_database_commit_seconds_bucket", A, f"0+2{HOURS}", le="+Inf"),
        [("ImperviousDatabaseSlow", INSTANCE_A)],
    ),
    Case(
        "the disk is nearly full",
        changed("impervious_disk_free_bytes", A, GIB),
        [("ImperviousDiskLow", A)],
    ),
    Case(
        "the disk fills up within a day",
        changed("impervious_disk_free_bytes", A, f"{18 * GIB}-{GIB // 60}{HOURS}"),
        [("ImperviousDiskLow", A)],
        minutes=380,
    ),
    Case(
        "the disk fills up within a month",
        changed("impervious_disk_free_bytes", A, f"{18 * GIB}-{GIB // 3_600}{HOURS}"),
        minutes=380,
    ),
    Case(
        "connections take nearly all descriptors",
        changed("process_open_fds", A, 900),
        [("ImperviousFilesNearlyOut", A)],
    ),
    Case(
        "the certificate of lnd ends in a week",
        changed("impervious_certificate_not_after_timestamp_seconds", A, 7 * DAY, certificate="lnd"),
        [("ImperviousCertificateEnds", A | {"certificate": "lnd"})],
    ),
    Case(
        "there is no fresh backup",
        changed("impervious_last_backup_timestamp_seconds", A, -4 * DAY),
        [("ImperviousNoBackup", A)],
        minutes=90,
    ),
]


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then(tmp_path):
    cases = tmp_path / "alerts.test.yml"
    cases.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(ALERTS)],
                "evaluation_interval": "1m",
                "tests": [case.as_yaml() for case in CASES],
            }
        )
    )
    promtool("test", "rules", cases)


def promtool(*arguments: str | Path) -> None:
    ended = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@needs_promtool
def test_rules_are_written_as_prometheus_wants_them():
    promtool("check", "rules", ALERTS)


@needs_promtool
def test_configuration_of_the_page_is_one(tmp_path):
    (shown,) = [fence.text for fence in Page(MONITORING.read_text()).fences if "scrape_configs" in fence.text]
    shutil.copy(ALERTS, tmp_path)
    (tmp_path / "impervious.key").write_text("key")
    (tmp_path / "prometheus.yml").write_text(shown)
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_each_alert_fires_in_some_case():
    assert {alert for case in CASES for alert, _ in case.firing} == SEVERITY.keys()


def test_each_alert_leads_to_its_section_of_the_runbook():
    anchors = Page(RUNBOOK.read_text()).anchors
    for rule in RULES:
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (ROOT / path) == RUNBOOK
        assert anchor == rule["alert"].lower()
        assert anchor in anchors
    assert {anchor for anchor in anchors if anchor.startswith("impervious")} == {
        alert.lower() for alert in SEVERITY
    }
