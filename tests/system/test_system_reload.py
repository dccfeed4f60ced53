"""A new configuration while a real daemon runs: each key has its effect, and a bad file none."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.system.harness import Daemon, alive, sleeper, wait_for


def reloads(daemon: Daemon) -> int:
    return len(daemon.events("config.reloaded"))


def rewritten(daemon: Daemon, agents: str, *, expect: int | None = None, **sections: str) -> None:
    """Replaces the file atomically, as configuration management does, and waits until it is applied."""
    done = reloads(daemon) + 1 if expect is None else expect
    old = daemon.config
    daemon.config = old.with_suffix(".new")
    daemon.configure(agents, **sections)
    daemon.config.replace(old)
    daemon.config = old
    wait_for("the reload", lambda: reloads(daemon) >= done)


def pids(daemon: Daemon) -> dict[str, int | None]:
    return {a["id"]: a["pid"] for a in daemon.get("/v1/agents")["agents"]}


def test_each_change_touches_what_it_must_and_nothing_else(daemon: Daemon) -> None:
    daemon.configure(sleeper("a") + sleeper("b") + sleeper("c"))
    daemon.start()
    for name in "abc":
        daemon.agent_in(name, "running")
    first = pids(daemon)

    # a threshold: nobody restarts
    rewritten(daemon, sleeper("a", "health_check: {cpu_threshold: 77}") + sleeper("b") + sleeper("c"))
    assert pids(daemon) == first
    assert daemon.get("/v1/config")["agents"][0]["health_check"]["cpu_threshold"] == 77

    # args of one: it alone restarts, uncounted
    changed = sleeper("b").replace("1000000", "1000001")
    rewritten(daemon, sleeper("a", "health_check: {cpu_threshold: 77}") + changed + sleeper("c"))
    second = wait_for("b's successor", lambda: (p := pids(daemon))["b"] not in (None, first["b"]) and p)
    assert (second["a"], second["c"]) == (first["a"], first["c"])
    assert daemon.agent_in("b", "running")["restart_count"] == 0

    # one more, one less
    rewritten(daemon, sleeper("a") + changed + sleeper("d"))
    daemon.agent_in("d", "running")
    wait_for("c to leave", lambda: "c" not in pids(daemon))
    assert first["c"] is not None and not alive(first["c"])
    third = pids(daemon)
    assert (third["a"], third["b"]) == (first["a"], second["b"])

    # nonsense: nothing changes, and everybody says so
    daemon.config.write_text("agents: [{id: a, type: custom, binary_path: /bin/sleep, reboot: now}]\n")
    wait_for("the refusal", lambda: daemon.get("/v1/node")["config"]["ok"] is False)
    assert pids(daemon) == third
    assert "daemon.yaml:1:" in daemon.get("/v1/node")["config"]["error"]
    assert any(a["type"] == "config_reload" and not a["cleared_at"] for a in daemon.get("/v1/alerts")["alerts"])
    assert "hostdaemon_config_last_reload_successful 0.0" in daemon.request("GET", "/metrics")[1]
    status, problem = daemon.post("/v1/config/reload")
    assert (status, problem["code"]) == (422, "D1002")
    assert any("reboot" in fault for fault in problem["faults"])
    assert "Traceback" not in daemon.log_text()

    # and good again
    rewritten(daemon, sleeper("a") + changed + sleeper("d"), expect=reloads(daemon))
    wait_for("good again", lambda: daemon.get("/v1/node")["config"]["ok"])
    assert pids(daemon) == third
    assert not [a for a in daemon.get("/v1/alerts")["alerts"] if not a["cleared_at"]]


def test_the_api_says_the_plan_first_and_sighup_carries_it_out(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    pid = daemon.agent_in("a", "running")["pid"]
    secret = "env: {API_TOKEN: topsecret}"
    with_change = sleeper("a", "env: {PLAIN: x}", "stop_timeout: 7s")
    # In place, where the watcher sees it too: both roads may come, the outcome is one.
    status, plan = daemon.post("/v1/config/reload?dry_run=true")
    assert (status, plan["changes"], plan["applied"]) == (200, [], False)
    daemon.configure(with_change)
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for("the restart", lambda: daemon.agent("a")["pid"] not in (None, pid))
    assert b"PLAIN=x" in Path(f"/proc/{daemon.agent_in('a', 'running')['pid']}/environ").read_bytes()
    daemon.configure(sleeper("a", secret, "stop_timeout: 7s"), daemon="http_port: 1")
    _status, plan = daemon.post("/v1/config/reload?dry_run=true")
    text = str(plan)
    assert "topsecret" not in text
    wait_for("the reload", lambda: reloads(daemon) >= 2)
    assert "daemon.http_port" in daemon.get("/v1/node")["config"]["needs_restart"]
    assert daemon.request("GET", "/readyz")[0] == 200
    assert "topsecret" not in str(daemon.get("/v1/config")) + daemon.log_text() + str(daemon.events("config.reloaded"))


def test_a_swapped_symlink_is_noticed_as_kubernetes_does_it(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    for version, agents in (("v1", sleeper("a")), ("v2", sleeper("a") + sleeper("b"))):
        folder = daemon.root / "conf" / version
        folder.mkdir(parents=True)
        daemon.configure(agents)
        (folder / "daemon.yaml").write_text(daemon.config.read_text())
    data = daemon.root / "conf" / "..data"
    data.symlink_to("v1")
    daemon.config.unlink()
    (daemon.root / "conf" / "daemon.yaml").symlink_to("..data/daemon.yaml")
    daemon.config = daemon.root / "conf" / "daemon.yaml"
    daemon.start()
    daemon.agent_in("a", "running")
    swap = daemon.root / "conf" / "..new"
    swap.symlink_to("v2")
    swap.rename(data)
    wait_for("b", lambda: "b" in pids(daemon))
    daemon.agent_in("b", "running")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def rss_kib(pid: int) -> int:
    return int(next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS")).split()[1])


def test_fifty_reloads_leak_nothing(daemon: Daemon) -> None:
    daemon.configure(sleeper("a") + sleeper("b"))
    daemon.start()
    first = {name: daemon.agent_in(name, "running")["pid"] for name in "ab"}

    def turn(number: int) -> None:
        agents = sleeper("a", f"health_check: {{cpu_threshold: {50 + number}}}", f"logs: {{max_size: {9 + number}MiB}}")
        daemon.configure(agents + sleeper("b", f"restart: {{max_retries: {number + 1}}}"),
                         daemon=f"log_level: {'debug' if number % 2 else 'info'}",
                         rest=f"resources: {{interval: {60 + number}s}}\n")
        assert daemon.post("/v1/config/reload")[0] == 200

    for number in range(10):
        turn(number)
    time.sleep(1.0)
    before, memory = descriptors(daemon.pid), rss_kib(daemon.pid)
    for number in range(10, 60):
        turn(number)
    wait_for("descriptors to be given back", lambda: descriptors(daemon.pid) <= before)
    assert rss_kib(daemon.pid) - memory < 4000
    assert pids(daemon) == first
    assert "Traceback" not in daemon.log_text()
