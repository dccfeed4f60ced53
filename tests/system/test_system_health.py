"""Agents that hang, hog or fall silent are healed by a real daemon, each with its reason in numbers."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.system.harness import Daemon, alive, shell, wait_for

RESTART = "restart: {backoff_base: 100ms, backoff_max: 100ms, max_retries: 0, max_restarts_per_hour: 0}"
QUIET = "cpu_threshold: 0, memory_threshold: 0"

# Beats ten times a second until a file appears; then it lives on and says nothing.
BEATER = """
import json, os, socket, sys, time
s = None
while True:
    try:
        if s is None:
            s = socket.socket(socket.AF_UNIX); s.connect(os.environ["HOSTDAEMON_SOCKET"])
        if not os.path.exists(sys.argv[1]):
            s.sendall(json.dumps({"pid": os.getpid(), "timestamp": "2026-01-01T00:00:00Z", "status": "running",
                                  "cpu": 1.5, "memory": 1048576}).encode() + b"\\n")
    except OSError:
        s = None
    time.sleep(0.1)
"""

# Answers GET until a file appears; then it accepts and never answers.
SERVER = """
import os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        while os.path.exists(sys.argv[2]): time.sleep(0.05)
        self.send_response(204); self.end_headers()
    def log_message(self, *a): pass
HTTPServer.allow_reuse_address = True
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def program(daemon: Daemon, agent_id: str, text: str, args: list[str], *more: str) -> str:
    """An agent that is a Python program."""
    path = daemon.root / f"{agent_id}.py"
    path.write_text(text)
    lines = [f"id: {agent_id}", "type: custom", f"binary_path: {sys.executable}",
             f"args: {json.dumps(['-S', '-E', str(path), *args])}", "start_seconds: 100ms", RESTART, *more]
    return "  - " + "\n    ".join(lines) + "\n"


def unhealthy(daemon: Daemon, agent_id: str) -> list[dict[str, object]]:
    """Its events of illness."""
    return [e for e in daemon.events("agent.unhealthy") if e["agent_id"] == agent_id]


def pid_of(daemon: Daemon, agent_id: str) -> int:
    pid: int = daemon.agent_in(agent_id, "running")["pid"]
    return pid


def test_an_agent_that_falls_silent_is_restarted_after_its_timeout_and_not_before(daemon: Daemon) -> None:
    silent = daemon.root / "silent"
    daemon.configure(program(
        daemon, "beater", BEATER, [str(silent)],
        f"health_check: {{interval: 10s, start_period: 0s, heartbeat_timeout: 1500ms, {QUIET}}}",
    ))
    daemon.start()
    pid = pid_of(daemon, "beater")
    wait_for("heartbeats", lambda: daemon.agent("beater")["last_heartbeat"])
    time.sleep(2.0)  # longer than the timeout: beats keep it alive
    assert pid_of(daemon, "beater") == pid
    silent.touch()
    begun = time.monotonic()
    wait_for("the end of the silent process", lambda: not alive(pid))
    took = time.monotonic() - begun
    assert 1.3 <= took < 4.0, took
    silent.unlink()
    wait_for("its successor", lambda: daemon.agent("beater")["pid"] not in (None, pid))
    [event] = unhealthy(daemon, "beater")
    found = re.search(r"no heartbeat for ([\d.]+) s, the limit is 1.5 s", str(event["message"]))
    assert found and 1.5 <= float(found[1]) < 3.0, event["message"]
    view = daemon.agent("beater")
    assert view["restart_count"] == 1 and "unhealthy" in view["last_exit"]["reason"]
    assert not [a for a in daemon.get("/v1/alerts")["alerts"] if a["cleared_at"] is None]


def test_a_hung_endpoint_is_restarted_after_its_misses(daemon: Daemon) -> None:
    hangs, port = daemon.root / "hangs", free_port()
    daemon.configure(program(
        daemon, "server", SERVER, [str(port), str(hangs)],
        f"health_check: {{interval: 300ms, start_period: 3s, http_endpoint: 'http://127.0.0.1:{port}/x',"
        f" http_timeout: 300ms, failure_threshold: 3, heartbeat_timeout: 0, {QUIET}}}",
    ))
    daemon.start()
    pid = pid_of(daemon, "server")
    wait_for("health", lambda: daemon.agent("server")["health"]["status"] == "healthy")
    time.sleep(3.0)
    hangs.touch()
    wait_for("the end of the hung process", lambda: not alive(pid))
    hangs.unlink()
    wait_for("health again", lambda: daemon.agent("server")["health"]["status"] == "healthy")
    [event] = unhealthy(daemon, "server")
    assert "3 times in a row" in str(event["message"]) and str(port) in str(event["message"])
    assert event["data"]["status"] == "endpoint_failed"


