"""Heartbeats over one connection of the Unix socket: decoded, checked and recorded by the real daemon."""

from __future__ import annotations

from bench.heartbeats import accepted, rates
from bench.lab import Lab, answers, free_port, listening, wait_for
from bench.row import Row
from bench.senders import BLOCK, run_as_agent

AIM = 0.5


def measure(quick: bool = False) -> Row:
    """Against a LineReceiver that decodes with msgspec."""
    rounds, count = (2, 20 * BLOCK) if quick else (5, 60 * BLOCK)
    port = free_port()
    with Lab() as lab:
        floor, ours = lab.floor("lines"), lab.ours(agents=1, http_port=port)
        pid = ours.wait_for_marks(1)[-1].pid
        wait_for("HTTP", answers(port, "/readyz"))
        paths = {"floor": f"{floor.directory}/beats.sock", "ours": f"{ours.directory}/w/run/heartbeat.sock"}
        for path in paths.values():
            wait_for(path, listening(path))
        found = rates(
            {"floor": floor, "ours": ours},
            {
                "floor": lambda: run_as_agent(0, ["lines", paths["floor"], str(count)]),
                "ours": lambda: run_as_agent(pid, ["lines", paths["ours"], str(count)]),
            },
            count, rounds,
        )
        taken, sent = accepted(port, "socket"), count * (rounds + 1)
        if taken != sent:
            raise SystemExit(f"heartbeat_socket: {taken} of {sent} heartbeats were recorded")
    ratio = found["ours"] / found["floor"]
    return Row(
        measure="heartbeats over one Unix connection, per second of server CPU",
        floor=f"{found['floor']:,.0f}", ours=f"{found['ours']:,.0f}", ratio=ratio,
        aim=f">= {AIM} x LineReceiver + msgspec", holds=ratio >= AIM,
    )
