"""Resident memory of a stand-alone daemon at rest: a hundred agents, HTTP on, every page asked once."""

from __future__ import annotations

import statistics
import time

from bench.lab import Lab, answers, free_port, get, wait_for
from bench.row import Row

AGENTS = 100
AIM_MIB = 50.0
SETTLE_S = 3.0


def measure(quick: bool = False) -> Row:
    """Medians over launches, in MiB, as ps and top count."""
    floors, ours = [], []
    for _ in range(1 if quick else 3):
        with Lab() as lab:
            port, floor_port = free_port(), free_port()
            floor = lab.floor("libraries", agents=AGENTS, port=floor_port)
            daemon = lab.ours(agents=AGENTS, http_port=port, collectors=True)
            for server in (floor, daemon):
                server.wait_for_marks(AGENTS)
            wait_for("HTTP", answers(port, "/readyz"))
            time.sleep(SETTLE_S)
            get(floor_port, "/")
            for path in ("/metrics", "/v1/agents", "/v1/node"):
                get(port, path)
            floors.append(floor.rss_mib())
            ours.append(daemon.rss_mib())
    median = statistics.median(ours)
    return Row(
        measure=f"RSS at rest with {AGENTS} agents, HTTP on, stand-alone",
        floor=f"{statistics.median(floors):.1f} MiB", ours=f"{median:.1f} MiB", ratio=None,
        aim=f"<= {AIM_MIB:g} MiB", holds=median <= AIM_MIB,
    )
