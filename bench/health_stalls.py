"""The longest block of the reactor while health checks and sampling run often: 10, 100 and 500 agents."""

from __future__ import annotations

import time

from bench.lab import Lab
from bench.row import Row, ms
from bench.stalls import longest

COUNTS = (10, 100, 500)
AIM_S = 0.050
SPAN_S = 20.0
SETTLE_S = 5.0
HEALTH = "{interval: 1s, start_period: 0s, memory_threshold: 1GB, cpu_threshold: 90, heartbeat_timeout: 60s}"


def measure(quick: bool = False) -> Row:
    """The worst block of a span in which every agent is looked at once a second and sampled four times."""
    found = []
    for count in COUNTS[:2] if quick else COUNTS:
        with Lab() as lab:
            server = lab.ours(
                agents=count, metered=True, health=HEALTH, rest="resources: {interval: 5s}\n"
            )
            server.wait_for_marks(count)
            time.sleep(SETTLE_S)
            begin = time.time()
            time.sleep(SPAN_S)
            found.append((count, longest(server.directory / "stalls", begin, time.time())))
    worst = max(stall.wall_s for _count, stall in found)
    return Row(
        measure="longest block with health every second and samples every 5 s",
        floor=", ".join(f"{count} agents" for count, _stall in found),
        ours=", ".join(f"{ms(stall.wall_s)} (CPU {ms(stall.cpu_s)})" for _count, stall in found),
        ratio=None, aim=f"< {AIM_S * 1000:g} ms", holds=worst < AIM_S,
    )
