"""Agents outlive the daemon, however it ends, and are taken back: the core promise, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.harness import Daemon, alive, marked_pids, shell, sleeper, wait_for

ENDS = {"sigkill": signal.SIGKILL, "sigterm": signal.SIGTERM, "sigint": signal.SIGINT}


def pids(daemon: Daemon) -> dict[str, int]:
    return {a["id"]: a["pid"] for a in daemon.get("/v1/agents")["agents"]}


@pytest.mark.parametrize("end", ENDS)
def test_the_next_daemon_takes_every_agent_back_with_the_same_pid(daemon: Daemon, end: str) -> None:
    daemon.configure(sleeper("a") + sleeper("b") + shell("c", "sleep 1000000 & wait"))
    daemon.start()
    for agent_id in "abc":
        daemon.agent_in(agent_id, "running")
    before = pids(daemon)
    daemon.signal(ENDS[end])
    assert all(alive(pid) for pid in before.values())
    daemon.start()
    assert pids(daemon) == before
    for agent_id in "abc":
        view = daemon.agent(agent_id)
        assert (view["status"], view["adopted"], view["restart_count"]) == ("running", True, 0)
    assert marked_pids("a", daemon.work_dir) == {before["a"]}


@pytest.mark.parametrize("end", ENDS)
def test_a_killed_adopted_agent_has_a_successor_at_once_and_its_status_is_known(
    daemon: Daemon, end: str
) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    first = daemon.agent_in("a", "running")["pid"]
    daemon.signal(ENDS[end])
    daemon.start()
    os.kill(first, signal.SIGKILL)
    wait_for("a successor", lambda: daemon.agent("a")["pid"] not in (None, first))
    view = daemon.agent_in("a", "running")
    assert view["last_exit"]["signal"] == signal.SIGKILL
    assert view["restart_count"] == 1
    assert marked_pids("a", daemon.work_dir) == {view["pid"]}


def test_a_daemonised_twistd_leaves_and_takes_back_agents_too(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start(options=())
    before = daemon.agent_in("a", "running")["pid"]
    for end in (signal.SIGKILL, signal.SIGTERM):
        daemon.signal(end)
        assert alive(before)
        daemon.start(options=())
        assert daemon.agent("a")["pid"] == before
    os.kill(before, signal.SIGKILL)
    wait_for("a successor", lambda: daemon.agent("a")["pid"] not in (None, before))
    assert daemon.agent_in("a", "running")["last_exit"]["signal"] == signal.SIGKILL


@pytest.mark.parametrize("fault", ["agent.spawn:2", "agent.spawned:1", "agent.spawned:2", "metadata.save:1",
                                   "atomic.rename:3", "journal.append:3"])
def test_a_daemon_that_dies_between_spawn_and_save_makes_no_duplicate(daemon: Daemon, fault: str) -> None:
    daemon.configure(sleeper("a") + sleeper("b"))
    daemon.spawn(fault=fault)
    status, output = daemon.ended()
    assert status == -signal.SIGKILL, output
    left = {agent_id: marked_pids(agent_id, daemon.work_dir) for agent_id in "ab"}
    daemon.start()
    for agent_id in "ab":
        view = daemon.agent_in(agent_id, "running")
        assert marked_pids(agent_id, daemon.work_dir) == {view["pid"]}
        if left[agent_id]:
            assert left[agent_id] == {view["pid"]}


PAINTER = """
import ctypes, os, time
# What redis and nginx do: write a title over arguments and environment.
with open("/proc/self/stat") as f:
    fields = f.read().rpartition(")")[2].split()
start, end = int(fields[47]), int(fields[48])
ctypes.memset(start, 0, end - start)
time.sleep(1000000)
"""


def test_an_agent_that_painted_over_its_environment_is_found_after_a_crash_before_the_save(
    daemon: Daemon,
) -> None:
    script = daemon.root / "painter.py"
    script.write_text(PAINTER)
    daemon.configure(
        f"  - {{id: a, type: custom, binary_path: {sys.executable}, args: ['{script}'], start_seconds: 100ms}}\n"
    )
    daemon.spawn(fault="metadata.save:1")
    assert daemon.ended()[0] == -signal.SIGKILL
    log = (daemon.work_dir / "logs/a/agent.log").stat()

    def on_log() -> set[int]:
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and alive(int(entry.name)):
                try:
                    seen = (entry / "fd/1").stat()
                except OSError:
                    continue
                if (seen.st_dev, seen.st_ino) == (log.st_dev, log.st_ino):
                    found.add(int(entry.name))
        return found

    [first] = wait_for("the agent", on_log)
    wait_for("paint", lambda: b"=" not in Path(f"/proc/{first}/environ").read_bytes())
    daemon.start()
    assert daemon.agent_in("a", "running")["pid"] == first
    daemon.post("/v1/agents/a/stop")
    assert on_log() == set()


def test_a_stranger_named_in_edited_metadata_is_neither_adopted_nor_signalled(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    first = daemon.agent_in("a", "running")["pid"]
    daemon.post("/v1/agents/a/stop")
    daemon.terminate()
    stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        path = daemon.work_dir / "state/agents/a.json"
        data = json.loads(path.read_text())
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        ticks = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19])
        for wrong in (
            {"boot_id": boot, "pid": stranger.pid, "start_ticks": ticks + 1},  # a reused pid
            {"boot_id": "0" * 36, "pid": stranger.pid, "start_ticks": ticks},  # an earlier boot
            {"boot_id": boot, "pid": stranger.pid, "start_ticks": 0},
        ):
            data.update(wanted="running", identity=wrong, spec_hash="x")
            path.write_text(json.dumps(data))
            daemon.start()
            view = daemon.agent_in("a", "running")
            assert view["pid"] not in (stranger.pid, first)
            daemon.post("/v1/agents/a/stop")
            daemon.terminate()
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_another_work_dir_with_the_same_ids_adopts_nothing_of_ours(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    ours = daemon.agent_in("a", "running")["pid"]
    daemon.terminate()
    other = Daemon(daemon.root / "o")
    other.root.mkdir()
    other.configure(sleeper("a"))
    try:
        other.start()
        assert other.agent_in("a", "running")["pid"] != ours
        other.post("/v1/agents/a/stop")
        assert alive(ours)
        other.terminate()
    finally:
        other.clean_up()
    assert alive(ours)


def test_a_second_daemon_on_the_same_work_dir_says_so_and_exits_1(daemon: Daemon) -> None:
    daemon.configure(sleeper("a"))
    daemon.start()
    second = Daemon(daemon.root)
    second.spawn()
    status, output = second.ended()
    assert status == 1
    assert "D1004" in output and str(daemon.pid) in output
    assert "Traceback" not in output
    assert len(output.strip().splitlines()) == 1
    assert daemon.agent_in("a", "running")
