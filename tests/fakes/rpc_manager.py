"""A Manager that can be told to misbehave; served by a real gRPC server, or called in place on a Clock.

Both front ends ask the same :class:`FakeManager`, so a test of either tells of the same Manager.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from daemon.rpc import link_wire as wire
from daemon.rpc.link_errors import KINDS, CallFailed, FaultKind
from daemon.rpc.pb import daemon_pb2, manager_pb2, reports_pb2

REGISTER, HEARTBEAT, REPORT, SYNC, EVENTS = "RegisterNode", "Heartbeat", "ReportMetrics", "SyncAgentStates", "ReportEvents"

PATHS = {
    REGISTER: ("manager.ManagerService", manager_pb2.RegisterNodeRequest, manager_pb2.RegisterNodeResponse),
    HEARTBEAT: ("manager.ManagerService", manager_pb2.HeartbeatRequest, manager_pb2.HeartbeatResponse),
    REPORT: ("manager.ManagerService", manager_pb2.ReportMetricsRequest, manager_pb2.ReportMetricsResponse),
    SYNC: ("proto.DaemonService", daemon_pb2.SyncAgentStatesRequest, daemon_pb2.SyncAgentStatesResponse),
    EVENTS: ("hostdaemon.v1.Reports", reports_pb2.ReportEventsRequest, reports_pb2.ReportEventsResponse),
}


class Refused(Exception):
    """A status in place of an answer."""

    def __init__(self, code: grpc.StatusCode, details: str = "told to", retry_s: float = 0.0) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.retry_s = retry_s


class FakeManager:
    """Keeps what it is told; a test turns the switches.

    Attributes:
        hanging: methods that never answer.
        unwilling: methods that answer success=false.
        refusing: the status that a method answers with.
        invalid: samples for which ReportMetrics answers INVALID_ARGUMENT, the whole call.
        losing: so many answers to ReportMetrics are lost after the samples were kept.
        known: nodes; Heartbeat of another one is NOT_FOUND.
        down: nobody listens (in place only; the real server is stopped instead).
        calls: how often each method was called, in ``order`` which.
        samples: every (type, timestamp) that was kept, repeats included.
    """

    def __init__(self) -> None:
        self.hanging: set[str] = set()
        self.unwilling: set[str] = set()
        self.refusing: dict[str, Refused] = {}
        self.invalid: Callable[[Any], bool] = lambda _sample: False
        self.losing = 0
        self.known: set[str] = set()
        self.down = False
        self.calls: Counter[str] = Counter()
        self.order: list[str] = []
        self.registrations: list[Any] = []
        self.samples: list[tuple[str, int]] = []
        self.batches: list[int] = []
        self.values: list[dict[str, float]] = []
        self.syncs: list[dict[str, str]] = []
        self.events: list[Any] = []
        self.logs: list[Any] = []
        self.dropped = 0
        self.released = threading.Event()
        self._lock = threading.Lock()

    def answer(self, method: str, request: Any) -> Any:
        """The answer to a call; None for one that hangs.

        Raises:
            Refused: a status.
        """
        with self._lock:
            self.calls[method] += 1
            self.order.append(method)
            if method in self.hanging:
                return None
            if method in self.refusing:
                raise self.refusing[method]
            response = PATHS[method][2]
            if method in self.unwilling:
                return response(success=False, message="not today")
            getattr(self, f"_{method}")(request)
            return response(success=True)

    def _RegisterNode(self, request: Any) -> None:
        self.registrations.append(request)
        self.known.add(request.node_id)

    def _Heartbeat(self, request: Any) -> None:
        if request.node_id not in self.known:
            raise Refused(grpc.StatusCode.NOT_FOUND, "no such node")

    def _ReportMetrics(self, request: Any) -> None:
        if any(self.invalid(sample) for sample in request.metrics):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "a bad sample")
        self.samples += [(sample.type, sample.timestamp) for sample in request.metrics]
        self.values += [dict(sample.values) for sample in request.metrics]
        self.batches.append(len(request.metrics))
        if self.losing:
            self.losing -= 1
            raise Refused(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def _SyncAgentStates(self, request: Any) -> None:
        self.syncs.append({state.agent_id: state.status for state in request.states})

    def _ReportEvents(self, request: Any) -> None:
        self.events += request.events
        self.logs += request.logs
        self.dropped += request.dropped

    def calm(self) -> None:
        """Every switch back."""
        self.hanging.clear()
        self.unwilling.clear()
        self.refusing.clear()
        self.invalid = lambda _sample: False


class InPlace:
    """A dial that calls the Manager in place; deadlines are kept by a Clock.

    Attributes:
        dialled: channels made.
        open: channels not closed.
        in_flight: calls that wait.
    """

    def __init__(self, manager: FakeManager, clock: Clock) -> None:
        self.manager = manager
        self.clock = clock
        self.dialled = 0
        self.open = 0
        self.in_flight = 0

    def __call__(self, config: Any, _pem: Any) -> PlaceChannel:
        self.dialled += 1
        self.open += 1
        return PlaceChannel(self, config.timeout)


class PlaceChannel:
    """See ManagerCalls."""

    def __init__(self, room: InPlace, timeout_s: float) -> None:
        self._room = room
        self._timeout_s = timeout_s
        self._closed = False

    async def register(self, card: Any) -> None:
        """See ManagerCalls."""
        await self._call(REGISTER, wire.node_request(card), self._timeout_s)

    async def heartbeat(self, node_id: str, at: float) -> None:
        """See ManagerCalls."""
        try:
            await self._call(HEARTBEAT, wire.beat_request(node_id, at), 10.0)
        except CallFailed as failed:
            if failed.kind is not FaultKind.REFUSED:
                raise
            raise CallFailed(FaultKind.UNKNOWN_NODE, failed.message) from failed

    async def report(self, node_id: str, samples: Any) -> None:
        """See ManagerCalls."""
        await self._call(REPORT, wire.metrics_request(node_id, samples), 30.0)

    async def sync(self, node_id: str, states: Any) -> None:
        """See ManagerCalls."""
        await self._call(SYNC, wire.states_request(node_id, states), 10.0)

    async def report_events(self, node_id: str, events: Any, logs: Any, dropped: int) -> None:
        """See ManagerCalls."""
        await self._call(EVENTS, wire.events_request(node_id, events, logs, dropped), self._timeout_s)

    async def _call(self, method: str, request: Any, timeout_s: float) -> None:
        room = self._room
        if room.manager.down or self._closed:
            raise CallFailed(FaultKind.AWAY, "nobody listens")
        try:
            response = room.manager.answer(method, type(request).FromString(request.SerializeToString()))
        except Refused as refused:
            kind = KINDS.get(refused.code, FaultKind.FAULT)
            raise CallFailed(kind, refused.details, retry_after_s=refused.retry_s) from refused
        if response is None:
            room.in_flight += 1
            late: Deferred[None] = Deferred()
            timer = room.clock.callLater(timeout_s, late.callback, None)
            try:
                await late
            finally:
                room.in_flight -= 1
                if timer.active():
                    timer.cancel()
            raise CallFailed(FaultKind.SLOW, "no answer")
        if not response.success:
            raise CallFailed(FaultKind.REFUSED, "success=false")

    def retire(self) -> None:
        """See ManagerCalls."""
        self.close()

    def close(self) -> None:
        """See ManagerCalls."""
        if not self._closed:
            self._closed = True
            self._room.open -= 1


class RealManager:
    """The Manager behind a real gRPC server.

    Args:
        manager: answers.
        port: 0 for any; the same again after :meth:`stop`.
        credentials: None for a plain port.
        without: methods this Manager does not have.
    """

    def __init__(
        self, manager: FakeManager, port: int = 0, credentials: Any = None, without: Sequence[str] = ()
    ) -> None:
        self.manager = manager
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)],
        )
        services: dict[str, dict[str, Any]] = {}
        for method, (service, request, response) in PATHS.items():
            if method not in without:
                services.setdefault(service, {})[method] = grpc.unary_unary_rpc_method_handler(
                    self._handler(method), request.FromString, response.SerializeToString
                )
        for service, handlers in services.items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        address = f"127.0.0.1:{port}"
        self.port = (
            self._server.add_insecure_port(address) if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        manager.released.clear()
        self._server.start()

    def _handler(self, method: str) -> Callable[[Any, Any], Any]:
        def handle(request: Any, context: Any) -> Any:
            try:
                answer = self.manager.answer(method, request)
            except Refused as refused:
                details = []
                if refused.retry_s:
                    packed = AnyMessage()
                    delay = Duration(seconds=int(refused.retry_s), nanos=int(refused.retry_s % 1 * 1e9))
                    packed.Pack(RetryInfo(retry_delay=delay))
                    details.append(packed)
                status = Status(code=refused.code.value[0], message=refused.details, details=details)
                context.abort_with_status(rpc_status.to_status(status))
            if answer is None:
                self.manager.released.wait(30)
                context.abort(grpc.StatusCode.UNAVAILABLE, "released")
            return answer

        return handle

    def stop(self) -> None:
        """Away, at once."""
        self.manager.released.set()
        self._server.stop(0).wait(5)
