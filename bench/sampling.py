"""Sampling one agent's process, everything the history keeps, against a kept psutil Process with oneshot.

Both read the same sleeping process, in one child (``python -m bench.sampling ROUNDS``), in turns, so that
what else the machine does hits them alike. The members of the session are known, as they are in the daemon.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from bench.lab import ROOT
from bench.row import Row

AIM_S = 31e-6  # of CPU
BATCH = 100  # samples between two looks at the clock
WARM_UP = 5


def measure(quick: bool = False) -> Row:
    """Medians of the CPU time of one sample."""
    printed = subprocess.run(
        [sys.executable, "-m", "bench.sampling", "40" if quick else "200"], check=True,
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    medians: dict[str, float] = json.loads(printed)
    floor, ours = medians["psutil"], medians["full"]
    return Row(
        measure="sampling one agent's process", floor=f"CPU {us(floor)}",
        ours=f"CPU {us(ours)} (CPU and memory alone: {us(medians['light'])})", ratio=ours / floor,
        aim=f"CPU <= {us(AIM_S)}", holds=ours <= AIM_S,
    )


def us(seconds: float) -> str:
    """Seconds as microseconds."""
    return f"{seconds * 1e6:.1f} us"


def cpu_of(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    begin = time.process_time()
    for _ in range(BATCH):
        work()
    return (time.process_time() - begin) / BATCH


def compare(pid: int, rounds: int) -> dict[str, float]:
    """The medians."""
    from daemon.procfs.identity import identify
    from daemon.procfs.usage import SessionMeter

    leader = identify(pid)
    if leader is None:
        raise SystemExit("the process to be sampled has ended")
    meter = SessionMeter(leader, lambda session: (session,))
    kept = psutil.Process(pid)

    def oneshot() -> None:
        with kept.oneshot():
            kept.cpu_times()
            kept.memory_info()
            kept.io_counters()
            kept.num_fds()
            kept.num_threads()

    ways: dict[str, Callable[[], object]] = {
        "full": lambda: meter.full(time.monotonic()),
        "light": lambda: meter.light(time.monotonic()),
        "psutil": oneshot,
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM_UP + rounds):
        for name, work in ways.items():
            took = cpu_of(work)
            if number >= WARM_UP:
                found[name].append(took)
    return {name: statistics.median(samples) for name, samples in found.items()}


if __name__ == "__main__":
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        print(json.dumps(compare(sleeper.pid, int(sys.argv[1]))))
    finally:
        sleeper.kill()
        sleeper.wait()
