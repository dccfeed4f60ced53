"""Nodes one core of the Manager sustains: a thousand simulated daemons, each with a connection of its own.

A minute of a daemon is a heartbeat, a report of four collectors (110 numbers) and the states of five agents,
each acknowledged after its commit. The load sends the minutes of the whole fleet as fast as they are taken;
the server's CPU for them, by node, says how many nodes fit into a minute of one core.

The load is this file run as a program: ``python -m bench.manager_nodes PORT NODES MINUTES METHOD``; METHOD is
empty for the Manager, else the floor's. It connects and registers, says so, and begins when it is told to.
"""

from __future__ import annotations

import json
import os
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

from bench.lab import ROOT, Server, answers, free_port, get, listening, wait_for
from bench.manager_lab import ManagerLab
from bench.row import Row, ms
from daemon.manager.database import size_of

NODES = 1000
SMALL, MORE = 100, 4000  # how it grows
CALLERS = 64  # daemons whose calls are under way at the same time
CALLS_A_MINUTE = 3
FLOOR_METHOD = "/proto.DaemonService/ListAgents"  # answers with as many bytes as the request says
AIM_NODES = 5000
VALUES = {"cpu": 30, "memory": 16, "disk": 40, "network": 24}
COMMITS = re.compile(rb"^hostmanager_commits_total ([0-9.e+]+)$", re.M)


