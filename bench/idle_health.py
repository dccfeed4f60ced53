"""CPU of a daemon at rest whose hundred agents are watched: health and history at their defaults."""

from __future__ import annotations

import time

from bench.lab import Lab
from bench.row import Row, ms

AGENTS = 100
AIM_S = 0.030  # per minute
SETTLE_S = 35.0  # the first looks of all are over
MINUTE_S = 60.0


def measure(quick: bool = False) -> Row:
    """utime + stime of the server's process over a minute, the floor's at the same time."""
    with Lab() as lab:
        servers = [
            lab.floor("spawner", agents=AGENTS), lab.ours(agents=AGENTS, collectors=True, health="{}"),
        ]
        for server in servers:
            server.wait_for_marks(AGENTS)
        time.sleep(5.0 if quick else SETTLE_S)
        before = [server.cpu_s() for server in servers]
        time.sleep(MINUTE_S)
        floor, ours = (server.cpu_s() - was for server, was in zip(servers, before, strict=True))
    return Row(
        measure=f"idle CPU with {AGENTS} agents, health and history on, per minute", floor=ms(floor),
        ours=ms(ours), ratio=None, aim=f"<= {AIM_S * 1000:g} ms", holds=ours <= AIM_S,
    )
