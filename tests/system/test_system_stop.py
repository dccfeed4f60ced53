"""Stopping everything that belongs to an agent, and nothing else."""

from __future__ import annotations

import os
import signal
import threading
import time

from tests.system.harness import Daemon, marked_pids, shell, sleeper, wait_for

FAMILY = r"""
sleep 1000001 &
setsid sleep 1000002 &
perl -e 'setpgrp(0,0); sleep 1000003' &
(setsid bash -c 'sleep 1000004 & exec sleep 1000005' &)
exec -a leader sleep 1000006
"""


def test_grandchildren_group_changers_and_setsid_children_are_gone_after_stop(daemon: Daemon) -> None:
    daemon.configure(shell("a", FAMILY) + sleeper("b"))
    daemon.start()
    daemon.agent_in("a", "running")
    other = daemon.agent_in("b", "running")["pid"]
    wait_for("the family", lambda: len(marked_pids("a", daemon.work_dir)) >= 6)
    status, body = daemon.post("/v1/agents/a/stop")
    assert status == 200 and body["status"] == "stopped" and body["pid"] is None
    assert marked_pids("a", daemon.work_dir) == set()
    assert daemon.agent("b")["pid"] == other


def test_the_family_of_an_adopted_agent_is_gone_after_stop_too(daemon: Daemon) -> None:
    daemon.configure(shell("a", FAMILY))
    daemon.start()
    daemon.agent_in("a", "running")
    wait_for("the family", lambda: len(marked_pids("a", daemon.work_dir)) >= 6)
    daemon.kill()
    daemon.start()
    assert daemon.post("/v1/agents/a/stop")[1]["status"] == "stopped"
    assert marked_pids("a", daemon.work_dir) == set()


def test_an_agent_that_ignores_its_stop_signal_is_gone_after_stop_timeout(daemon: Daemon) -> None:
    daemon.configure(shell("a", "trap '' TERM; while :; do sleep 0.1; done", "stop_timeout: 1s"))
    daemon.start()
    daemon.agent_in("a", "running")
    begun = time.monotonic()
    status, body = daemon.post("/v1/agents/a/stop")
    took_s = time.monotonic() - begun
    assert (status, body["status"]) == (200, "stopped")
    assert took_s >= 1.0
    assert body["last_exit"]["signal"] == signal.SIGKILL
    assert marked_pids("a", daemon.work_dir) == set()


def test_a_child_that_ignores_the_stop_signal_is_killed_when_the_leader_has_gone(daemon: Daemon) -> None:
    script = "setsid bash -c \"trap '' TERM; while :; do sleep 0.1; done\" & sleep 1000000"
    daemon.configure(shell("a", script, "stop_timeout: 1s"))
    daemon.start()
    daemon.agent_in("a", "running")
    wait_for("the child", lambda: len(marked_pids("a", daemon.work_dir)) >= 3)
    assert daemon.post("/v1/agents/a/stop")[0] == 200
    assert marked_pids("a", daemon.work_dir) == set()


def test_graceful_false_kills_at_once_and_hurries_a_stop_under_way(daemon: Daemon) -> None:
    stubborn = "trap '' TERM; while :; do sleep 0.1; done"
    daemon.configure(shell("a", stubborn, "stop_timeout: 60s") + shell("b", stubborn, "stop_timeout: 60s"))
    daemon.start()
    for agent_id in "ab":
        daemon.agent_in(agent_id, "running")
    begun = time.monotonic()
    assert daemon.post("/v1/agents/a/stop?graceful=false")[0] == 200
    patient: list[int] = []
    asking = threading.Thread(target=lambda: patient.append(daemon.post("/v1/agents/b/stop")[0]))
    asking.start()
    daemon.agent_in("b", "stopping")
    assert daemon.post("/v1/agents/b/stop?graceful=false")[0] == 200
    asking.join()
    assert patient == [200]
    assert time.monotonic() - begun < 10


def test_the_stop_signal_is_the_configured_one(daemon: Daemon) -> None:
    daemon.configure(shell("a", "trap 'exit 7' USR1; while :; do sleep 0.05; done", "stop_signal: USR1"))
    daemon.start()
    daemon.agent_in("a", "running")
    assert daemon.post("/v1/agents/a/stop")[1]["last_exit"]["code"] == 7


