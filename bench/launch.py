"""From the launch of twistd to the first instruction of the hundredth agent."""

from __future__ import annotations

import statistics

from bench.lab import Lab, Server
from bench.row import Row, ms

AGENTS = 100
AIM = 2.0


def _seconds(server: Server) -> float:
    marks = server.wait_for_marks(AGENTS)
    return max(mark.at for mark in marks) - server.launched_at


def measure(quick: bool = False) -> Row:
    """Medians; every launch of ours finds an empty work_dir. The first round of each warms the disk."""
    times: dict[str, list[float]] = {"floor": [], "ours": []}
    with Lab() as lab:
        for number in range(4 if quick else 10):
            for name in ("floor", "ours"):
                server = lab.floor("spawner", agents=AGENTS) if name == "floor" else lab.ours(agents=AGENTS)
                seconds = _seconds(server)
                lab.clear()
                if number:
                    times[name].append(seconds)
    floor, ours = statistics.median(times["floor"]), statistics.median(times["ours"])
    return Row(
        measure=f"launch of twistd to the first instruction of agent {AGENTS}",
        floor=ms(floor), ours=ms(ours), ratio=ours / floor, aim=f"<= {AIM:g} x bare Twisted",
        holds=ours / floor <= AIM,
    )
