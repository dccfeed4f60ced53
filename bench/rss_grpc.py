"""Resident memory with gRPC both ways over mutual TLS: a hundred idle agents, a Manager that is connected."""

from __future__ import annotations

import re
import statistics
import time
from functools import partial

from bench.lab import answers, free_port, get, wait_for
from bench.manager_lab import ManagerLab, Pki
from bench.row import Row

AGENTS = 100
AIM_MIB = 68.0
SETTLE_S = 5.0
CALLS = 200
CONNECTED = re.compile(rb"^hostdaemon_manager_connected 1", re.M)
DELIVERED = re.compile(rb"^hostdaemon_manager_reports_delivered_total [1-9]", re.M)


def measure(quick: bool = False) -> Row:
    """Medians over launches, in MiB, as ps and top count."""
    floors, ours = [], []
    for _ in range(1 if quick else 3):
        with ManagerLab() as lab:
            pki = lab.pki()
            port, http_port, floor_port = free_port(), free_port(), free_port()
            manager_port, manager_http = free_port(), free_port()
            lab.manager(manager_port, manager_http, f"grpc: {{tls: {pki.tls('server')}}}")
            wait_for("the Manager", answers(manager_http, "/readyz"))
            floor = lab.floor("libraries_grpc", agents=AGENTS, port=floor_port)
            daemon = lab.ours(
                agents=AGENTS, http_port=http_port, grpc_port=port, collectors=True,
                keys=f"grpc: {{tls: {pki.tls('server')}}}",
                rest=(
                    f"manager: {{address: 'localhost:{manager_port}', tls: {pki.tls('client')},"
                    " report_interval: 1s, heartbeat_interval: 1s}\n"
                ),
            )
            for server in (floor, daemon):
                server.wait_for_marks(AGENTS)
            wait_for("HTTP", answers(http_port, "/readyz"))
            for pattern in (CONNECTED, DELIVERED):
                wait_for("the link", partial(_shows, http_port, pattern))
            get(floor_port, "/")
            for path in ("/v1/agents", "/v1/node"):
                get(http_port, path)
            _ask(port, pki)
            time.sleep(SETTLE_S)
            floors.append(floor.rss_mib())
            ours.append(daemon.rss_mib())
    median = statistics.median(ours)
    return Row(
        measure=f"RSS with {AGENTS} agents, HTTP, gRPC and the Manager link over mutual TLS",
        floor=f"{statistics.median(floors):.1f} MiB", ours=f"{median:.1f} MiB", ratio=None,
        aim=f"<= {AIM_MIB:g} MiB", holds=median <= AIM_MIB,
    )


def _shows(http_port: int, pattern: re.Pattern[bytes]) -> bool:
    return pattern.search(get(http_port, "/metrics")) is not None


def _ask(port: int, pki: Pki) -> None:
    """Calls as a Manager would make them, one after another."""
    import daemon.rpc.grpc_env  # noqa: F401, I001
    import grpc

    cert, key = pki.client
    credentials = grpc.ssl_channel_credentials(pki.ca.read_bytes(), key.read_bytes(), cert.read_bytes())
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        call = channel.unary_unary("/proto.DaemonService/ListAgents")
        for _ in range(CALLS):
            call(b"", timeout=10)
