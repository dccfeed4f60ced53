"""Ten thousand cycles of crash, hang, hog and heal over twenty agents, the daemon killed every hundred (slow suite).

A cycle is one automatic restart. Every agent ends its process in a way and at a moment of its own choice; it has
failed to recover when its daemon does not bring the next process within the patience below.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import Daemon, marked_pids, wait_for

CYCLES = int(os.environ.get("HOSTDAEMON_CYCLES", "10000"))
CYCLES_PER_LIFE = 100
AGENTS = 20
PATIENCE_S = 20.0  # without a restart: the longest life below is 3 s, the longest detection 3 s

# Beats five times a second and takes 0.1 to 1 s to one of its ends.
AGENT = """
import fcntl, json, os, random, signal, socket, sys, time
dice = random.Random(os.getpid() * 7919 + int(time.time() * 1000))
s = socket.socket(socket.AF_UNIX)
end = time.monotonic() + dice.uniform(0.1, 1.0)
what = dice.choice(("exit", "exit0", "segv", "kill", "hang", "hang", "hog", "eat", "heal"))
healed = 0
if what == "hog":  # one at a time: twenty would get a tenth of a core each, which is no hog
    place = open(sys.argv[1], "w")
    try: fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError: what = "exit"
def beat():
    try:
        try: s.sendall(b"")
        except OSError: s.connect(os.environ["HOSTDAEMON_SOCKET"])
        s.sendall(json.dumps({"pid": os.getpid(), "status": "running", "cpu": 1, "memory": 1}).encode() + b"\\n")
    except OSError:
        globals()["s"] = socket.socket(socket.AF_UNIX)
while True:
    beat(); time.sleep(0.2)
    if time.monotonic() < end: continue
    if what == "exit": sys.exit(3)
    if what == "exit0": sys.exit(0)
    if what == "segv": os.kill(os.getpid(), signal.SIGSEGV)
    if what == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang": time.sleep(10**6)
    if what == "eat": x = bytearray(120_000_000); what = "eaten"
    if what == "hog":
        until = time.monotonic() + 0.2
        while time.monotonic() < until: pass
    if what == "heal":
        time.sleep(0.7); healed += 1
        if healed > 2: sys.exit(4)
"""


def configuration(daemon: Daemon) -> str:
    path = daemon.root / "agent.py"
    path.write_text(AGENT)
    health = ("health_check: {interval: 250ms, start_period: 0s, heartbeat_timeout: 1s, cpu_threshold: 30,"
              " memory_threshold: 100MB, threshold_duration: 500ms}")
    restart = "restart: {backoff_base: 0s, max_retries: 0, max_restarts_per_hour: 0}"
    return "".join(
        f"  - {{id: a{n}, type: custom, binary_path: {sys.executable}, args: {json.dumps(['-S', '-E', str(path), str(daemon.root / 'hog')])},"
        f" start_seconds: 50ms, stop_timeout: 2s, {health}, {restart}, logs: {{max_size: 1MiB, max_files: 2}}}}\n"
        for n in range(AGENTS)
    )


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


class Watch:
    """Counts cycles by the lifetime counters, and agents that did not come back in time."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.last: dict[str, float] = {}
        self.failed = 0

    def look(self, agents: list[dict[str, Any]]) -> int:
        now = time.monotonic()
        for agent in agents:
            name, count = agent["id"], agent["lifetime_restarts"]
            if count != self.counts.get(name):
                self.counts[name] = count
                self.last[name] = now
            elif now - self.last[name] > PATIENCE_S:
                self.failed += 1
                self.last[name] = now
                print(f"did not recover: {json.dumps(agent)}")
        return sum(self.counts.values())

    def forgive(self) -> None:
        """A daemon begins: patience does too."""
        self.last = dict.fromkeys(self.counts, time.monotonic())


@pytest.mark.slow
def test_ten_thousand_cycles_heal_and_nothing_leaks(daemon: Daemon) -> None:
    dice = random.Random(20261126)
    daemon.configure(configuration(daemon))
    watch = Watch()
    cycles = lives = 0
    memory: list[int] = []
    files: list[int] = []
    begun = time.monotonic()
    while cycles < CYCLES:
        daemon.start()
        lives += 1
        watch.forgive()
        target = min(CYCLES, cycles + CYCLES_PER_LIFE)
        while cycles < target:
            cycles = watch.look(daemon.get("/v1/agents")["agents"])
            time.sleep(0.2)
        memory.append(rss_kib(daemon.pid))
        files.append(descriptors(daemon.pid))
        if cycles < CYCLES:
            daemon.signal(signal.SIGKILL if dice.random() < 0.8 else signal.SIGTERM)
            for number in range(AGENTS):
                assert len(marked_pids(f"a{number}", daemon.work_dir)) <= 1, number
    # One long life more: what a life of a hundred cycles would not show.
    early = rss_kib(daemon.pid), descriptors(daemon.pid)
    more = cycles + max(CYCLES // 10, 50)
    while cycles < more:
        cycles = watch.look(daemon.get("/v1/agents")["agents"])
        time.sleep(0.2)
    late = rss_kib(daemon.pid), descriptors(daemon.pid)
    print(f"{cycles} cycles, {lives} lives, {time.monotonic() - begun:.0f} s; failures to recover {watch.failed}; "
          f"RSS {min(memory)}..{max(memory)} KiB, long life {early[0]} -> {late[0]}; "
          f"descriptors {min(files)}..{max(files)}, long life {early[1]} -> {late[1]}")
    assert watch.failed <= cycles / 1000
    assert late[0] - early[0] < 3000
    assert late[1] - early[1] < 3 * AGENTS
    assert max(memory[-5:]) - min(memory[:5]) < 6000
    assert "Traceback" not in daemon.log_text()
    assert daemon.post("/v1/agents/stop")[0] == 200
    for number in range(AGENTS):
        wait_for("nothing left", lambda number=number: not marked_pids(f"a{number}", daemon.work_dir))
