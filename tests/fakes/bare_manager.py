"""A Manager as somebody else would write it: plain grpcio and the numbers of the contract."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import grpc

from tests.fakes.bare_wire import entries, one, read, write

Answer = Callable[[str, dict[int, list[Any]]], Mapping[int, Any] | bytes]

GOOD: Mapping[int, Any] = {1: True, 2: "ok"}


class BareManager:
    """ManagerService, and SyncAgentStates of DaemonService; Reports is not offered.

    Args:
        port: where it listens.
        answer: of a call by method; a success where nothing is said.
        options: of the server.

    Attributes:
        nodes: RegisterNode as it came: fields 1 to 8, labels as a dict.
        beats: node id and timestamp of every Heartbeat.
        samples: type, timestamp and values of every MetricData, repeats included.
        states: every SyncAgentStates: fields of its states.
        peers: the connections calls came over.
    """

    def __init__(
        self, port: int, answer: Answer = lambda _method, _request: GOOD, options: Mapping[str, int] | None = None
    ) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.beats: list[tuple[str, int]] = []
        self.samples: list[tuple[str, int, dict[str, float]]] = []
        self.states: list[list[dict[int, Any]]] = []
        self.peers: set[str] = set()
        self._answer = answer
        self._lock = threading.Lock()
        said = {"grpc.so_reuseport": 0} | dict(options or {})
        self.server = grpc.server(futures.ThreadPoolExecutor(8), options=list(said.items()))
        for service, methods in (
            ("manager.ManagerService", ("RegisterNode", "Heartbeat", "ReportMetrics")),
            ("proto.DaemonService", ("SyncAgentStates",)),
        ):
            handlers = {name: grpc.unary_unary_rpc_method_handler(self._handler(name)) for name in methods}
            self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    def _handler(self, name: str) -> Callable[[bytes, Any], bytes]:
        def handle(data: bytes, context: Any) -> bytes:
            request = read(data)
            with self._lock:
                self.peers.add(context.peer())
            answer = self._answer(name, request)
            with self._lock:
                getattr(self, f"_{name}")(request)
            return answer if isinstance(answer, bytes) else write(answer)

        return handle

    def _RegisterNode(self, request: dict[int, list[Any]]) -> None:
        names = {1: "node_id", 2: "hostname", 3: "ip", 4: "os", 5: "arch", 7: "daemon_version", 8: "agent_version"}
        node: dict[str, Any] = {name: one(request, number).decode() for number, name in names.items()}
        node["labels"] = {name: value.decode() for name, value in entries(request, 6).items()}
        assert set(request) <= {1, 2, 3, 4, 5, 6, 7, 8}
        self.nodes.append(node)

    def _Heartbeat(self, request: dict[int, list[Any]]) -> None:
        self.beats.append((one(request, 1).decode(), one(request, 2, 0)))

    def _ReportMetrics(self, request: dict[int, list[Any]]) -> None:
        for each in request.get(2, []):
            metric = read(each)
            self.samples.append((one(metric, 1).decode(), one(metric, 2, 0), entries(metric, 3)))

    def _SyncAgentStates(self, request: dict[int, list[Any]]) -> None:
        states = [read(each) for each in request.get(2, [])]
        self.states.append([{number: one(state, number) for number in state} for state in states])

    def stop(self, grace_s: float = 0.0) -> None:
        """Leaves: GOAWAY at once, calls in hand are answered within ``grace_s`` seconds."""
        self.server.stop(grace_s).wait(10)
