"""The meter of the reactor's blocks: a timer every millisecond that notes how late it came.

A block is the time between two visits of the loop to this timer, the millisecond itself taken off:
whatever kept the loop from it counts, our own code, threads that hold the interpreter, a busy machine.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

STEP_S = 0.001
NOTED_S = 0.002  # shorter ones are not written down


class Stall(NamedTuple):
    """A block: when it ended (wall time), how long it lasted, and the loop's own CPU time in it."""

    ended_at: float
    wall_s: float
    cpu_s: float


def install(reactor: Any, path: str) -> None:
    """Begins to meter once the reactor runs; blocks are appended to the file as they end."""
    file = open(path, "a", buffering=1, encoding="ascii")  # noqa: SIM115 - for the life of the process
    clock, cpu_clock = time.perf_counter, time.thread_time
    last, last_cpu = clock(), cpu_clock()

    def visit() -> None:
        nonlocal last, last_cpu
        now, cpu = clock(), cpu_clock()
        late_s = now - last - STEP_S
        if late_s >= NOTED_S:
            file.write(f"{time.time():.6f} {late_s:.6f} {cpu - last_cpu:.6f}\n")
        last, last_cpu = clock(), cpu_clock()
        reactor.callLater(STEP_S, visit)

    reactor.callWhenRunning(visit)


def longest(path: Path, begin: float, end: float) -> Stall:
    """The longest block that ended within a span of wall time; all zero where there was none worth noting."""
    found = [Stall(*map(float, line.split())) for line in path.read_text().splitlines()]
    inside = [stall for stall in found if begin <= stall.ended_at <= end]
    return max(inside, key=lambda stall: stall.wall_s, default=Stall(0.0, 0.0, 0.0))
