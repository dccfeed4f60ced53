"""Agents spawned by a real daemon while its Manager calls a hundred times a second: gRPC's threads cost none."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

import daemon.rpc  # noqa: F401 - sets what grpc reads at its import
from daemon.rpc.pb import daemon_pb2 as d
from daemon.rpc.pb import daemon_pb2_grpc
from tests.fakes.ports import free_port
from tests.system.harness import Daemon, alive, sleeper, wait_for

RATE = 100  # calls a second
CALLERS = 10


class Load:
    """So many calls a second by callers side by side: lists, configurations, probes."""

    def __init__(self, port: int) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._port = port
        self._done = threading.Event()
        self._lock = threading.Lock()

    def call(self, number: int) -> None:
        with grpc.insecure_channel(
            f"127.0.0.1:{self._port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = daemon_pb2_grpc.DaemonServiceStub(channel)
            turns = (
                lambda: stub.ListAgents(d.ListAgentsRequest(), timeout=10),
                lambda: stub.GetAgentMetrics(d.AgentMetricsRequest(agent_id="a0"), timeout=10),
                lambda: stub.Heartbeat(d.HeartbeatRequest(node_id="x"), timeout=10),
            )
            due = time.monotonic() + number / RATE
            turn = number
            while not self._done.wait(max(0.0, due - time.monotonic())):
                due += CALLERS / RATE
                turn += 1
                try:
                    turns[turn % len(turns)]()
                except grpc.RpcError as error:
                    self.failed.append(str(error))
                else:
                    with self._lock:
                        self.answered += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.call, args=(n,), daemon=True) for n in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in threads:
                thread.join(20)


def spawned_under_load(daemon: Daemon, count: int) -> None:
    port = free_port()
    agents = "".join(sleeper(f"a{n}", "stop_timeout: 5s") for n in range(count))
    daemon.configure(agents, daemon=f"grpc_port: {port}")
    daemon.start()

    def pids() -> dict[str, int] | None:
        views = daemon.get("/v1/agents")["agents"]
        return {a["id"]: a["pid"] for a in views} if all(a["status"] == "running" for a in views) else None

    before = wait_for("all of them", pids, 60)
    load = Load(port)
    with load.running():
        wait_for("the load", lambda: load.answered >= RATE // 2)
        counted, begun = load.answered, time.monotonic()
        status, body = daemon.post("/v1/agents/restart")
        while time.monotonic() - begun < 2.0:
            time.sleep(0.05)
        rate = (load.answered - counted) / (time.monotonic() - begun)
    assert status == 200
    results = body["results"]
    assert len(results) == count
    assert [name for name, result in results.items() if not result["success"]] == []
    after = wait_for("all of them again", pids, 60)
    assert all(alive(pid) and pid != before[name] for name, pid in after.items())
    assert not any(alive(pid) for pid in before.values())
    assert [view["id"] for view in daemon.get("/v1/agents")["agents"] if view["lifetime_restarts"]] == []
    assert daemon.events("agent.exited") == []  # none died of the spawn itself
    assert load.failed == []
    assert rate > 0.8 * RATE, rate
    daemon.terminate()
    assert "Traceback" not in daemon.log_text()


def test_100_of_100_are_spawned_fine_while_100_calls_a_second_are_served(daemon: Daemon) -> None:
    spawned_under_load(daemon, 100)


@pytest.mark.slow
def test_500_of_500_are_spawned_fine_while_100_calls_a_second_are_served(daemon: Daemon) -> None:
    spawned_under_load(daemon, 500)
