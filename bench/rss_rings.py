"""Resident memory of a daemon at rest whose hundred agents have a day of history each, health on."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from bench.lab import Lab, answers, free_port, get, wait_for
from bench.row import Row
from daemon.resources.ring import Ring
from daemon.resources.usage_record import USAGE, Sample

AGENTS = 100
POINTS = 1440
AIM_MIB = 50.0
SETTLE_S = 40.0  # every agent was looked at


def full_rings(work_dir: Path) -> None:
    """A day of samples for each agent."""
    work_dir.mkdir(parents=True)
    folder = work_dir / "state" / "resources"
    folder.mkdir(parents=True)
    now = int(time.time())
    samples = [
        Sample(at=now - 60 * (POINTS - n), cpu=n % 100 / 7, rss=10**7 + n * 4096, vms=10**8, read=n, write=n,
               files=n % 50, threads=3)
        for n in range(POINTS)
    ]
    for number in range(AGENTS):
        Ring(folder / f"a{number}.ring", POINTS, USAGE).append(samples)


def measure(quick: bool = False) -> Row:
    """Medians over launches, in MiB; every page, a day of one agent's history and a log are asked once."""
    floors, ours = [], []
    for _ in range(1 if quick else 3):
        with Lab() as lab:
            port, floor_port = free_port(), free_port()
            floor = lab.floor("libraries", agents=AGENTS, port=floor_port)
            daemon = lab.ours(
                agents=AGENTS, http_port=port, collectors=True, health="{}", before=full_rings
            )
            for server in (floor, daemon):
                server.wait_for_marks(AGENTS)
            wait_for("HTTP", answers(port, "/readyz"))
            get(floor_port, "/")
            for path in ("/metrics", "/v1/agents", "/v1/node", "/v1/alerts", "/v1/agents/a0/logs",
                         "/v1/agents/a1/metrics?duration=24h"):
                get(port, path)
            time.sleep(SETTLE_S)
            floors.append(floor.rss_mib())
            ours.append(daemon.rss_mib())
    median = statistics.median(ours)
    return Row(
        measure=f"RSS at rest with {AGENTS} agents, full rings, health and HTTP on",
        floor=f"{statistics.median(floors):.1f} MiB", ours=f"{median:.1f} MiB", ratio=None,
        aim=f"<= {AIM_MIB:g} MiB", holds=median <= AIM_MIB,
    )
