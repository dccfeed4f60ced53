"""The reconcile table with real processes: what changed while no daemon was there."""

from __future__ import annotations

import os
import signal
import threading
import time

from tests.system.harness import Daemon, alive, marked_pids, shell, sleeper, wait_for


def test_an_agent_whose_configuration_changed_while_the_daemon_was_down_restarts_alone(daemon: Daemon) -> None:
    daemon.configure(sleeper("a") + sleeper("b"))
    daemon.start()
    a, b = (daemon.agent_in(i, "running")["pid"] for i in "ab")
    daemon.terminate()
    daemon.configure(sleeper("a", "env: {CHANGED: '1'}") + sleeper("b", "stop_timeout: 5s"))
    daemon.start()
    wait_for("another process", lambda: daemon.agent("a")["pid"] not in (None, a))
    view = daemon.agent_in("a", "running")
    assert not alive(a)
    assert marked_pids("a", daemon.work_dir) == {view["pid"]}
    assert view["restart_count"] == 0  # a changed configuration is no failure
    assert daemon.agent("b")["pid"] == b  # stop_timeout is live


def test_an_agent_removed_while_the_daemon_was_down_is_stopped_and_leaves_the_list(daemon: Daemon) -> None:
    daemon.configure(sleeper("a") + sleeper("b"))
    daemon.start()
    a, b = (daemon.agent_in(i, "running")["pid"] for i in "ab")
    daemon.terminate()
    daemon.configure(sleeper("b"))
    daemon.start()
    wait_for("the end of a", lambda: not alive(a))
    wait_for("a gone", lambda: [x["id"] for x in daemon.get("/v1/agents")["agents"]] == ["b"])
    assert daemon.agent("b")["pid"] == b
    wait_for("its metadata gone", lambda: not (daemon.work_dir / "state/agents/a.json").exists())


def test_a_disabled_agent_is_registered_and_stopped_and_may_not_be_started(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    a = daemon.agent_in("a", "running")["pid"]
    daemon.terminate()
    daemon.configure(sleeper("a", "enabled: false"))
    daemon.start()
    view = daemon.agent_in("a", "stopped")
    assert not alive(a)
    assert view["enabled"] is False and view["pid"] is None and "enabled: false" in view["why"]
    status, body = daemon.post("/v1/agents/a/start")
    assert status == 409 and "enabled" in body["detail"]
    daemon.terminate()
    daemon.configure(sleeper("a"))
    daemon.start()
    daemon.agent_in("a", "running")


def test_what_the_operator_stopped_stays_stopped_over_a_restart_of_the_daemon(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    daemon.agent_in("a", "running")
    assert daemon.post("/v1/agents/a/stop")[0] == 200
    daemon.kill()
    daemon.start()
    time.sleep(0.3)  # would start now if it did
    view = daemon.agent("a")
    assert (view["status"], view["wanted"], view["pid"]) == ("stopped", "stopped", None)
    assert marked_pids("a", daemon.work_dir) == set()
    assert daemon.post("/v1/agents/a/start")[1]["status"] == "running"


def test_a_stop_that_a_crash_interrupted_is_finished(daemon: Daemon) -> None:
    daemon.configure(shell("a", "trap '' TERM; while :; do sleep 1; done", "stop_timeout: 2s"))
    daemon.start()
    a = daemon.agent_in("a", "running")["pid"]
    asked = threading.Thread(target=lambda: _ignore_cut(daemon))
    asked.start()
    daemon.agent_in("a", "stopping")
    daemon.kill()
    asked.join()
    assert alive(a)
    daemon.start()
    daemon.agent_in("a", "stopped")
    assert marked_pids("a", daemon.work_dir) == set()


def test_a_restart_that_a_crash_interrupted_is_finished_although_its_policy_is_never(daemon: Daemon) -> None:
    daemon.configure(shell("a", "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done", "restart: {policy: never}"))
    daemon.start()
    a = daemon.agent_in("a", "running")["pid"]
    asked = threading.Thread(target=lambda: _ignore_cut(daemon, "restart"))
    asked.start()
    daemon.agent_in("a", "stopping")
    daemon.kill()
    asked.join()
    wait_for("its end", lambda: not alive(a))
    daemon.start()
    view = daemon.agent_in("a", "running")
    assert view["pid"] != a and marked_pids("a", daemon.work_dir) >= {view["pid"]}


def _ignore_cut(daemon: Daemon, verb: str = "stop") -> None:
    try:
        daemon.post(f"/v1/agents/a/{verb}")
    except OSError:
        return


def test_living_workers_of_a_dead_leader_are_ended_before_the_successor_starts(daemon: Daemon) -> None:
    daemon.configure(shell("a", "setsid sleep 1000001 & sleep 1000002 & wait"))
    daemon.start()
    a = daemon.agent_in("a", "running")["pid"]
    workers = wait_for("workers", lambda: len(marked_pids("a", daemon.work_dir)) == 3
                       and marked_pids("a", daemon.work_dir) - {a})
    saved = daemon.work_dir / "state/agents/a.json"
    wait_for("saved", lambda: saved.exists() and f'"pid":{a},' in saved.read_text())
    daemon.kill()
    os.kill(a, signal.SIGKILL)
    wait_for("the leader's end", lambda: not alive(a))
    assert all(alive(pid) for pid in workers)
    daemon.start()
    wait_for("a successor", lambda: daemon.agent("a")["pid"])
    daemon.agent_in("a", "running")
    assert not any(alive(pid) for pid in workers)


def test_nothing_is_left_of_a_crashed_agent_but_its_successor(daemon: Daemon) -> None:
    daemon.configure(shell("a", "setsid sleep 1000001 & sleep 1000002 & wait"))
    daemon.start()
    a = daemon.agent_in("a", "running")["pid"]
    old = wait_for("workers", lambda: len(marked_pids("a", daemon.work_dir)) == 3
                   and marked_pids("a", daemon.work_dir))
    os.kill(a, signal.SIGKILL)
    wait_for("a successor with workers", lambda: daemon.agent("a")["pid"] not in (None, a)
             and len(marked_pids("a", daemon.work_dir) - old) == 3)
    wait_for("the old ones' end", lambda: not any(alive(pid) for pid in old))
    assert len(marked_pids("a", daemon.work_dir)) == 3  # the successor's own were left alone
    [event] = daemon.events("agent.exited")
    assert "killed by SIGKILL" in event["message"]


def test_the_named_lifecycle(daemon: Daemon) -> None:
    """Start the daemon, the agent starts by itself, crash it, it restarts, the back-off is kept, stop the
    daemon gracefully, the agent runs on."""
    daemon.configure(sleeper("a", "restart: {backoff_base: 1s, backoff_max: 3s}"))
    daemon.start()
    first = daemon.agent_in("a", "running")["pid"]
    os.kill(first, signal.SIGKILL)
    wait_for("the second", lambda: daemon.agent("a")["pid"] not in (None, first))
    second = daemon.agent_in("a", "running")["pid"]
    os.kill(second, signal.SIGKILL)
    waiting = daemon.agent_in("a", "restarting")
    assert waiting["next_try"] is not None and waiting["restart_count"] == 1
    daemon.terminate()
    daemon.start()
    assert daemon.agent("a")["status"] in ("restarting", "starting", "running")
    view = daemon.agent_in("a", "running")
    assert view["restart_count"] == 2 and view["lifetime_restarts"] == 2
    daemon.terminate()
    assert alive(view["pid"])
