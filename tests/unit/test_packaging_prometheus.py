"""Alert rules and the Grafana dashboard ask for metrics, labels and values that there are.

promtool and a real Prometheus read them in tests/system/test_system_prometheus.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector

from daemon.model.agent import AgentState, HealthStatus
from daemon.model.update import UpdateState

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "packaging/prometheus/hostdaemon.rules.yml"
RULE_TESTS = ROOT / "packaging/prometheus/hostdaemon.rules.test.yml"
DASHBOARD = ROOT / "packaging/grafana/hostdaemon.json"
TARGET_LABELS = {"job", "instance"}
WORDS = {
    "and", "or", "unless", "on", "by", "bool", "offset", "sum", "max", "avg", "count", "rate", "increase", "time",
}  # fmt: skip


def tables() -> dict[str, set[str]]:
    """Each documented metric and its labels."""
    found: dict[str, set[str]] = {}
    labels: set[str] = set()
    text = (ROOT / "docs/protocols.md").read_text(encoding="utf-8")
    for name, cell in re.findall(r"^\| `((?:hostdaemon|node)_\w+)` \|([^|]*)\|", text, re.M):
        labels = labels if cell.strip() == "the same" else set(re.findall(r"`(\w+)`", cell))
        found[name] = labels
    return found


def documented_alerts() -> set[str]:
    text = (ROOT / "docs/protocols.md").read_text(encoding="utf-8")
    table = text.partition("| alert | about |")[2].partition("\n\n")[0]
    return {name for row in table.split("\n")[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def variables() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["templating"]["list"]
    return found


def _expressions() -> Iterator[Any]:
    for rule in rules():
        yield pytest.param(rule["expr"], id=rule["alert"])
    for panel in panels():
        for target in panel.get("targets", ()):
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for variable in variables():
        if variable["type"] == "query":
            (selector,) = re.findall(r"label_values\((.*), \w+\)", variable["query"]["query"])
            yield pytest.param(selector, id=f"variable {variable['name']}")


METRICS = tables()
METRICS |= {family.name: set() for family in ProcessCollector(registry=CollectorRegistry()).collect()}
METRICS |= {"process_cpu_seconds_total": set(), "up": set()}
VALUES = {
    ("hostdaemon_agent_state", "state"): {each.value for each in AgentState},
    ("hostdaemon_agent_health", "status"): {each.value for each in HealthStatus},
    ("hostdaemon_updates_total", "result"): {each.value for each in UpdateState},
    ("hostdaemon_alert", "type"): documented_alerts(),
}


@pytest.mark.parametrize("expr", list(_expressions()))
def test_every_metric_label_and_value_exists(expr: str) -> None:
    seen = set()
    bare = re.sub(r"\b(by|on) \([^)]*\)", "", re.sub(r"\{[^}]*\}|\[[^]]*\]", "", expr))
    for name in re.findall(r"(?<![\w.])[a-zA-Z_]\w*", bare):
        if name not in WORDS:
            assert name in METRICS, f"{name} is in no table of docs/protocols.md"
            seen.add(name)
    assert seen
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expr):
        for label, value in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', matchers):
            assert label in METRICS[name] | TARGET_LABELS, f"{name} has no label {label}"
            allowed = VALUES.get((name, label))
            if allowed is not None:
                assert set(value.split("|")) <= allowed, f"{name}: {label} is never {value}"


def test_the_tables_are_read() -> None:
    assert METRICS["hostdaemon_agent_state"] == {"agent", "state"}
    assert METRICS["node_filesystem_avail_bytes"] == {"device", "fstype", "mountpoint"}
    assert {"no_heartbeat", "update_broken"} <= documented_alerts()


def test_every_alert_says_how_bad_what_and_what_next() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        severity = rule["labels"]["severity"]
        assert severity in ("critical", "warning") or "$labels.severity" in severity
        assert rule["annotations"]["summary"] and rule["annotations"]["description"].endswith(".")


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    tests = [each for case in yaml.safe_load(RULE_TESTS.read_text())["tests"] for each in case["alert_rule_test"]]
    fires = {each["alertname"] for each in tests if each["exp_alerts"]}
    silent = {each["alertname"] for each in tests if not each["exp_alerts"]}
    assert fires == silent == {rule["alert"] for rule in rules()}


def test_every_panel_takes_the_data_source_that_is_chosen_and_has_its_own_place() -> None:
    assert [v["name"] for v in variables() if v["type"] == "datasource"] == ["datasource"]
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            for holder in (panel, *panel["targets"]):
                assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["id"] for panel in panels()}) == len(panels())
