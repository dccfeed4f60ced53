"""Agents' logs under a real daemon: rotated without loss while it dies and comes back, read over HTTP."""

from __future__ import annotations

import gzip
import http.client
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.harness import Daemon, shell, wait_for

WRITER = 'i=0; while ((i < {count})); do echo "line $i padding-padding-padding-padding-padding-padding"; ((i++)); done; echo done; exec sleep 1000000'
POINTS = ("logs.copy", "logs.journal", "logs.rename", "logs.collapse", "logs.collapsed")
LOGS = "logs: {{max_size: {size}, max_files: 100, compress: {compress}, max_total: 1GiB}}"


def folder(daemon: Daemon, agent_id: str) -> Path:
    return daemon.work_dir / "logs" / agent_id


def numbers(text: bytes) -> list[int]:
    assert not re.search(rb"^(?!line \d+ (?:padding-?){6}$|done$|$)", text, re.M), "a line is broken"
    return [int(n) for n in re.findall(rb"^line (\d+) ", text, re.M)]


def whole_log(daemon: Daemon, agent_id: str) -> bytes:
    """Everything the daemon serves of a log, oldest first."""
    status, text = daemon.request("GET", f"/v1/agents/{agent_id}/logs?lines=10000")
    assert status == 200
    return bytes(text, "utf-8")


def on_disk(daemon: Daemon, agent_id: str) -> list[int]:
    """Every number in every file, oldest first; the live file's head that is copied already is not counted."""
    found: list[tuple[int, bytes]] = []
    for path in folder(daemon, agent_id).iterdir():
        name = re.fullmatch(r"agent\.log\.(\d+)(\.gz)?", path.name)
        if name:
            data = gzip.decompress(path.read_bytes()) if name[2] else path.read_bytes()
            found.append((-int(name[1]), data))
    live = (folder(daemon, agent_id) / "agent.log").read_bytes()
    rotated = [n for _order, data in sorted(found) for n in numbers(data)]
    # The head of the live file up to its first line end may be the tail of a line copied already.
    head, _, rest = live.partition(b"\n")
    lived = numbers(rest)
    first = numbers(head) if re.fullmatch(rb"line \d+ (?:padding-?){6}", head) else []
    return rotated + [n for n in first if not rotated or n > rotated[-1]] + lived


def settled(daemon: Daemon, agent_id: str, size: int) -> None:
    """Waits until the live file is small and no rotation is in its middle."""
    live = folder(daemon, agent_id) / "agent.log"
    copy = live.with_name(".agent.log.copy")
    wait_for("the last rotation", lambda: live.stat().st_size < size and not copy.exists(), 30)


def written(daemon: Daemon, agent_id: str) -> None:
    """Waits until the writer has written everything."""
    live = folder(daemon, agent_id) / "agent.log"
    wait_for("the writer's end", lambda: live.read_bytes().endswith(b"done\n"), 60)


class Follower(threading.Thread):
    """Reads ``?follow`` until the daemon hangs up."""

    def __init__(self, daemon: Daemon, path: str) -> None:
        super().__init__(daemon=True)
        self.data = b""
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30)
        connection.sock.connect(str(daemon.work_dir / "run/control/control.sock"))
        connection.request("GET", path)
        self.response = connection.getresponse()
        self.start()

    def run(self) -> None:
        while True:
            try:
                more = self.response.read1(65536)
            except (OSError, http.client.HTTPException):
                return
            if not more:
                return
            self.data += more


def test_every_line_exactly_once_over_rotations_and_deaths_of_the_daemon(daemon: Daemon) -> None:
    count, agents = 60_000, {"plain": "false", "packed": "true"}
    daemon.configure("".join(
        shell(agent_id, WRITER.format(count=count), LOGS.format(size=200_000, compress=compress))
        for agent_id, compress in agents.items()
    ))
    daemon.start()
    followers = []
    for agent_id in agents:
        daemon.agent_in(agent_id, "running")
        followers.append(Follower(daemon, f"/v1/agents/{agent_id}/logs?follow=true&lines=10000"))
    for agent_id in agents:
        wait_for("a rotation", lambda agent_id=agent_id: list(folder(daemon, agent_id).glob("agent.log.1*")))
    daemon.kill()
    for follower in followers:
        followed = numbers(follower.data[: follower.data.rfind(b"\n") + 1])
        assert followed == list(range(followed[0], followed[-1] + 1)), "a follower saw a line twice or not at all"
    daemon.start()
    for agent_id in agents:
        written(daemon, agent_id)
        settled(daemon, agent_id, 400_000)
    wait_for("compression", lambda: all(p.suffix == ".gz" for p in folder(daemon, "packed").glob("agent.log.*")), 30)
    for agent_id in agents:
        assert on_disk(daemon, agent_id) == list(range(count))
        served = numbers(whole_log(daemon, agent_id))
        assert served == list(range(count - len(served), count)) and len(served) >= 9_999
        text = daemon.request("GET", f"/v1/agents/{agent_id}/logs?lines=3&grep=line%20777%20")[1]
        assert text.startswith("line 777 padding")


