"""One round of the four built-in collectors against the bare psutil calls.

Both run in one child process (``python -m bench.collectors ROUNDS``), on a real reactor with the real
threads, in turns, so that what else the machine does hits them alike.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

from bench.lab import ROOT
from bench.row import Row, ms

AIM = 1.2  # of CPU time
AIM_WALL_S = 0.5
WARM_UP = 20


def measure(quick: bool = False) -> Row:
    """Medians of CPU time (the process, all threads) and of wall time."""
    printed = subprocess.run(
        [sys.executable, "-m", "bench.collectors", "100" if quick else "400"], check=True,
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    medians: dict[str, tuple[float, float]] = json.loads(printed)
    (floor_cpu, floor_wall), (cpu, wall) = medians["psutil"], medians["collectors"]
    return Row(
        measure="one round of the four collectors",
        floor=f"CPU {ms(floor_cpu)}, wall {ms(floor_wall)}", ours=f"CPU {ms(cpu)}, wall {ms(wall)}",
        ratio=cpu / floor_cpu, aim=f"CPU <= {AIM} x psutil, wall < {AIM_WALL_S * 1000:.0f} ms",
        holds=cpu / floor_cpu <= AIM and wall < AIM_WALL_S,
    )


def bare_psutil() -> None:
    """The same subjects with psutil alone."""
    psutil.cpu_times()
    psutil.cpu_times(percpu=True)
    psutil.virtual_memory()
    psutil.swap_memory()
    for partition in psutil.disk_partitions():
        psutil.disk_usage(partition.mountpoint)
    psutil.disk_io_counters(perdisk=True)
    psutil.net_io_counters(pernic=True)


async def timed(work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return time.process_time() - cpu, time.perf_counter() - wall


async def compare(reactor: Any, rounds: int) -> None:
    """Prints the medians as JSON."""
    from daemon.aio.threads import ThreadLanes
    from daemon.collectors.cpu import CpuCollector
    from daemon.collectors.disk import DiskCollector
    from daemon.collectors.memory import MemoryCollector
    from daemon.collectors.network import NetworkCollector

    threads = ThreadLanes(reactor)
    cpu = CpuCollector(interval_s=60, timeout_s=10, wall=time.time)
    memory = MemoryCollector(interval_s=60, timeout_s=10, wall=time.time)
    disk = DiskCollector(interval_s=60, timeout_s=10, threads=threads, wall=time.time)
    network = NetworkCollector(interval_s=60, timeout_s=10, clock=reactor, wall=time.time)

    async def ours() -> None:
        cpu.collect()
        memory.collect()
        network.collect()
        await disk.collect()

    async def theirs() -> None:
        bare_psutil()

    results: dict[str, list[tuple[float, float]]] = {"collectors": [], "psutil": []}
    for number in range(WARM_UP + rounds):
        order = [("collectors", ours), ("psutil", theirs)]
        for name, work in order if number % 2 else reversed(order):
            sample = await timed(work)
            if number >= WARM_UP:
                results[name].append(sample)
    await threads.stop(1.0)
    print(json.dumps({
        name: [statistics.median(column) for column in zip(*samples, strict=True)]
        for name, samples in results.items()
    }))


if __name__ == "__main__":
    from twisted.internet.task import react

    react(lambda reactor: compare(reactor, int(sys.argv[1])))
