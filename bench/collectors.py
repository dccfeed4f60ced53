"""What one round of the four built-in collectors costs, against the bare psutil calls.

    python bench/collectors.py [ROUNDS]

Both run in this process, on a real reactor with the real threads, in turns, so that what else the machine
does hits them alike. Told are the medians of CPU time (this process, all threads) and of wall time, and
their ratio; the aim is at most 1.2 times the CPU time of psutil.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
from twisted.internet.task import react

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from daemon.aio.threads import ThreadLanes
from daemon.collectors.cpu import CpuCollector
from daemon.collectors.disk import DiskCollector
from daemon.collectors.memory import MemoryCollector
from daemon.collectors.network import NetworkCollector

AIM = 1.2
ROUNDS = 400
WARM_UP = 20


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


async def main(reactor: Any) -> None:
    """Measures and prints."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
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
    medians = {}
    for name, samples in results.items():
        cpu_s, wall_s = (statistics.median(column) for column in zip(*samples, strict=True))
        medians[name] = cpu_s
        print(f"{name:<11} cpu {cpu_s * 1e6:8.1f} us   wall {wall_s * 1e6:8.1f} us   (medians of {rounds})")
    ratio = medians["collectors"] / medians["psutil"]
    print(f"ratio of CPU time {ratio:.2f}, aim at most {AIM}: {'met' if ratio <= AIM else 'MISSED'}")


if __name__ == "__main__":
    react(lambda reactor: main(reactor))