def measure(quick: bool = False) -> Row:
    """Nodes per core, against a bare grpcio server that answers as many calls and keeps nothing."""
    minutes = 2 if quick else 10
    port, http_port, floor_port = free_port(), free_port(), free_port()
    with ManagerLab() as lab:
        floor = lab.floor("grpc_echo", port=floor_port)
        ours = lab.manager(port, http_port)
        wait_for("the Manager", answers(http_port, "/readyz"))
        wait_for("the floor", listening(floor_port))
        _load(ours, port, NODES, 1)  # new nodes, first pages of the file
        floor_cpu_s, _ = _load(floor, floor_port, NODES, minutes, FLOOR_METHOD)
        few_cpu_s, _ = _load(ours, port, SMALL, minutes * 5)
        before = _number(http_port, COMMITS), size_of(f"{ours.directory}/w/manager.db")
        cpu_s, found = _load(ours, port, NODES, minutes)
        commits = _number(http_port, COMMITS) - before[0]
        grown = size_of(f"{ours.directory}/w/manager.db") - before[1]
        rss = ours.rss_mib()
        more_cpu_s, _ = _load(ours, port, MORE, max(1, minutes // 4))
    per_core, floor_per_core = 60.0 / cpu_s, 60.0 / floor_cpu_s
    calls = NODES * minutes * CALLS_A_MINUTE
    return Row(
        measure=(
            f"nodes one core of the Manager sustains at 60 s, {NODES} connected: "
            f"{calls / found['seconds']:,.0f} calls/s taken, {calls / commits:.1f} calls per commit, "
            f"p99 {ms(found['p99'])}, {grown / (NODES * minutes):,.0f} bytes stored per node and minute, "
            f"{rss:.0f} MiB; with {SMALL} connected: {60.0 / few_cpu_s:,.0f} nodes, "
            f"with {MORE:,}: {60.0 / more_cpu_s:,.0f}"
        ),
        floor=f"{floor_per_core:,.0f}",
        ours=f"{per_core:,.0f}",
        ratio=per_core / floor_per_core,
        aim=f">= {AIM_NODES:,} nodes per core",
        holds=per_core >= AIM_NODES,
    )


def _number(port: int, pattern: re.Pattern[bytes]) -> float:
    found = pattern.search(get(port, "/metrics"))
    if found is None:
        raise SystemExit(f"manager_nodes: /metrics does not say {pattern.pattern!r}")
    return float(found[1])


def _load(
    server: Server, port: int, nodes: int, minutes: int, method: str = ""
) -> tuple[float, dict[str, float]]:
    """CPU seconds of the server per node and minute, connections left out; and what the load measured."""
    command = [sys.executable, "-m", "bench.manager_nodes", str(port), str(nodes), str(minutes), method]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as load:
        assert load.stdin is not None and load.stdout is not None
        load.stdout.readline()
        before = server.cpu_s()
        load.stdin.write("begin\n")
        load.stdin.flush()
        line = load.stdout.readline()
        used = server.cpu_s() - before
        load.communicate()
    if load.returncode:
        raise SystemExit("manager_nodes: the load failed")
    found: dict[str, float] = json.loads(line)
    return used / (nodes * minutes), found


# --- the load -----------------------------------------------------------------------------------------


def _requests(node_id: str, at: int) -> list[tuple[str, bytes]]:
    """A minute of a daemon, method by method."""
    from daemon.rpc.pb import daemon_pb2 as d
    from daemon.rpc.pb import manager_pb2 as m

    metrics = [
        m.MetricData(
            type=type, timestamp=at, values={f"{type}[{n}].used_bytes": at * 1.5 + n for n in range(count)}
        )
        for type, count in VALUES.items()
    ]
    states = [
        d.AgentState(agent_id=f"agent-{n}", status="running", pid=1000 + n, type="custom", version="1.0.0")
        for n in range(5)
    ]
    messages: list[tuple[str, Any]] = [
        ("/manager.ManagerService/Heartbeat", m.HeartbeatRequest(node_id=node_id, timestamp=at)),
        ("/manager.ManagerService/ReportMetrics", m.ReportMetricsRequest(node_id=node_id, metrics=metrics)),
        ("/proto.DaemonService/SyncAgentStates", d.SyncAgentStatesRequest(node_id=node_id, states=states)),
    ]
    return [(name, message.SerializeToString()) for name, message in messages]


def _run(port: int, nodes: int, minutes: int, method: str) -> None:
    """Prints what it measured as JSON."""
    import daemon.rpc.grpc_env  # noqa: F401, I001
    import grpc
    from daemon.rpc.pb import manager_pb2 as m

    begin = int(time.time())
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(nodes)]
    work: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
    took: list[float] = []
    failures: list[Exception] = []

    def call(number: int, name: str, data: bytes) -> None:
        begun = time.monotonic()
        channels[number].unary_unary(name)(data, timeout=60)
        took.append(time.monotonic() - begun)

    def one(number: int, minute: int) -> None:
        node_id = f"node-{number:05}"
        if minute < 0:
            register = m.RegisterNodeRequest(node_id=node_id, hostname=node_id, ip="127.0.0.1", os="linux")
            data = b"2" if method else register.SerializeToString()
            call(number, method or "/manager.ManagerService/RegisterNode", data)
            return
        for name, message in _requests(node_id, begin + minute * 60):
            call(number, method or name, b"2" if method else message)

    def serve() -> None:
        while (item := work.get()) is not None:
            try:
                one(*item)
            except grpc.RpcError as error:
                failures.append(error)

    def fleet(minute: int) -> float:
        begun = time.monotonic()
        for number in range(nodes):
            work.put((number, minute))
        for _ in threads:
            work.put(None)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.monotonic() - begun

    seconds = 0.0
    for minute in range(-1, minutes):
        threads = [threading.Thread(target=serve) for _ in range(CALLERS)]
        if minute == 0:
            took.clear()
            print("ready", flush=True)
            sys.stdin.readline()
        passed = fleet(minute)
        seconds += passed if minute >= 0 else 0.0
    for channel in channels:
        channel.close()
    if failures:
        raise SystemExit(f"manager_nodes: {len(failures)} calls failed, the first: {failures[0]}")
    print(json.dumps({"seconds": seconds, "p99": statistics.quantiles(took, n=100)[98]}))


if __name__ == "__main__":
    _run(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
