"""CPU of a daemon at rest: a hundred agents, health off, collectors at their default interval."""

from __future__ import annotations

import time

from bench.lab import Lab
from bench.row import Row, ms

AGENTS = 100
AIM_S = 0.010  # per minute
SETTLE_S = 10.0
MINUTE_S = 60.0


def measure(quick: bool = False) -> Row:
    """utime + stime of the server's process over a minute (quick: half of one), both at the same time."""
    span_s = MINUTE_S / 2 if quick else MINUTE_S
    with Lab() as lab:
        servers = [lab.floor("spawner", agents=AGENTS), lab.ours(agents=AGENTS, collectors=True)]
        for server in servers:
            server.wait_for_marks(AGENTS)
        time.sleep(SETTLE_S)
        before = [server.cpu_s() for server in servers]
        time.sleep(span_s)
        floor, ours = (
            (server.cpu_s() - was) * MINUTE_S / span_s for server, was in zip(servers, before, strict=True)
        )
    return Row(
        measure=f"idle CPU with {AGENTS} agents, health off, per minute", floor=ms(floor), ours=ms(ours),
        ratio=None, aim=f"<= {AIM_S * 1000:g} ms", holds=ours <= AIM_S,
    )
