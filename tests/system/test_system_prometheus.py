"""Debian's Prometheus scrapes a real daemon, and promtool reads what the daemon and we ship.

Marked ``real``: they need prometheus and promtool; scripts/test-real installs them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.model.agent import AgentState
from tests.system.harness import ROOT, Daemon, sleeper, wait_for
from tests.system.test_system_real_agents import fetch, free_port

pytestmark = pytest.mark.real

RULES = ROOT / "packaging/prometheus"
DASHBOARD = ROOT / "packaging/grafana/hostdaemon.json"
FAST = "".join(f"  {name}: {{interval: 1s}}\n" for name in ("cpu", "memory", "disk", "network"))


def promtool(*arguments: str, text: str = "", cwd: Path = ROOT) -> tuple[int, str]:
    done = subprocess.run(
        ["promtool", *arguments], input=text, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


class Prometheus:
    """A server of its own that scrapes one daemon every second, with our rules."""

    def __init__(self, root: Path, target: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.root = root / "prometheus"
        self.root.mkdir()
        self.config = self.root / "prometheus.yml"
        self.config.write_text(f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{RULES}/hostdaemon.rules.yml"]
scrape_configs:
  - job_name: hostdaemon
    static_configs: [{{targets: ["{target}"]}}]
  - job_name: node
    metrics_path: /metrics/host
    static_configs: [{{targets: ["{target}"]}}]
""")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={self.config}", f"--storage.tsdb.path={self.root}/data",
             f"--web.listen-address={self.address}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.root,
        )

    def ask(self, path: str, **arguments: str) -> Any:
        """The data of an answer; None while there is none."""
        text = fetch(f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(arguments)}")
        return json.loads(text)["data"] if text else None

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """The samples an expression gives now."""
        found = self.ask("query", query=expr)
        return [(each["metric"], float(each["value"][1])) for each in found["result"]] if found else []

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def scraped(daemon: Daemon) -> Daemon:
    """A daemon with every part that has metrics: agents, gRPC, a Manager that is not there, collectors."""
    port = free_port()
    daemon.configure(
        sleeper("web") + sleeper("idle", "enabled: false"),
        daemon=f"http_port: {port}\ngrpc_port: {free_port()}",
        rest=f"collectors:\n{FAST}manager: {{address: '127.0.0.1:{free_port()}'}}\nresources: {{interval: 1s}}\n",
    )
    daemon.start()
    web = daemon.agent_in("web", "running")
    beat = {"agent_id": "web", "pid": web["pid"], "status": "running", "cpu": 1, "memory": 1}
    assert daemon.request("POST", "/heartbeat", json.dumps(beat).encode())[0] == 200
    daemon.http = f"127.0.0.1:{port}"  # type: ignore[attr-defined]
    wait_for("a sample of the agent", lambda: 'memory_bytes{agent="web"}' in daemon.get("/metrics"))
    wait_for("samples of the host", lambda: "node_disk_read_bytes_total{" in daemon.get("/metrics/host"))
    return daemon


@pytest.fixture
def prometheus(scraped: Daemon) -> Iterator[Prometheus]:
    made = Prometheus(scraped.root, scraped.http)  # type: ignore[attr-defined]
    try:
        yield made
    finally:
        made.stop()


def test_promtool_finds_nothing_in_what_a_real_daemon_tells(scraped: Daemon) -> None:
    text = scraped.get("/metrics")
    assert text.count("\n") > 200
    assert promtool("check", "metrics", text=text) == (0, "")


def test_the_host_is_told_as_node_exporter_tells_it(scraped: Daemon) -> None:
    """The same names, types and labels; promtool finds in ours what it finds in node_exporter's own, no more."""
    address = f"127.0.0.1:{free_port()}"
    exporter = subprocess.Popen(
        ["prometheus-node-exporter", f"--web.listen-address={address}"], stderr=subprocess.DEVNULL
    )
    try:
        theirs = wait_for("node_exporter", lambda: fetch(f"http://{address}/metrics"))
    finally:
        exporter.kill()
        exporter.wait()
    ours = scraped.get("/metrics/host")
    real, told = shapes(theirs), shapes(ours)
    assert len(told) > 35
    assert {name: shape for name, shape in told.items() if real.get(name) != shape} == {}
    accepted = set(promtool("check", "metrics", text=theirs)[1].splitlines())
    assert set(promtool("check", "metrics", text=ours)[1].splitlines()) <= accepted


