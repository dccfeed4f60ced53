"""What the health checks of one agent cost in a minute, by themselves.

A checker watches real processes on a clock that is advanced by hand, so that nothing but its own work is in
the CPU time. The floor reads CPU times and memory of the same processes as often, with psutil.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.lab import ROOT
from bench.row import Row

AGENTS = 100
MINUTES = 10
LOOKS_PER_MINUTE = 2  # the default interval of 30 s
AIM_US = 300  # a hundred agents then cost 30 ms a minute


def measure(quick: bool = False) -> Row:
    """CPU microseconds for each agent and minute."""
    printed = subprocess.run(
        [sys.executable, "-m", "bench.health_pass", "2" if quick else str(MINUTES)], check=True,
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    health, floor = json.loads(printed)
    return Row(
        measure="CPU of health checks per agent and minute", floor=f"{floor:.0f} us", ours=f"{health:.0f} us",
        ratio=health / floor, aim=f"<= {AIM_US} us", holds=health <= AIM_US,
    )


def main(minutes: int) -> None:
    """Prints the two numbers as JSON."""
    import psutil
    from twisted.internet.task import Clock

    from daemon.config.schema import AgentConfig, AgentType
    from daemon.health.checker import MultiHealthChecker
    from daemon.health.probing import Probes
    from daemon.procfs.identity import identify
    from daemon.procfs.usage import SessionMeter
    from tests.fakes.supervised import FakeAgent, FakeAlerts, FakeRoster

    children = [subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(AGENTS)]
    try:
        roster = FakeRoster([FakeAgent(f"a{n}") for n in range(AGENTS)])
        for agent, child in zip(roster.agents, children, strict=True):
            agent.runs(child.pid, 0.0)
            agent.identity = identify(child.pid)
        unused: Any = None
        clock = Clock()
        checker = MultiHealthChecker(
            clock, roster, lambda leader, _age: SessionMeter(leader, lambda session: (session,)),
            Probes(http=unused, connect=unused, commands=unused, command_of=unused), FakeAlerts(),
        )
        checker.apply([
            AgentConfig(id=agent.agent_id, type=AgentType.CUSTOM, binary_path="/bin/sleep")
            for agent in roster.agents
        ])
        checker.startService()
        health = cpu_of(lambda: advance(clock, minutes))
        checker.stopService()
        processes = [psutil.Process(child.pid) for child in children]

        def bare() -> None:
            for _ in range(minutes * LOOKS_PER_MINUTE):
                for process in processes:
                    with process.oneshot():
                        process.cpu_times()
                        process.memory_info()

        floor = cpu_of(bare)
    finally:
        for child in children:
            child.kill()
            child.wait()
    scale = 1e6 / AGENTS / minutes
    print(json.dumps([health * scale, floor * scale]))


def advance(clock: Any, minutes: int) -> None:
    """That many minutes pass, a second at a time."""
    for _ in range(minutes * 60):
        clock.advance(1.0)


def cpu_of(work: Callable[[], None]) -> float:
    """CPU seconds of a call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    main(int(sys.argv[1]))