@pytest.fixture
def daemons(daemon: Daemon) -> Iterator[dict[str, Daemon]]:
    """A daemon for each step of a rotation, each in a directory of its own."""
    made = {}
    for number, point in enumerate(POINTS):
        root = daemon.root / str(number)
        root.mkdir()
        made[point] = Daemon(root)
    try:
        yield made
    finally:
        for each in made.values():
            each.clean_up()


def test_a_death_at_each_step_of_a_rotation_loses_and_doubles_nothing(daemons: dict[str, Daemon]) -> None:
    count = 8_000

    def die_and_come_back(point: str) -> None:
        daemon = daemons[point]
        daemon.configure(shell("writer", WRITER.format(count=count), LOGS.format(size=100_000, compress="false")))
        daemon.spawn(fault=f"{point}:1")
        assert daemon.process is not None
        assert daemon.process.wait(30) == -signal.SIGKILL, point
        daemon.process = None
        daemon.start()
        written(daemon, "writer")
        settled(daemon, "writer", 200_000)
        assert on_disk(daemon, "writer") == list(range(count)), point

    # Side by side: each waits for starts and looks, a second each.
    with ThreadPoolExecutor(len(POINTS)) as pool:
        assert len(list(pool.map(die_and_come_back, POINTS))) == len(POINTS)


def test_a_full_disk_drops_counts_and_says_so_while_the_agent_runs_on(daemon: Daemon) -> None:
    daemon.configure(
        shell("writer", WRITER.format(count=6_000), LOGS.format(size=100_000, compress="false")))
    daemon.start(fault="logs.copy:1:enospc")
    live = folder(daemon, "writer") / "agent.log"
    written(daemon, "writer")
    wait_for("the room that was made", lambda: live.stat().st_size < 200_000, 30)
    [*_, event] = wait_for("the report", lambda: daemon.events("agent.log_dropped"))
    assert event["agent_id"] == "writer" and event["data"]["bytes"] > 0
    assert daemon.agent("writer")["status"] == "running"
    metrics = daemon.request("GET", "/metrics")[1]
    dropped = re.search(r"^hostdaemon_log_dropped_bytes_total ([\d.e+]+)", metrics, re.M)
    assert dropped and float(dropped[1]) > 0


def test_the_daemons_own_log_is_opened_anew_by_a_hang_up_and_made_again_when_it_is_gone(daemon: Daemon) -> None:
    daemon.configure(shell("a", "exec sleep 1000000"))
    daemon.start()
    moved = daemon.log.with_name("moved")
    daemon.log.rename(moved)  # logrotate
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for("the new file", lambda: daemon.log.exists() and "SIGHUP" in daemon.log_text())
    assert "is ready" in moved.read_text()
    daemon.log.unlink()
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for("the new file", lambda: daemon.log.exists() and "SIGHUP" in daemon.log_text())
    daemon.log.unlink()
    daemon.log.mkdir()  # nothing can be opened there
    os.kill(daemon.pid, signal.SIGHUP)
    lost = re.compile(r"^hostdaemon_log_lines_lost_total ([\d.e+]+)", re.M)
    wait_for("lines that are counted", lambda: float(lost.findall(daemon.request("GET", "/metrics")[1])[0]) > 0)
    daemon.log.rmdir()
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for("the new file", lambda: daemon.log.exists() and "SIGHUP" in daemon.log_text())
    assert "of this log could not be written" in daemon.log_text()
    assert "Traceback" not in daemon.log_text() + moved.read_text()
    daemon.agent_in("a", "running")