def test_hogs_are_restarted_after_the_duration_and_a_spike_is_not(daemon: Daemon) -> None:
    health = "health_check: {interval: 200ms, start_period: 0s, heartbeat_timeout: 0, threshold_duration: 1s, "
    daemon.configure(
        shell("burner", "while :; do :; done", RESTART, health + "cpu_threshold: 20, memory_threshold: 0}")
        + program(daemon, "eater", "import time\nx = bytearray(80_000_000)\ntime.sleep(10**6)\n", [],
                  health + "cpu_threshold: 0, memory_threshold: 60MB}")
        + shell("spiker", "i=0; while ((i < 60000)); do ((i++)); done; sleep 1000000", RESTART,
                health.replace("1s", "20s") + "cpu_threshold: 20, memory_threshold: 0}")
        + shell("reported", "while :; do :; done", "restart: {policy: never}",
                health + "cpu_threshold: 20, memory_threshold: 0}")
    )
    daemon.start()
    for name in ("burner", "eater"):
        wait_for(f"a restart of {name}", lambda name=name: daemon.agent(name)["restart_count"] >= 1)
    burnt, eaten = (unhealthy(daemon, name)[0] for name in ("burner", "eater"))
    assert re.search(r"CPU [\d.]+ % of one core, above 20 %", str(burnt["message"])), burnt
    assert burnt["data"]["duration_s"] >= 1.0 and burnt["data"]["limit"] == 20
    assert eaten["data"]["value"] > 60_000_000 and eaten["data"]["check"] == "memory"
    view = wait_for("the verdict on the one that is only reported", lambda: (
        v if (v := daemon.agent("reported"))["health"]["status"] == "over_threshold" else None))
    assert view["restart_count"] == 0 and view["status"] == "running"
    alerts = [a for a in daemon.get("/v1/alerts")["alerts"] if a["agent_id"] == "reported" and not a["cleared_at"]]
    assert [a["type"] for a in alerts] == ["over_threshold"] and alerts[0]["threshold"] == 20
    assert daemon.agent("spiker")["restart_count"] == 0 and unhealthy(daemon, "spiker") == []


@pytest.mark.parametrize("kind", ["filebeat", "telegraf", "node_exporter"])
def test_types_without_heartbeats_are_never_restarted_for_their_silence(daemon: Daemon, kind: str) -> None:
    stand_in = daemon.root / kind
    stand_in.write_text("#!/bin/sh\n[ $# = 1 ] && { echo version 1.2.3; exit; }\nexec sleep 1000000\n")
    stand_in.chmod(0o755)
    endpoint = ", http_endpoint: ''" if kind == "node_exporter" else ""
    daemon.configure(
        f"  - {{id: quiet, type: {kind}, binary_path: {stand_in}, start_seconds: 100ms,"
        f" health_check: {{heartbeat_timeout: 300ms, interval: 200ms, start_period: 0s{endpoint}}}}}\n"
    )
    daemon.start()
    pid = pid_of(daemon, "quiet")
    time.sleep(1.5)
    view = daemon.agent("quiet")
    assert (view["pid"], view["restart_count"], view["health"]["status"]) == (pid, 0, "healthy")
    assert "never send" in daemon.log_text() or "sends no heartbeats" in daemon.log_text()


def test_a_slow_starter_is_left_alone_in_its_start_period_and_a_command_probe_runs(daemon: Daemon) -> None:
    ready = daemon.root / "ready"
    daemon.configure(shell(
        "slow", f"sleep 2; touch {ready}; sleep 1000000", RESTART,
        f"health_check: {{interval: 200ms, start_period: 10s, failure_threshold: 2, heartbeat_timeout: 0,"
        f" command: [/usr/bin/test, -e, {ready}], {QUIET}}}",
    ))
    daemon.start()
    pid = pid_of(daemon, "slow")
    assert daemon.agent("slow")["health"]["status"] == "starting"
    wait_for("health", lambda: daemon.agent("slow")["health"]["status"] == "healthy")
    assert daemon.agent("slow")["pid"] == pid
    assert Path(ready).exists()


def test_the_history_of_an_agent_and_its_last_heartbeat_survive_the_daemon(daemon: Daemon) -> None:
    daemon.configure(
        program(daemon, "beater", BEATER, [str(daemon.root / "never")],
                f"health_check: {{heartbeat_timeout: 20s, {QUIET}}}"),
        rest="resources: {interval: 300ms, history: 1h}\n",
    )
    daemon.start()
    pid = pid_of(daemon, "beater")

    def points() -> list[dict[str, object]]:
        found: list[dict[str, object]] = daemon.get("/v1/agents/beater/metrics?duration=1h")["data_points"]
        return found

    wait_for("five points", lambda: len(points()) >= 5)
    daemon.kill()
    before = time.time()
    daemon.start()
    assert daemon.agent("beater")["pid"] == pid
    found = points()
    assert len(found) >= 5, found
    assert found[0]["timestamp"] < time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before))
    assert all(p["memory_rss"] > 1_000_000 for p in found)
    assert any(p["reported_memory"] == 1048576 for p in found)
    [step] = daemon.get("/v1/agents/beater/metrics?duration=3600&step=3600")["data_points"][-1:]
    assert step["memory_rss_min"] <= step["memory_rss"] <= step["memory_rss_max"]
    assert daemon.request("GET", "/v1/agents/beater/metrics?duration=-5")[0] == 400
    assert daemon.request("GET", "/v1/agents/nobody/metrics")[0] == 404