def shapes(text: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of every family that has samples."""
    return {
        family.name: (family.type, frozenset(family.samples[0].labels))
        for family in text_string_to_metric_families(text) if family.samples
    }


def test_promtool_would_have_found_a_bad_name() -> None:
    status, output = promtool("check", "metrics", text="# TYPE hostdaemon_x_ms counter\nhostdaemon_x_ms 1\n")
    assert status != 0 and "hostdaemon_x_ms" in output


def test_prometheus_scrapes_both_paths_and_answers_with_our_series(prometheus: Prometheus) -> None:
    wait_for("both targets", lambda: [value for _labels, value in prometheus.query("up")] == [1.0, 1.0])
    ((labels, value),) = wait_for("web", lambda: prometheus.query('hostdaemon_agent_state{agent="web"} == 1'))
    assert (labels["state"], labels["job"], value) == ("running", "hostdaemon", 1.0)
    assert len(prometheus.query('hostdaemon_agent_state{agent="idle"}')) == len(AgentState)
    assert prometheus.query("hostdaemon_manager_connected")[0][1] == 0.0
    ((_labels, cores),) = prometheus.query('count(node_cpu_seconds_total{job="node", mode="idle"})')
    assert cores == os.cpu_count()
    ((_labels, total),) = prometheus.query("node_memory_MemTotal_bytes")
    memory = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0]) * 1024
    assert total == memory
    wait_for("two rounds", lambda: prometheus.query('rate(node_cpu_seconds_total{mode="idle"}[10s]) > 0'))
    # Prometheus asks for OpenMetrics, and finds nothing wrong in it
    targets = prometheus.ask("targets")["activeTargets"]
    assert [target["lastError"] for target in targets] == ["", ""]
    metadata = prometheus.ask("metadata", metric="hostdaemon_agent_restarts")
    metadata |= prometheus.ask("metadata", metric="hostdaemon_agent_restarts_total")
    ((found,),) = metadata.values()
    assert found["type"] == "counter" and found["help"]


def test_prometheus_takes_our_rules_and_each_evaluates(prometheus: Prometheus) -> None:
    def evaluated() -> Any:
        groups = (prometheus.ask("rules") or {}).get("groups")
        return groups and all(rule["health"] == "ok" for rule in groups[0]["rules"]) and groups[0]["rules"]

    def states() -> dict[str, str]:
        return {rule["name"]: rule["state"] for rule in evaluated() or ()}

    found = wait_for("all rules evaluated", evaluated)
    assert len(found) > 10
    wait_for("15 minutes to begin", lambda: states().get("HostdaemonManagerDisconnected") == "pending")
    assert states()["HostdaemonDown"] == states()["HostdaemonAgentFailed"] == "inactive"


def test_every_panel_of_the_dashboard_is_a_query_prometheus_takes(prometheus: Prometheus) -> None:
    wait_for("both targets", lambda: len(prometheus.query("up == 1")) == 2)
    wait_for("cpu time of the agent", lambda: prometheus.query("hostdaemon_agent_cpu_seconds_total"))
    empty = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expr = re.sub(r"\$(job|instance|agent)", ".*", target["expr"]).replace("$__rate_interval", "1m")
            if not wait_for_samples(prometheus, expr):
                empty.append(panel["title"])
    # nothing is down or wrong, no certificate is in use and nothing was updated
    assert empty == ["Daemons down", "Alerts standing", "Certificates", "Updates that ended"]


def wait_for_samples(prometheus: Prometheus, expr: str) -> bool:
    """Whether there are any, within the time that two scrapes take."""
    found = prometheus.ask("query", query=expr)
    assert found is not None, f"refused: {expr}"
    if found["result"]:
        return True
    try:
        wait_for(expr, lambda: prometheus.query(expr), patience_s=4)
    except AssertionError:
        return False
    return True


def test_the_rules_fire_when_they_should(tmp_path: Path) -> None:
    for name in ("hostdaemon.rules.yml", "hostdaemon.rules.test.yml"):
        shutil.copy(RULES / name, tmp_path)
    assert promtool("check", "rules", "hostdaemon.rules.yml", cwd=tmp_path)[0] == 0
    status, output = promtool("test", "rules", "hostdaemon.rules.test.yml", cwd=tmp_path)
    assert status == 0, output
