"""The gate of :mod:`daemon.rpc.gate` in the Manager's words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.logger import Logger

from daemon.rpc.gate import Gate
from daemon.rpc.status import Refusal

_WORDS = {
    "BUSY": "the Manager has as many calls in hand as it takes; try again in a second",
    "STOPPING": "the Manager is stopping; keep your reports",
    "LATE": "the Manager's database does not answer in time; try again, its log says more",
    "FAULT": "a fault of the Manager; its log says more",
    "UNKNOWN_METHOD": (
        "served are manager.ManagerService, hostdaemon.v1.Reports, grpc.health.v1.Health, and Register, "
        "Heartbeat, ReportMetrics and SyncAgentStates of proto.DaemonService; compare your proto files"
    ),
}
_ALLOWED = "manager.grpc.allowed_clients"


class ManagerGate(Gate):
    """Checks, counts and ends calls; see :class:`daemon.rpc.gate.Gate`."""

    log = Logger()

    def _end(self, name: str, refusal: Refusal, context: Any) -> None:
        message = _WORDS.get(refusal.reason, refusal.message)
        if refusal.reason == "FORBIDDEN":
            message = message.replace("daemon.grpc.allowed_clients of this node", _ALLOWED)
        super()._end(name, replace(refusal, message=message), context)
