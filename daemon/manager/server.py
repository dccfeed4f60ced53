"""The gRPC server that daemons report to: what it serves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from daemon.aio.reactor import ThreadReactor
from daemon.aio.threads import Threads
from daemon.interfaces import EventSink, WallClock
from daemon.manager.config import ManagerConfig
from daemon.manager.fleet import Fleet
from daemon.manager.servicer import MESSAGE_BYTES, SERVICES, ManagerServicer
from daemon.model.event import Severity
from daemon.rpc.gate import Gate
from daemon.rpc.handshakes import Handshakes
from daemon.rpc.health import Health
from daemon.rpc.listener import Listening, RpcListener
from daemon.rpc.refusals import Words

WORKERS = 64  # each holds one call until its commit; they make up one transaction
CALLS_MAX = 2048  # a fleet that comes back at once; beyond that callers are told to come again
BACKSTOP_CALLS = 4096

WORDS = Words(
    busy="the Manager has as many calls in hand as it takes; try again in a second",
    stopping="the Manager is stopping; keep your reports",
    late="the Manager's database does not answer in time; try again, its log says more",
    fault="a fault of the Manager; its log says more",
    unknown_method=(
        "served are manager.ManagerService, hostdaemon.v1.Reports, grpc.health.v1.Health, and Register, "
        "Heartbeat, ReportMetrics and SyncAgentStates of proto.DaemonService; compare your proto files"
    ),
    allowed="manager.grpc.allowed_clients",
)


class LoggedAlerts:
    """The Manager keeps no alerts: what would be one is a line of the log each time it is told.

    Implements :class:`daemon.interfaces.AlertSink`.
    """

    log = Logger()

    def __init__(self) -> None:
        self._standing: set[str] = set()

    def raise_alert(
        self, type: str, message: str, *, agent_id: str = "", severity: Severity = Severity.WARN,
        current_value: float | None = None, threshold: float | None = None,
    ) -> None:
        """See AlertSink."""
        self._standing.add(type)
        tell = self.log.error if severity is Severity.ERROR else self.log.warn
        tell("D1003 {type}: {message}", type=type, message=message, error_code="D1003")

    def clear(self, type: str, *, agent_id: str = "", message: str = "") -> None:
        """See AlertSink."""
        if type in self._standing:
            self._standing.discard(type)
            self.log.info("{type} is over: {message}", type=type, message=message)

    def forget(self, agent_id: str) -> None:
        """See AlertSink; the Manager has no agents."""


class ManagerServer(Service):
    """Serves ManagerService, Reports, and the Manager's part of DaemonService.

    Args:
        reactor: runs what calls ask for.
        fleet: is told what daemons tell.
        config: port, host, certificates, who may call.
        events: hears of calls; nothing of daemons' reports is an event of the Manager's own.
        threads: for what blocks.
        wall: for certificates.
    """

    name = "rpc"

    def __init__(
        self, reactor: ThreadReactor, fleet: Fleet, config: ManagerConfig, events: EventSink, *,
        threads: Threads, wall: WallClock = time.time,
    ) -> None:
        self._listening = listening = Listening(
            program="manager", host=config.grpc_host, port=config.grpc_port, tls=config.grpc.tls,
            allowed_clients=config.grpc.allowed_clients, words=WORDS, message_max_bytes=MESSAGE_BYTES,
            workers=WORKERS, calls_max=CALLS_MAX, backstop_calls=BACKSTOP_CALLS,
        )
        self._listener = listener = RpcListener(
            reactor, listening, self._handlers, events, LoggedAlerts(), threads=threads, wall=wall
        )
        self._servicer = ManagerServicer(listener.bridge, fleet, secured=listening.mutual)

    def _handlers(self, gate: Gate) -> Mapping[str, Any]:
        found = {route.path: gate.handler(route.method) for route in self._servicer.routes()}
        found |= Health(self._listener.bridge, *SERVICES).handlers(gate)
        return found

    @property
    def error(self) -> str:
        """Why it does not listen, with its D-code, for readiness; empty when it does."""
        return self._listener.error

    @property
    def listening(self) -> str:
        """Where it listens; empty when it does not."""
        return self._listener.address

    @property
    def certificate_not_after(self) -> float | None:
        """When the certificate in use ends, Unix seconds; None without TLS."""
        return self._listener.certificate_not_after

    @property
    def calls_total(self) -> Mapping[tuple[str, str], int]:
        """Calls by method and status code."""
        return self._listener.counts.by_method_and_code()

    @property
    def in_flight(self) -> int:
        """Calls running and waiting for a worker."""
        return self._listener.in_flight

    @property
    def handshakes(self) -> Handshakes:
        """TLS handshakes begun, and connections over which a call came."""
        return self._listener.handshakes

    async def open(self) -> None:
        """Listens; where certificates cannot be used, as soon as they can.

        Raises:
            ListenError: D1003; the port is taken or its host is none of ours.
        """
        await self._listener.open()

    def refuse(self) -> None:
        """Refuses new calls as UNAVAILABLE; those in hand are committed and answered."""
        self._listener.refuse()

    def stopService(self) -> Deferred[None]:
        """Releases every call; fires when gRPC's threads are done."""
        super().stopService()
        return Deferred.fromCoroutine(self._listener.close())
