"""``python -m bench [--quick] [NAME ...]``: the table, all measures or those named."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

from bench import (
    cli_status,
    collectors,
    health_pass,
    health_stalls,
    heartbeat_post,
    heartbeat_socket,
    idle_cpu,
    idle_health,
    kill_1,
    kill_50,
    launch,
    log_rotation,
    manager_nodes,
    rpc_connects,
    rpc_list_agents,
    rpc_reports,
    rss,
    rss_grpc,
    rss_rings,
    sampling,
    storm,
)
from bench.machine import machine
from bench.row import HEADINGS, Row

MEASURES: dict[str, Callable[[bool], Row]] = {
    "kill_1": kill_1.measure,
    "kill_50": kill_50.measure,
    "storm": storm.measure,
    "launch": launch.measure,
    "idle_cpu": idle_cpu.measure,
    "idle_health": idle_health.measure,
    "rss": rss.measure,
    "rss_rings": rss_rings.measure,
    "health_pass": health_pass.measure,
    "health_stalls": health_stalls.measure,
    "sampling": sampling.measure,
    "log_rotation": log_rotation.measure,
    "heartbeat_socket": heartbeat_socket.measure,
    "heartbeat_post": heartbeat_post.measure,
    "rpc_list_agents": rpc_list_agents.measure,
    "rpc_connects": rpc_connects.measure,
    "rpc_reports": rpc_reports.measure,
    "rss_grpc": rss_grpc.measure,
    "collectors": collectors.measure,
    "manager_nodes": manager_nodes.measure,
    "cli_status": cli_status.measure,
}


def main() -> int:
    """Prints the table; 1 when an aim does not hold."""
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a first look, no verdict")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASURES)}")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in MEASURES]
    if unknown:
        parser.error(f"no measure {unknown[0]!r}; there are {', '.join(MEASURES)}")
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # so that everything is cleared away
    print(f"{machine()}{'; --quick' if options.quick else ''}\n")
    print(f"| {' | '.join(HEADINGS)} |")
    print(f"|{' --- |' * len(HEADINGS)}", flush=True)
    held = True
    for name in options.names or MEASURES:
        row = MEASURES[name](options.quick)
        held &= row.holds
        print(f"| {' | '.join(row.cells())} |", flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
