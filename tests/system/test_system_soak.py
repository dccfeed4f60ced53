"""The core promise a hundred times over, at random moments (slow suite)."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.system.harness import Daemon, alive, marked_pids, shell, sleeper, wait_for

ROUNDS = int(os.environ.get("HOSTDAEMON_ROUNDS", "100"))
FAULTS = ("agent.spawn", "agent.spawned", "metadata.save", "atomic.write", "atomic.fsync", "atomic.rename",
          "journal.append")


@pytest.mark.slow
@pytest.mark.parametrize("options", [("-n",), ()], ids=["foreground", "daemonised"])
def test_a_hundred_deaths_of_the_daemon_at_random_moments(daemon: Daemon, options: tuple[str, ...]) -> None:
    dice = random.Random(20261120)
    names = [f"a{i}" for i in range(5)]
    daemon.configure("".join(sleeper(n, "restart: {backoff_base: 100ms, backoff_max: 100ms, max_retries: 0, max_restarts_per_hour: 0}")
                             for n in names)
                     + shell("family", "setsid sleep 1000001 & sleep 1000002 & wait"))
    for turn in range(ROUNDS):
        fault = ""
        if dice.random() < 0.4:
            fault = f"{dice.choice(FAULTS)}:{dice.randint(1, 12)}"
        daemon.spawn(fault=fault, options=options)
        end = time.monotonic() + dice.uniform(0.0, 1.2)
        while time.monotonic() < end:
            if dice.random() < 0.2:
                victims = list(marked_pids(dice.choice(names), daemon.work_dir))
                if victims:
                    os.kill(dice.choice(victims), signal.SIGKILL)
            time.sleep(0.02)
        if not options:  # the one we spawned has forked and left; the lock tells the daemon's pid
            lock = daemon.work_dir / "lock"
            text = lock.read_text().strip() if lock.exists() else ""
            assert daemon.process is not None
            daemon.process.wait(20)
            daemon.pid = int(text) if text.isdigit() else 0
            if not daemon.pid or not alive(daemon.pid):
                continue
        if alive(daemon.pid):
            daemon.signal(dice.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
        for name in names:
            assert len(marked_pids(name, daemon.work_dir)) <= 1, (turn, fault, name)
    daemon.start()
    for name in names:
        view = daemon.agent_in(name, "running")
        assert marked_pids(name, daemon.work_dir) == {view["pid"]}
    daemon.agent_in("family", "running")
    wait_for("one family", lambda: len(marked_pids("family", daemon.work_dir)) == 3)
    assert daemon.post("/v1/agents/stop")[0] == 200
    for name in (*names, "family"):
        assert marked_pids(name, daemon.work_dir) == set()
    assert "Traceback" not in daemon.log_text()
