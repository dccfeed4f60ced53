"""Fifty agents killed at the same moment: when all are back, and how long the reactor stood still."""

from __future__ import annotations

import os
import signal
import statistics
import time

from bench.lab import Lab, Server
from bench.row import Row, ms
from bench.stalls import Stall, longest

AGENTS = 50
AIM_S = 0.050
SETTLE_S = 1.5  # what follows the successors (sweeps, reports, saving) belongs to the storm as well


def storm(server: Server) -> tuple[float, Stall]:
    """One storm: seconds until the last successor's first instruction, and the longest block of the loop."""
    pids = list(server.leaders().values())
    seen = len(server.marks())
    begin = time.time()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    marks = server.wait_for_marks(seen + AGENTS)
    time.sleep(SETTLE_S)
    if len({mark.agent for mark in marks[seen:]}) != AGENTS or len(server.marks()) != seen + AGENTS:
        raise SystemExit("storm: not every agent came back exactly once")
    back_s = max(mark.at for mark in marks[seen:]) - begin
    return back_s, longest(server.directory / "stalls", begin, time.time())


def measure(quick: bool = False) -> Row:
    """Medians over storms, floor and daemon in turn; the aim is for the longest block of all the storms."""
    results: dict[str, list[tuple[float, Stall]]] = {"floor": [], "ours": []}
    with Lab() as lab:
        servers = {
            "floor": lab.floor("spawner", agents=AGENTS, metered=True),
            "ours": lab.ours(agents=AGENTS, metered=True),
        }
        for server in servers.values():
            server.wait_for_marks(AGENTS)
        time.sleep(SETTLE_S)
        for number in range(3 if quick else 10):
            order = list(servers.items())
            for name, server in order if number % 2 else reversed(order):
                results[name].append(storm(server))
    cells, back = {}, {}
    for name, storms in results.items():
        back[name] = statistics.median(seconds for seconds, _ in storms)
        blocks = sorted((stall for _, stall in storms), key=lambda stall: stall.wall_s)
        middle, worst = blocks[len(blocks) // 2], blocks[-1]
        cells[name] = (
            f"all back in {ms(back[name])}; longest block {ms(middle.wall_s)} (CPU {ms(middle.cpu_s)}), "
            f"worst {ms(worst.wall_s)}"
        )
    worst_s = max(stall.wall_s for _, stall in results["ours"])
    return Row(
        measure=f"{AGENTS} agents killed at once", floor=cells["floor"], ours=cells["ours"],
        ratio=back["ours"] / back["floor"], aim=f"all back; longest block < {AIM_S * 1000:.0f} ms",
        holds=worst_s < AIM_S,
    )
