"""Debian's own agents under the daemon, from ten lines of YAML each.

Marked ``real``: they need prometheus-node-exporter and redis-server; scripts/test-real installs them.
"""

from __future__ import annotations

import os
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from tests.system.harness import Daemon, alive, wait_for

pytestmark = pytest.mark.real


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def fetch(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def ask_redis(port: int, command: bytes) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(command + b"\r\n")
            return connection.recv(4096)
    except OSError:
        return b""


def test_node_exporter_and_redis_outlive_the_daemon_and_are_taken_back(daemon: Daemon) -> None:
    node_port, redis_port = free_port(), free_port()
    daemon.configure(
        f"""
  - id: node
    type: node_exporter
    binary_path: /usr/bin/prometheus-node-exporter
    args: ["--web.listen-address=127.0.0.1:{node_port}"]
  - id: redis
    type: custom
    binary_path: /usr/bin/redis-server
    args: ["--port", "{redis_port}", "--save", "", "--bind", "127.0.0.1"]
"""
    )
    daemon.start()
    node, redis = daemon.agent_in("node", "running"), daemon.agent_in("redis", "running")
    assert "node_cpu_seconds_total" in wait_for("metrics", lambda: fetch(f"http://127.0.0.1:{node_port}/metrics"))
    wait_for("redis", lambda: ask_redis(redis_port, b"PING") == b"+PONG\r\n")
    assert wait_for("its version", lambda: daemon.agent("node")["version"]).startswith("1.")
    # redis paints over its environment: identity must not hang on the mark
    assert b"HOSTDAEMON_MARK" not in Path(f"/proc/{redis['pid']}/environ").read_bytes()
    for end in (signal.SIGKILL, signal.SIGTERM):
        daemon.signal(end)
        assert alive(node["pid"]) and alive(redis["pid"])
        daemon.start()
        assert daemon.agent("node")["pid"] == node["pid"]
        assert daemon.agent("redis")["pid"] == redis["pid"]
    os.kill(redis["pid"], signal.SIGKILL)
    wait_for("redis back", lambda: ask_redis(redis_port, b"PING") == b"+PONG\r\n"
             and daemon.agent("redis")["pid"] != redis["pid"])
    assert daemon.agent("redis")["last_exit"]["signal"] == signal.SIGKILL
    status, body = daemon.post("/v1/agents/stop")
    assert all(r["success"] for r in body["results"].values()), body
    assert daemon.agent("redis")["last_exit"]["code"] == 0  # it ended in good order
    assert ask_redis(redis_port, b"PING") == b""


def test_redis_spawned_by_a_daemon_that_died_before_the_save_is_not_doubled(daemon: Daemon) -> None:
    port = free_port()
    daemon.configure(
        f"""
  - id: redis
    type: custom
    binary_path: /usr/bin/redis-server
    args: ["--port", "{port}", "--save", "", "--bind", "127.0.0.1"]
"""
    )
    daemon.spawn(fault="metadata.save:1")
    assert daemon.ended()[0] == -signal.SIGKILL
    info = wait_for("redis", lambda: ask_redis(port, b"INFO server"))
    [line] = [x for x in info.decode().splitlines() if x.startswith("process_id:")]
    daemon.start()
    assert daemon.agent_in("redis", "running")["pid"] == int(line.partition(":")[2])


def test_collectd_is_kept_alive(daemon: Daemon) -> None:
    config = daemon.root / "collectd.conf"
    config.write_text(f'BaseDir "{daemon.root}"\nPIDFile "{daemon.root}/c.pid"\nInterval 10\nLoadPlugin cpu\n')
    daemon.configure(
        f"""
  - id: collectd
    type: custom
    binary_path: /usr/sbin/collectd
    config_file: {config}
    args: ["-f", "-C", "{{config_file}}"]
"""
    )
    daemon.start()
    first = daemon.agent_in("collectd", "running")["pid"]
    os.kill(first, signal.SIGSEGV)
    wait_for("a successor", lambda: daemon.agent("collectd")["pid"] not in (None, first))
    assert daemon.agent_in("collectd", "running")["last_exit"]["signal"] == signal.SIGSEGV
    daemon.terminate()
    daemon.start()
    assert daemon.post("/v1/agents/collectd/stop")[1]["status"] == "stopped"
