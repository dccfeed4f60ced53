"""The gRPC server of the daemon: its port, its threads, its certificates, its life.

Imported only where ``daemon.grpc_port`` is on: grpc costs 12 MB and time at import.

Of refused handshakes grpcio tells a program nothing: its core writes one line with the reason (no
certificate, unknown authority, no common version) to the process's stderr for each, without the peer, and we
count handshakes begun. Whoever gets past the handshake and is not let in is ours to log.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import ThreadReactor
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.rules import is_loopback
from daemon.config.schema import DaemonConfig
from daemon.control.control import Control
from daemon.control.node import NodeFacts
from daemon.control.records import Records
from daemon.errors import DaemonError, ListenError
from daemon.interfaces import AlertSink, EventSink, WallClock
from daemon.rpc.access import AllowList
from daemon.rpc.audit import Audit, CallCounts
from daemon.rpc.bridge import Bridge
from daemon.rpc.expiry import CHECK_EVERY_S, tell_expiry
from daemon.rpc.gate import Gate, Patience
from daemon.rpc.health import Health
from daemon.rpc.listen import cannot, check_free, server_address, server_options
from daemon.rpc.servicer import LARGE_BYTES, SERVICE, SMALL_BYTES, DaemonServicer, Effective
from daemon.rpc.workers import WorkerPool

if TYPE_CHECKING:
    from daemon.rpc.tls import IdentityFiles, PemSet  # cryptography only where certificates are configured

SECTION = "daemon.grpc.tls"
FILES_ALERT = "certificate_files"
LANE = "grpc"

BACKSTOP_CALLS = 1024  # in gRPC's own hands: calls waiting to be told that they are too many
GRACE_S = 0.5  # at the stop, for answers on their way; then calls are cancelled
STOP_CAP_S = 2.0
SWEEP_S = 2.0
REFLECTIONS_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcStats:
    """The server in numbers.

    Attributes:
        calls_total: by method (``unknown`` for those there are not) and status code.
        in_flight: calls running and waiting for a worker.
        waiting: workers that wait for the reactor.
        threads: worker threads that live.
        handshakes_total: TLS handshakes begun, failed ones included.
        slow_total: calls ended because their message did not come.
        left_out_total: calls that found no room in the journal.
    """

    calls_total: Mapping[tuple[str, str], int]
    in_flight: int
    waiting: int
    threads: int
    handshakes_total: int
    slow_total: int
    left_out_total: int


class GrpcServer(Service):
    """Serves ``proto.DaemonService`` and ``grpc.health.v1.Health``.

    Args:
        reactor: runs what calls ask for.
        control: the daemon's verbs.
        records: agents' history.
        facts: who the node is.
        effective: the configuration in force, redacted, as plain data.
        config: port, host, certificates, who may call.
        bus: hears of calls that change something.
        alerts: hears of certificates that end.
        threads: for what blocks: reading certificates, waiting for gRPC's threads.
        wall: for certificates, whose ends are wall time.
        max_inline_bytes: of ``update_data`` in PushUpdate.

    Attributes:
        error: why it does not listen, for readiness; empty when it does or is off.
        listening: where it does, for the log; empty when not.
        certificate_not_after: when the certificate in use ends, Unix seconds; None without TLS.
    """

    log = Logger()
    name = "rpc"

    def __init__(
        self, reactor: ThreadReactor, control: Control, records: Records, facts: NodeFacts,
        effective: Effective, config: DaemonConfig, bus: EventSink, alerts: AlertSink, *, threads: Threads,
        wall: WallClock = time.time, max_inline_bytes: int = 32 * 2**20,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._bus = bus
        self._alerts = alerts
        self._threads = threads
        self._wall = wall
        self._max_message = max(max_inline_bytes + SMALL_BYTES, LARGE_BYTES)
        self._counts = CallCounts()
        self._audit = Audit(reactor, bus)
        self._bridge = Bridge(reactor)
        self._patience = Patience()
        self._slow_total = 0
        self._handshakes_total = 0
        begun = reactor.seconds()
        self._servicer = DaemonServicer(
            bridge=self._bridge, registry=control.agents.registry, control=control, records=records,
            facts=facts, effective=effective, uptime_s=lambda: reactor.seconds() - begun,
            max_inline_bytes=max_inline_bytes,
        )
        self._pool: WorkerPool | None = None
        self._server: Any = None
        self._gate: Gate | None = None
        self._files: IdentityFiles | None = None
        self._problem = ""
        self._timers: list[Periodic] = []
        self.error = "not listening yet" if config.grpc_port else ""
        self.listening = ""
        self.certificate_not_after: float | None = None

    # ------------------------------------------------------------------- open

    async def open(self) -> None:
        """Listens, where a port is configured.

        Raises:
            ListenError: D1003; the port is taken, a certificate cannot be used, or plain text would be
                reached from other hosts.
        """
        config = self._config
        if not config.grpc_port:
            return
        try:
            await self._open(config.grpc_host, config.grpc_port)
        except ListenError as error:
            self.error = error.message
            raise

    async def _open(self, host: str, port: int) -> None:
        tls = self._config.grpc.tls
        mutual = bool(tls.cert_file and tls.ca_file)
        if not mutual and not is_loopback(host) and not self._config.grpc.insecure:
            raise ListenError(
                f"gRPC on {host or 'every interface'} would obey anybody; write {SECTION}, "
                "or listen on 127.0.0.1"
            )
        credentials = await self._credentials() if tls.cert_file else None
        try:
            await self._threads.run(LANE, STOP_CAP_S, check_free, host, port)
        except (LaneBusy, LaneTimeout) as error:
            raise ListenError(
                f"gRPC: the name {host} could not be looked up: {error}; write an address"
            ) from error
        self._pool = pool = WorkerPool()
        self._gate = gate = Gate(
            bridge=self._bridge, pool=pool, allowed=AllowList(self._config.grpc.allowed_clients),
            audit=self._audit, counts=self._counts, secured=credentials is not None, patience=self._patience,
        )
        server = grpc.server(
            pool, handlers=(self._handlers(gate),), options=server_options(self._max_message),
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
        self._timers.append(periodic(self._reactor, SWEEP_S, self._sweep, name="slow calls", phase_s=SWEEP_S))
        self.error = ""
        how = "mutual TLS 1.3" if mutual else "TLS 1.3, clients not proven" if credentials else "plain text"
        self.listening = f"{address} ({how})"

    def _handlers(self, gate: Gate) -> Any:
        found = {f"/{SERVICE}/{method.name}": gate.handler(method) for method in self._servicer.methods()}
        found |= Health(self._bridge, SERVICE).handlers(gate)
        if self._config.grpc.reflection:
            from daemon.rpc.reflection import reflection_handlers  # only where it is asked for

            found |= reflection_handlers(gate, most=REFLECTIONS_MAX)
        return _Handlers(found, gate.unknown())

    def _sweep(self) -> None:
        self._slow_total += self._patience.sweep()

    # ----------------------------------------------------------- certificates

    async def _credentials(self) -> Any:
        from daemon.rpc.tls import IdentityFiles, server_credentials  # cryptography, likewise

        tls = self._config.grpc.tls
        self._files = files = IdentityFiles(
            tls.cert_file, tls.key_file, tls.ca_file, section=SECTION, fault=ListenError, wall=self._wall
        )
        try:
            first = await self._threads.run(LANE, 10.0, files.load)
        except (LaneBusy, LaneTimeout) as error:
            raise ListenError(f"{SECTION}: the files cannot be read: {error}; look at their disk") from error
        credentials = server_credentials(files, first, self._renewed, self._begun)
        self._in_use(first.not_after, first.names, first.warnings, "in use")
        self._timers.append(
            periodic(
                self._reactor, CHECK_EVERY_S, self._daily, name="certificate expiry", phase_s=CHECK_EVERY_S
            )
        )
        return credentials

    def _begun(self) -> None:
        """In a thread of gRPC's: a handshake. Two at a time may count as one; it is a number to look at."""
        self._handshakes_total += 1

    def _renewed(self, pem: PemSet | None) -> None:
        """In a thread of gRPC's; the PEM itself stays there."""
        if pem is None:
            self._bridge.post(self._not_usable)
        else:
            self._bridge.post(self._in_use, pem.not_after, pem.names, pem.warnings, "renewed")

    def _in_use(
        self, not_after: float | None, names: tuple[str, ...], warnings: tuple[str, ...], how: str
    ) -> None:
        self.certificate_not_after = not_after
        self._problem = ""
        self._alerts.clear(FILES_ALERT, message="the new files are in use")
        for warning in warnings:
            self.log.warn("{warning}", warning=warning, error_code="D1003")
        self._tell_expiry()
        self.log.info(
            "gRPC: the certificate of {names} is {how}, valid until {until}",
            names=", ".join(names) or "nobody", how=how,
            until=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(not_after or 0)),
        )

    def _not_usable(self) -> None:
        problem = self._files.problem if self._files is not None else ""
        if not problem or problem == self._problem:
            return  # told already, or good by now
        self._problem = problem
        self.log.warn("{problem}; the one before stays in use", problem=problem, error_code="D1003")
        self._alerts.raise_alert(FILES_ALERT, f"{problem}; the certificate before stays in use")

    def _tell_expiry(self) -> None:
        if self.certificate_not_after is not None:
            tell_expiry(self._alerts, self.certificate_not_after, self._wall(), where=SECTION)

    def _daily(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._look_again())

    async def _look_again(self) -> None:
        """A Manager keeps one connection for months: for want of a handshake renewed files would look old."""
        files = self._files
        if files is not None and files.changed():
            try:
                pem = await self._threads.run(LANE, 10.0, files.peek)
            except (DaemonError, LaneBusy, LaneTimeout) as error:
                self.log.warn(
                    "{error}; the certificate before stays in use", error=str(error), error_code="D1003"
                )
            else:
                self.certificate_not_after = pem.not_after
        self._tell_expiry()

    # ------------------------------------------------------------------ close

    def refuse(self) -> None:
        """Refuses new calls as UNAVAILABLE; those in hand go on."""
        if self._gate is not None:
            self._gate.closed = True

    def stopService(self) -> Deferred[None]:
        """Releases every call within a second; fires when gRPC's threads are done."""
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
                self.log.warn(
                    "gRPC: calls still hang after {cap_s} s; leaving without them", cap_s=STOP_CAP_S
                )
        if self._pool is not None:
            self._pool.shutdown()
        if self._config.grpc_port:
            self.error = "stopped"
        self.listening = ""

    def stats(self) -> RpcStats:
        """The numbers as they are now."""
        pool = self._pool
        return RpcStats(
            calls_total=self._counts.by_method_and_code(),
            in_flight=pool.calls if pool is not None else 0,
            waiting=self._bridge.waiting,
            threads=pool.threads if pool is not None else 0,
            handshakes_total=self._handshakes_total,
            slow_total=self._slow_total,
            left_out_total=self._audit.left_out_total,
        )


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Handlers by path; every other path is answered too, so that its caller learns why."""

    def __init__(self, handlers: Mapping[str, Any], unknown: Any) -> None:
        self._handlers = handlers
        self._unknown = unknown

    def service(self, handler_call_details: Any) -> Any:
        """See grpc.GenericRpcHandler."""
        return self._handlers.get(handler_call_details.method, self._unknown)
