"""A gRPC server of ours, the daemon's or the Manager's: its port, its threads, its certificates, its life.

Certificates that cannot be used stop no program: it does everything else, says why gRPC is not served, and
looks again until they can be. A port that is taken is for whoever starts the program to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import ThreadReactor
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.schema import GrpcTlsConfig
from daemon.errors import ErrorCode, ListenError
from daemon.interfaces import AlertSink, EventSink, WallClock
from daemon.model.event import Severity
from daemon.rpc.access import AllowList
from daemon.rpc.audit import Audit, CallCounts
from daemon.rpc.bridge import Bridge
from daemon.rpc.deadlines import MessageDeadlines
from daemon.rpc.gate import Gate
from daemon.rpc.handshakes import Handshakes
from daemon.rpc.listen import cannot, check_free, server_address, server_options
from daemon.rpc.refusals import Words
from daemon.rpc.server_identity import ServerIdentity
from daemon.rpc.workers import CALLS_MAX, WORKERS, WorkerPool

if TYPE_CHECKING:
    from daemon.rpc.tls import Stamp

LISTEN_ALERT = "grpc_not_listening"
LANE = "grpc"

LOOK_S = 2.0  # between two looks at files that could not be used: three stat(2)
AGAIN_S = 30.0  # and another try although they are as they were: a certificate that is valid by now
LOOK_UP_S = 2.0
GRACE_S = 0.5  # at the stop, for answers on their way; then calls are cancelled
STOP_CAP_S = 2.0

Handlers = Callable[[Gate], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """What is listened to, and how much is taken.

    Attributes:
        program: ``daemon`` or ``manager``, the section of ``grpc_host``, ``grpc_port`` and ``grpc``.
        host, port: empty host: every interface.
        tls: plain text without a certificate in it.
        allowed_clients: names that may call; none: all that are proven.
        words: to callers that are turned away.
        message_max_bytes: of a request.
        workers, calls_max: see WorkerPool.
        backstop_calls: in gRPC's own hands: calls waiting to be told that they are too many.
    """

    program: str
    host: str
    port: int
    tls: GrpcTlsConfig
    allowed_clients: tuple[str, ...]
    words: Words
    message_max_bytes: int
    workers: int = WORKERS
    calls_max: int = CALLS_MAX
    backstop_calls: int = 1024

    @property
    def section(self) -> str:
        """Of the certificates."""
        return f"{self.program}.grpc.tls"

    @property
    def mutual(self) -> bool:
        """Whether callers prove who they are."""
        return bool(self.tls.cert_file and self.tls.ca_file)

    @property
    def how(self) -> str:
        """In words."""
        if self.mutual:
            return "mutual TLS 1.3"
        return "TLS 1.3, clients not proven" if self.tls.cert_file else "plain text"


class RpcListener:
    """Listens, refuses, ends.

    Args:
        reactor: runs what calls ask for.
        listening: what is listened to.
        handlers: makes the handlers by path, behind the gate.
        events: hears of calls that change something.
        alerts: hears why it does not listen, and of certificates that end.
        threads: for what blocks: reading certificates, waiting for gRPC's threads.
        wall: for certificates, whose ends are wall time.

    Attributes:
        bridge: from gRPC's threads to the reactor.
        counts, audit, deadlines: what is remembered of calls and callers.
        error: why it does not listen, with its D-code, for readiness; empty when it does.
        address: where it listens and how, for the log; empty when it does not.
        handshakes: TLS handshakes begun, and connections that made a call.
    """

    log = Logger()

    def __init__(
        self, reactor: ThreadReactor, listening: Listening, handlers: Handlers, events: EventSink,
        alerts: AlertSink, *, threads: Threads, wall: WallClock = time.time,
    ) -> None:
        self.bridge = Bridge(reactor)
        self.counts = CallCounts()
        self.audit = Audit(reactor, events)
        self.deadlines = MessageDeadlines(reactor)
        self.error = "not listening yet"
        self.address = ""
        self.handshakes = Handshakes(reactor)
        self._reactor = reactor
        self._listening = listening
        self._handlers = handlers
        self._alerts = alerts
        self._threads = threads
        self._identity: ServerIdentity | None = None
        if listening.tls.cert_file:
            self._identity = ServerIdentity(
                listening.tls, listening.section, clock=reactor, bridge=self.bridge, threads=threads,
                alerts=alerts, wall=wall, begun=self.handshakes.begun,
            )
        self._pool: WorkerPool | None = None
        self._gate: Gate | None = None
        self._server: Any = None
        self._looks: Periodic | None = None  # while the certificates cannot be used
        self._tried: Stamp = ()
        self._tried_at = 0.0
        self._trying: Deferred[None] | None = None
        self._closed = False

    @property
    def certificate_not_after(self) -> float | None:
        """End of the certificate in use, Unix seconds; None without one."""
        return self._identity.not_after if self._identity is not None else None

    @property
    def in_flight(self) -> int:
        """Calls running and waiting for a worker."""
        return self._pool.calls if self._pool is not None else 0

    @property
    def threads(self) -> int:
        """Worker threads that live."""
        return self._pool.threads if self._pool is not None else 0

    # ------------------------------------------------------------------- open

    async def open(self) -> None:
        """Listens, now or, where the certificates cannot be used, as soon as they can.

        Raises:
            ListenError: D1003, the port is taken or its host is none of ours.
        """
        try:
            await self._check_free()
            await self._try()
        except ListenError as error:
            self.error = str(error)
            raise

    async def _check_free(self) -> None:
        listening = self._listening
        try:
            await self._threads.run(
                LANE, LOOK_UP_S, check_free, listening.host, listening.port, listening.program
            )
        except (LaneBusy, LaneTimeout) as error:
            raise ListenError(
                f"gRPC: the name {listening.host} could not be looked up ({error}); write an address"
            ) from error

    async def _try(self) -> bool:
        """Listens; False where the certificates cannot be used, which is told.

        Raises:
            ListenError: the port.
        """
        identity, credentials = self._identity, None
        if identity is not None:
            self._tried, self._tried_at = await identity.stamp(), self._reactor.seconds()
            try:
                credentials = await identity.credentials()
            except ListenError as error:
                self._not_listening(error)
                return False
        if self._closed:
            return False
        self._listen(credentials)
        return True

    def _listen(self, credentials: Any) -> None:
        listening = self._listening
        pool = WorkerPool(listening.workers, listening.calls_max)
        gate = Gate(
            bridge=self.bridge, pool=pool, allowed=AllowList(listening.allowed_clients), audit=self.audit,
            counts=self.counts, secured=credentials is not None, deadlines=self.deadlines,
            words=listening.words, handshakes=self.handshakes if credentials is not None else None,
        )
        server = grpc.server(
            pool, handlers=(_Handlers(self._handlers(gate), gate.unknown()),),
            options=server_options(listening.message_max_bytes),
            maximum_concurrent_rpcs=listening.backstop_calls,
        )
        address = server_address(listening.host, listening.port)
        try:
            if credentials is not None:
                server.add_secure_port(address, credentials)
            else:
                server.add_insecure_port(address)
        except RuntimeError as error:  # taken since we looked, a moment ago; gRPC's words say no more
            raise ListenError(
                f"gRPC: {cannot(listening.host, listening.port)}: somebody took it just now; "
                "ss -ltnp shows who has it"
            ) from error
        server.start()
        self._pool, self._gate, self._server = pool, gate, server
        self.error = ""
        self.address = f"{address} ({listening.how})"

    # ---------------------------------------------------------- while it cannot

    def _not_listening(self, error: ListenError) -> None:
        """Says why, once per cause, and looks again."""
        if self.error != str(error):
            self.error = str(error)
            self.log.error(
                "{error}; gRPC is not served until then, all else is", error=self.error,
                error_code=ErrorCode.LISTEN.value,
            )
            self._alerts.raise_alert(
                LISTEN_ALERT, f"gRPC is not served: {error.message}", severity=Severity.ERROR
            )
        if self._looks is None and not self._closed:
            self._looks = periodic(
                self._reactor, LOOK_S, self._look, name="gRPC certificates", phase_s=LOOK_S
            )

    def _look(self) -> None:
        if self._trying is None:
            self._trying = trying = Deferred.fromCoroutine(self._try_again())
            trying.addBoth(self._tried_again)

    async def _try_again(self) -> None:
        identity = self._identity
        assert identity is not None, "without certificates there is nothing to wait for"
        waited_s = self._reactor.seconds() - self._tried_at
        if waited_s < AGAIN_S and await identity.stamp() == self._tried:
            return
        try:
            await self._check_free()
            listens = await self._try()
        except ListenError as error:  # the port, which somebody has taken meanwhile
            self._tried_at = self._reactor.seconds()
            self._not_listening(error)
            return
        if listens:
            if self._looks is not None:
                self._looks.stop()  # this look is not awaited by it
                self._looks = None
            self.log.info("gRPC is served now, at {address}", address=self.address)
            self._alerts.clear(LISTEN_ALERT, message=f"gRPC is served at {self.address}")

    def _tried_again(self, result: Failure | None) -> None:
        self._trying = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            self.log.failure("gRPC could not be served", failure=result)

    # ------------------------------------------------------------------ close

    def refuse(self) -> None:
        """Refuses new calls as UNAVAILABLE; those in hand go on."""
        if self._gate is not None:
            self._gate.closed = True

    async def close(self) -> None:
        """Releases every call within a second; returns when gRPC's threads are done."""
        self._closed = True
        self.refuse()
        self.bridge.stop()
        self.deadlines.stop()
        self.handshakes.stop()
        looks, self._looks = self._looks, None
        if looks is not None:
            await looks.stop()
        if self._trying is not None:
            self._trying.cancel()
        if self._identity is not None:
            await self._identity.stop()
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
        self.error = "stopped"
        self.address = ""


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Handlers by path; every other path is answered too, so that its caller learns why."""

    def __init__(self, handlers: Mapping[str, Any], unknown: Any) -> None:
        self._handlers = handlers
        self._unknown = unknown

    def service(self, handler_call_details: Any) -> Any:
        """See grpc.GenericRpcHandler."""
        return self._handlers.get(handler_call_details.method, self._unknown)
