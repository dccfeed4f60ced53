"""``POST /heartbeat`` on one keep-alive connection of the real daemon."""

from __future__ import annotations

from bench.heartbeats import accepted, rates
from bench.lab import Lab, answers, free_port, listening, wait_for
from bench.row import Row
from bench.senders import run_as_agent

AIM = 0.8


def measure(quick: bool = False) -> Row:
    """Against a Klein route that returns a constant."""
    rounds, count = (3, 1000) if quick else (9, 3000)
    port, floor_port = free_port(), free_port()
    with Lab() as lab:
        floor, ours = lab.floor("klein", port=floor_port), lab.ours(agents=1, http_port=port)
        pid = ours.wait_for_marks(1)[-1].pid
        wait_for("HTTP", answers(port, "/readyz"))
        wait_for("the floor", listening(floor_port))
        found = rates(
            {"floor": floor, "ours": ours},
            {
                "floor": lambda: run_as_agent(pid, ["posts", str(floor_port), str(count)]),
                "ours": lambda: run_as_agent(pid, ["posts", str(port), str(count)]),
            },
            count, rounds,
        )
        taken, sent = accepted(port, "http"), count * (rounds + 1)
        if taken != sent:
            raise SystemExit(f"heartbeat_post: {taken} of {sent} heartbeats were recorded")
    ratio = found["ours"] / found["floor"]
    return Row(
        measure="POST /heartbeat, keep-alive, per second of server CPU",
        floor=f"{found['floor']:,.0f}", ours=f"{found['ours']:,.0f}", ratio=ratio,
        aim=f">= {AIM} x bare Klein", holds=ratio >= AIM,
    )
