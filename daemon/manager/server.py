"""The gRPC server that daemons report to: its port, its threads, its certificates, its life."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import grpc
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import ThreadReactor
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.errors import ListenError
from daemon.interfaces import EventSink, WallClock
from daemon.manager.config import ManagerConfig
from daemon.manager.fleet import Fleet
from daemon.manager.gate import ManagerGate
from daemon.manager.servicer import MESSAGE_BYTES, SERVICES, ManagerServicer
from daemon.rpc.access import AllowList
from daemon.rpc.audit import Audit, CallCounts
from daemon.rpc.bridge import Bridge
from daemon.rpc.expiry import AHEAD_S, CHECK_EVERY_S
from daemon.rpc.gate import Patience
from daemon.rpc.health import Health
from daemon.rpc.listen import cannot, check_free, server_address, server_options
from daemon.rpc.tls import IdentityFiles, PemSet, server_credentials
from daemon.rpc.workers import WorkerPool

SECTION = "manager.grpc.tls"
LANE = "grpc"

WORKERS = 64  # each holds one call until its commit; they make up one transaction
CALLS_MAX = 2048  # a fleet that comes back at once; beyond that callers are told to come again
BACKSTOP_CALLS = 4096
GRACE_S = 0.5
STOP_CAP_S = 2.0
SWEEP_S = 2.0


class ManagerServer(Service):
    """Serves ManagerService, Reports, and the Manager's part of DaemonService.

    Args:
        reactor: runs what calls ask for.
        fleet: is told what daemons tell.
        config: port, host, certificates, who may call.
        events: hears of calls; nothing of daemons' reports is an event of the Manager's own.
        threads: for what blocks.
        wall: for certificates.

    Attributes:
        error: why it does not listen, for readiness; empty when it does.
        listening: where it does.
        certificate_not_after: when the certificate in use ends, Unix seconds; None without TLS.
    """

    log = Logger()
    name = "rpc"

    def __init__(
        self, reactor: ThreadReactor, fleet: Fleet, config: ManagerConfig, events: EventSink, *,
        threads: Threads, wall: WallClock = time.time,
    ) -> None:
        self._reactor = reactor
        self._fleet = fleet
        self._config = config
        self._threads = threads
        self._wall = wall
        self._counts = CallCounts()
        self._audit = Audit(reactor, events)
        self._bridge = Bridge(reactor)
        self._patience = Patience()
        self._pool: WorkerPool | None = None
        self._gate: ManagerGate | None = None
        self._server: Any = None
        self._files: IdentityFiles | None = None
        self._problem = ""
        self._timers: list[Periodic] = []
        self.error = "not listening yet"
        self.listening = ""
        self.certificate_not_after: float | None = None

    @property
    def calls_total(self) -> Mapping[tuple[str, str], int]:
        """Calls by method and status code."""
        return self._counts.by_method_and_code()

    @property
    def in_flight(self) -> int:
        """Calls running and waiting for a worker."""
        return self._pool.calls if self._pool is not None else 0

    # ------------------------------------------------------------------- open

    async def open(self) -> None:
        """Listens.

        Raises:
            ListenError: D1003; the port is taken, or a certificate cannot be used.
        """
        host, port = self._config.grpc_host, self._config.grpc_port
        tls = self._config.grpc.tls
        mutual = bool(tls.cert_file and tls.ca_file)
        credentials = await self._credentials() if tls.cert_file else None
        try:
            await self._threads.run(LANE, STOP_CAP_S, check_free, host, port)
        except (LaneBusy, LaneTimeout) as error:
            raise ListenError(f"gRPC: {host} could not be looked up: {error}; write an address") from error
        except ListenError as error:
            # The check names the keys of the daemon's own file.
            raise ListenError(error.message.replace("daemon.grpc_", "manager.grpc_")) from error
        self._pool = pool = WorkerPool(WORKERS, CALLS_MAX)
        self._gate = gate = ManagerGate(
            bridge=self._bridge, pool=pool, allowed=AllowList(self._config.grpc.allowed_clients),
            audit=self._audit, counts=self._counts, secured=mutual, patience=self._patience,
        )
        server = grpc.server(
            pool, handlers=(self._handlers(gate, secured=mutual),), options=server_options(MESSAGE_BYTES),
            maximum_concurrent_rpcs=BACKSTOP_CALLS,
        )
        address = server_address(host, port)
        try:
            if credentials is not None:
                server.add_secure_port(address, credentials)
            else:
                server.add_insecure_port(address)
        except RuntimeError as error:  # taken since we looked, a moment ago
            raise ListenError(f"gRPC: {cannot(host, port)}: {error}; try again") from error
        server.start()
        self._server = server
        self._timers.append(
            periodic(self._reactor, SWEEP_S, self._patience.sweep, name="slow calls", phase_s=SWEEP_S)
        )
        self.error = ""
        how = "mutual TLS 1.3" if mutual else "TLS 1.3, daemons not proven" if credentials else "plain text"
        self.listening = f"{address} ({how})"

    def _handlers(self, gate: ManagerGate, *, secured: bool) -> Any:
        servicer = ManagerServicer(self._bridge, self._fleet, secured=secured)
        found = {route.path: gate.handler(route.method) for route in servicer.routes()}
        found |= Health(self._bridge, *SERVICES).handlers(gate)
        return _Handlers(found, gate.unknown())

    # ----------------------------------------------------------- certificates

    async def _credentials(self) -> Any:
        tls = self._config.grpc.tls
        self._files = files = IdentityFiles(
            tls.cert_file, tls.key_file, tls.ca_file, section=SECTION, fault=ListenError, wall=self._wall
        )
        try:
            first = await self._threads.run(LANE, 10.0, files.load)
        except (LaneBusy, LaneTimeout) as error:
            raise ListenError(f"{SECTION}: the files cannot be read: {error}; look at their disk") from error
        credentials = server_credentials(files, first, self._renewed)
        self._in_use(first.not_after, first.warnings)
        self._timers.append(
            periodic(
                self._reactor, CHECK_EVERY_S, self._tell_expiry, name="certificate", phase_s=CHECK_EVERY_S
            )
        )
        return credentials

    def _renewed(self, pem: PemSet | None) -> None:
        """In a thread of gRPC's."""
        if pem is None:
            self._bridge.post(self._not_usable)
        else:
            self._bridge.post(self._in_use, pem.not_after, pem.warnings)

    def _in_use(self, not_after: float | None, warnings: tuple[str, ...]) -> None:
        self._problem = ""
        self.certificate_not_after = not_after
        for warning in warnings:
            self.log.warn("{warning}", warning=warning, error_code="D1003")
        self.log.info(
            "gRPC: the certificate in use is valid until {until}",
            until=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(not_after or 0)),
        )
        self._tell_expiry()

    def _not_usable(self) -> None:
        problem = self._files.problem if self._files is not None else ""
        if problem and problem != self._problem:
            self._problem = problem
            self.log.warn("{problem}; the one before stays in use", problem=problem, error_code="D1003")

    def _tell_expiry(self) -> None:
        left_s = (self.certificate_not_after or float("inf")) - self._wall()
        if left_s < AHEAD_S:
            self.log.warn(
                "{section}: the certificate ends in {days:.1f} days; renew its files, no restart is needed",
                section=SECTION, days=left_s / 86400.0, error_code="D1003",
            )

    # ------------------------------------------------------------------ close

    def refuse(self) -> None:
        """Refuses new calls as UNAVAILABLE; those in hand are committed and answered."""
        if self._gate is not None:
            self._gate.closed = True

    def stopService(self) -> Deferred[None]:
        """Releases every call; fires when gRPC's threads are done."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        self.refuse()
        self._bridge.stop()
        timers, self._timers = self._timers, []
        for timer in timers:
            await timer.stop()
        server, self._server = self._server, None
        if server is not None:
            ended = server.stop(GRACE_S)
            try:
                await self._threads.run(LANE, STOP_CAP_S, ended.wait, STOP_CAP_S)
            except (LaneBusy, LaneTimeout):
                self.log.warn("gRPC: calls still hang; leaving without them")
        if self._pool is not None:
            self._pool.shutdown()
        self.error = "stopped"
        self.listening = ""


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Handlers by path; every other path is answered too."""

    def __init__(self, handlers: Mapping[str, Any], unknown: Any) -> None:
        self._handlers = handlers
        self._unknown = unknown

    def service(self, handler_call_details: Any) -> Any:
        """See grpc.GenericRpcHandler."""
        return self._handlers.get(handler_call_details.method, self._unknown)
