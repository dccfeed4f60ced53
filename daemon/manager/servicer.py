"""The RPCs the Manager serves; each runs in a gRPC worker, reads, crosses to the fleet, and answers.

``success`` in an answer is always true: what fails is a status.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from daemon.manager import wire
from daemon.manager.fleet import Fleet
from daemon.manager.model import Registration
from daemon.rpc.access import Caller, caller
from daemon.rpc.bridge import Bridge
from daemon.rpc.method import Call, Method
from daemon.rpc.pb import daemon_pb2, manager_pb2, reports_pb2

COMMIT_CAP_S = 20.0  # a disk that hangs; the caller tries again
MESSAGE_BYTES = 16 * 1024 * 1024  # a daemon that was cut off for a day sends what it kept in large pieces
NAMELESS = ("",)  # of a certificate that names nobody: it may speak for no node that another has registered
SERVICES = ("manager.ManagerService", "proto.DaemonService", "hostdaemon.v1.Reports")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method and where it is served."""

    path: str
    method: Method


class ManagerServicer:
    """Answers daemons.

    Args:
        bridge: to the reactor.
        fleet: is told.
        secured: whether callers prove who they are.
    """

    def __init__(self, bridge: Bridge, fleet: Fleet, *, secured: bool) -> None:
        self._bridge = bridge
        self._fleet = fleet
        self._secured = secured

    def routes(self) -> tuple[Route, ...]:
        """All of them."""
        return (
            self._route("manager.ManagerService/RegisterNode", wire.read_node, self.register),
            self._route("manager.ManagerService/Heartbeat", wire.read_beat, self.heartbeat),
            self._route("manager.ManagerService/ReportMetrics", wire.read_metrics, self.report),
            self._route("proto.DaemonService/SyncAgentStates", wire.read_states, self.sync),
            self._route("hostdaemon.v1.Reports/ReportEvents", wire.read_entries, self.events),
            # What daemons of an older make call.
            self._route("proto.DaemonService/Register", wire.read_old_node, self.old_register),
            self._route("proto.DaemonService/Heartbeat", wire.read_old_beat, self.old_heartbeat),
            self._route("proto.DaemonService/ReportMetrics", wire.read_old_metrics, self.old_report),
        )

    def _route(self, path: str, read: Callable[[bytes], Any], answer: Callable[[Any, Call], bytes]) -> Route:
        name = path.rpartition(".")[2].replace("/", ".")
        return Route(
            path=f"/{path}", method=Method(name=name, read=read, answer=answer, max_bytes=MESSAGE_BYTES)
        )

    # ----------------------------------------------------------------- the link

    def register(self, node: Registration, call: Call) -> bytes:
        """A node is there."""
        return _bytes(manager_pb2.RegisterNodeResponse(success=True, message=self._registered(node, call)))

    def _registered(self, node: Registration, call: Call) -> str:
        who = self._who(call)
        whole = node._replace(owner=who.names[0] if who.names else "", peer=who.address)
        if not whole.node_id:
            whole = whole._replace(node_id=wire.old_node_id(whole))
        message: str = self._tell(call, lambda: self._fleet.register(whole, who.names))
        return whole.node_id if not node.node_id else message

    def heartbeat(self, node_id: str, call: Call) -> bytes:
        """A node lives."""
        self._beat(node_id, call)
        return _bytes(manager_pb2.HeartbeatResponse(success=True))

    def report(self, report: wire.Report, call: Call) -> bytes:
        """Samples."""
        return _bytes(manager_pb2.ReportMetricsResponse(success=True, message=self._reported(report, call)))

    def sync(self, states: wire.States, call: Call) -> bytes:
        """States of agents."""
        names = self._who(call).names
        self._tell(call, lambda: self._fleet.sync(states, names))
        return _bytes(daemon_pb2.SyncAgentStatesResponse(success=True))

    def events(self, entries: wire.Entries, call: Call) -> bytes:
        """Events and log entries."""
        names = self._who(call).names
        repeats = self._tell(call, lambda: self._fleet.events(entries, names))
        return _bytes(reports_pb2.ReportEventsResponse(success=True, message=_repeats(repeats)))

    # ---------------------------------------------------------------- the older

    def old_register(self, node: Registration, call: Call) -> bytes:
        """A node that brings no id gets one."""
        node_id = self._registered(node, call)
        return _bytes(daemon_pb2.RegisterResponse(node_id=node_id, success=True, message="registered"))

    def old_heartbeat(self, node_id: str, call: Call) -> bytes:
        """A node lives."""
        self._beat(node_id, call)
        return _bytes(daemon_pb2.HeartbeatResponse(success=True))

    def old_report(self, report: wire.Report, call: Call) -> bytes:
        """Samples in JSON."""
        return _bytes(daemon_pb2.MetricsResponse(success=True, message=self._reported(report, call)))

    # ------------------------------------------------------------------- pieces

    def _beat(self, node_id: str, call: Call) -> None:
        names = self._who(call).names
        self._tell(call, lambda: self._fleet.heartbeat(node_id, names))

    def _reported(self, report: wire.Report, call: Call) -> str:
        names = self._who(call).names
        return _repeats(self._tell(call, lambda: self._fleet.report(report, names)))

    def _tell(self, call: Call, make: Callable[[], Awaitable[Any]]) -> Any:
        return self._bridge.call(call.context, make, cap_s=COMMIT_CAP_S)

    def _who(self, call: Call) -> Caller:
        context: Any = call.context
        if not self._secured:
            return caller(context.peer(), {})
        who = caller(context.peer(), context.auth_context())
        return who if who.names else replace(who, names=NAMELESS)


def _repeats(count: int) -> str:
    return f"{count} of them were here already" if count else ""


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