def test_starting_what_runs_and_stopping_what_is_stopped_succeed(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    pid = daemon.agent_in("a", "running")["pid"]
    status, body = daemon.post("/v1/agents/a/start")
    assert status == 200 and body["pid"] == pid
    for _ in range(2):
        status, body = daemon.post("/v1/agents/a/stop")
        assert status == 200 and body["status"] == "stopped"
    status, body = daemon.post("/v1/agents/a/restart")
    assert status == 200 and body["status"] == "running" and body["pid"] != pid
    assert body["restart_count"] == 0


def test_operations_on_all_give_a_result_for_each(daemon: Daemon) -> None:
    broken = '  - {id: c, type: custom, binary_path: /nowhere/c, start_seconds: 100ms}\n'
    daemon.configure(sleeper("a") + sleeper("b") + broken + sleeper("d", "enabled: false"))
    daemon.start()
    for verb, good in (("stop", "abc"), ("start", "ab"), ("restart", "ab")):
        status, body = daemon.post(f"/v1/agents/{verb}")
        assert status == 200
        results = body["results"]
        assert set(results) == {"a", "b", "c"}
        assert {i for i, r in results.items() if r["success"]} == set(good), results
        if "c" not in good:
            assert "D3001" in results["c"]["error"] and "/nowhere/c" in results["c"]["error"]


def test_a_stop_supersedes_a_start_that_waits(daemon: Daemon) -> None:
    daemon.configure(sleeper("a", ).replace("start_seconds: 100ms", "start_seconds: 20s"))
    daemon.start()
    daemon.agent_in("a", "starting")
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(daemon.post("/v1/agents/a/start")[0]))
    asking.start()
    time.sleep(0.3)  # the request is on its way
    assert daemon.post("/v1/agents/a/stop")[0] == 200
    asking.join()
    assert answers == [409]
    assert marked_pids("a", daemon.work_dir) == set()


def test_an_agent_that_dies_while_it_starts_fails_the_operation_with_its_code(daemon: Daemon) -> None:
    daemon.configure(shell("a", "sleep 0.2; echo cannot bind; exit 3", "enabled: true",
                           "restart: {policy: never}").replace("start_seconds: 100ms", "start_seconds: 1s"))
    daemon.start()
    daemon.agent_in("a", "failed")
    status, body = daemon.post("/v1/agents/a/start")
    assert status == 500 and body["code"] == "D3001" and "exit code 3" in body["detail"]
    wait_for("the event", lambda: daemon.events("agent.exited"))
    assert daemon.events("agent.exited")[-1]["data"]["last_lines"][-1] == "cannot bind"


def test_kill_of_everything_is_survived(daemon: Daemon) -> None:
    daemon.configure("".join(sleeper(f"a{i}") for i in range(10)))
    daemon.start()
    before = {a["id"]: daemon.agent_in(a["id"], "running")["pid"] for a in daemon.get("/v1/agents")["agents"]}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    wait_for("all successors", lambda: all(
        a["pid"] not in (None, before[a["id"]]) and a["status"] == "running"
        for a in daemon.get("/v1/agents")["agents"]))


def test_a_restart_that_sigterm_meets_leaves_the_agent_running(daemon: Daemon) -> None:
    daemon.configure(shell("a", "trap 'sleep 0.7; exit' TERM; while :; do sleep 0.05; done"))
    daemon.start()
    first = daemon.agent_in("a", "running")["pid"]
    asking = threading.Thread(target=lambda: _cut_off(daemon))
    asking.start()
    daemon.agent_in("a", "stopping")
    daemon.terminate()
    asking.join()
    left = marked_pids("a", daemon.work_dir)
    assert left and first not in left
    daemon.start()
    assert daemon.agent_in("a", "running")["pid"] in left


def _cut_off(daemon: Daemon) -> None:
    try:
        daemon.post("/v1/agents/a/restart")
    except OSError:
        return


def test_a_second_sigterm_changes_nothing(daemon: Daemon) -> None:
    daemon.configure(shell("a", "trap 'sleep 0.5; exit' TERM; while :; do sleep 0.05; done"))
    daemon.start()
    daemon.agent_in("a", "running")
    asking = threading.Thread(target=lambda: _cut_off(daemon))
    asking.start()
    daemon.agent_in("a", "stopping")
    os.kill(daemon.pid, signal.SIGTERM)
    time.sleep(0.1)  # the first one is being carried out
    daemon.terminate()
    asking.join()
    assert "Traceback" not in daemon.log_text()
