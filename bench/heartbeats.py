"""What the heartbeat measures share: the daemon's own count, and rates per second of server CPU."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable

from bench.lab import Server, get

ACCEPTED = re.compile(rb'^hostdaemon_heartbeats_accepted_total\{receiver="(\w+)"\} ([0-9.e+]+)$', re.M)


def accepted(port: int, receiver: str) -> int:
    """How many heartbeats the daemon says it has recorded."""
    found = dict(ACCEPTED.findall(get(port, "/metrics")))
    return int(float(found[receiver.encode()]))


def rates(
    servers: dict[str, Server], send: dict[str, Callable[[], None]], count: int, rounds: int
) -> dict[str, float]:
    """Heartbeats per second of the server's CPU, medians over rounds in turn; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(rounds + 1):
        for name, server in servers.items():
            before = server.cpu_s()
            send[name]()
            if number:
                found[name].append(count / (server.cpu_s() - before))
    return {name: statistics.median(values) for name, values in found.items()}
