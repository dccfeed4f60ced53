"""``kill -9`` of one agent to the first instruction of its successor; for ``kill_1`` and ``kill_50``."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time

from bench.lab import Lab, Server
from bench.row import Row, ms

AIM = 1.25
SETTLE_S = 1.0
BETWEEN_S = 0.06  # the exit of the last one is dealt with by then


def kill_one(server: Server, victim: str) -> float:
    """Kills one agent; seconds to its successor."""
    pid = server.leaders()[victim]
    seen = len(server.marks())
    begin = time.time()
    os.kill(pid, signal.SIGKILL)
    return server.wait_for_marks(seen + 1)[-1].at - begin


def compare(agents: int, rounds: int) -> Row:
    """Floor and daemon side by side, killing in the one and the other in turn."""
    dice = random.Random(1)
    delays: dict[str, list[float]] = {"floor": [], "ours": []}
    with Lab() as lab:
        servers = {"floor": lab.floor("spawner", agents=agents), "ours": lab.ours(agents=agents)}
        for server in servers.values():
            server.wait_for_marks(agents)
        time.sleep(SETTLE_S)
        for number in range(rounds):
            order = list(servers.items())
            for name, server in order if number % 2 else reversed(order):
                delays[name].append(kill_one(server, f"a{dice.randrange(agents)}"))
                time.sleep(BETWEEN_S)
    floor, ours = (statistics.median(delays[name]) for name in ("floor", "ours"))
    ratio = ours / floor
    among = "1 agent" if agents == 1 else f"one of {agents} agents"
    return Row(
        measure=f"kill -9 to the first instruction of the successor, {among}",
        floor=ms(floor), ours=ms(ours), ratio=ratio, aim=f"<= {AIM} x spawnProcess", holds=ratio <= AIM,
    )
