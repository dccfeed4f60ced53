"""``ListAgents`` of the real daemon with a hundred agents, by callers side by side on one channel.

The load is this file run as a program: ``python -m bench.rpc_list_agents PORT COUNT CALLERS SIZE``; size 0
asks the daemon, any other asks the floor for an answer of that many bytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from bench.heartbeats import rates
from bench.lab import ROOT, Lab, answers, free_port, listening, wait_for
from bench.row import Row

AGENTS = 100
CALLERS = 8  # at the same time: a Manager's own tasks and its operators
AIM = 0.7
METHOD = "/proto.DaemonService/ListAgents"


def measure(quick: bool = False) -> Row:
    """Calls per second of the server's CPU, against a bare grpcio server with an answer of the same size."""
    rounds, count = (3, 800) if quick else (9, 4000)
    port, http_port, floor_port = free_port(), free_port(), free_port()
    with Lab() as lab:
        floor = lab.floor("grpc_echo", port=floor_port)
        ours = lab.ours(agents=AGENTS, http_port=http_port, grpc_port=port)
        ours.wait_for_marks(AGENTS)
        wait_for("HTTP", answers(http_port, "/readyz"))
        wait_for("gRPC", listening(port))
        wait_for("the floor", listening(floor_port))
        size = int(_load(port, 1, 1, 0))
        found = rates(
            {"floor": floor, "ours": ours},
            {
                "floor": lambda: _check(size, _load(floor_port, count, CALLERS, size)),
                "ours": lambda: _check(size, _load(port, count, CALLERS, 0)),
            },
            count,
            rounds,
        )
    ratio = found["ours"] / found["floor"]
    return Row(
        measure=f"ListAgents, {AGENTS} agents ({size} bytes), {CALLERS} callers, per second of server CPU",
        floor=f"{found['floor']:,.0f}",
        ours=f"{found['ours']:,.0f}",
        ratio=ratio,
        aim=f">= {AIM} x bare grpcio",
        holds=ratio >= AIM,
    )


def _check(size: int, got: str) -> None:
    if abs(int(got) - size) > AGENTS * 8:  # pids and counts differ in length from one answer to the next
        raise SystemExit(f"rpc_list_agents: an answer of {got} bytes, not of {size}")


def _load(port: int, count: int, callers: int, size: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bench.rpc_list_agents", str(port), str(count), str(callers), str(size)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def _call(port: int, count: int, callers: int, size: int) -> None:
    """Prints the size of the last answer."""
    import daemon.rpc.grpc_env  # noqa: F401, I001
    import grpc

    request, sizes, failures = str(size).encode() if size else b"", [0], list[Exception]()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD)

        def work() -> None:
            try:
                for _ in range(count // callers):
                    sizes[0] = len(call(request, timeout=30))
            except grpc.RpcError as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise SystemExit(f"rpc_list_agents: {failures[0]}")
    print(sizes[0])


if __name__ == "__main__":
    _call(*(int(argument) for argument in sys.argv[1:]))
