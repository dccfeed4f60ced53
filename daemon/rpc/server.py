"""The gRPC server of the daemon: what it serves, and how it is doing.

Imported only where ``daemon.grpc_port`` is on: grpc costs 12 MB and time at import.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from daemon.aio.reactor import ThreadReactor
from daemon.aio.threads import Threads
from daemon.config.rules import is_loopback
from daemon.config.schema import DaemonConfig
from daemon.control.control import Control
from daemon.control.node import NodeFacts
from daemon.control.records import Records
from daemon.errors import ListenError
from daemon.interfaces import AlertSink, EventSink, WallClock
from daemon.rpc.gate import Gate
from daemon.rpc.health import Health
from daemon.rpc.listener import Listening, RpcListener
from daemon.rpc.method import SMALL_BYTES
from daemon.rpc.refusals import DAEMON_WORDS
from daemon.rpc.servicer import LARGE_BYTES, SERVICE, DaemonServicer, Effective

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
        connections_total: connections with TLS over which a call came.
        slow_total: calls ended because their message did not come.
        left_out_total: calls that found no room in the journal.
    """

    calls_total: Mapping[tuple[str, str], int]
    in_flight: int
    waiting: int
    threads: int
    handshakes_total: int
    connections_total: int
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
        alerts: hears why it does not listen, and of certificates that end.
        threads: for what blocks.
        wall: for certificates, whose ends are wall time.
        max_inline_bytes: of ``update_data`` in PushUpdate.
    """

    name = "rpc"

    def __init__(
        self, reactor: ThreadReactor, control: Control, records: Records, facts: NodeFacts,
        effective: Effective, config: DaemonConfig, bus: EventSink, alerts: AlertSink, *, threads: Threads,
        wall: WallClock = time.time, max_inline_bytes: int = 32 * 2**20,
    ) -> None:
        self._config = config
        listening = Listening(
            program="daemon", host=config.grpc_host, port=config.grpc_port or 0, tls=config.grpc.tls,
            allowed_clients=config.grpc.allowed_clients, words=DAEMON_WORDS,
            message_max_bytes=max(max_inline_bytes + SMALL_BYTES, LARGE_BYTES),
        )
        self._listener = listener = RpcListener(
            reactor, listening, self._handlers, bus, alerts, threads=threads, wall=wall
        )
        begun = reactor.seconds()
        self._servicer = DaemonServicer(
            bridge=listener.bridge, registry=control.agents.registry, control=control, records=records,
            updates=control.updates, facts=facts, effective=effective,
            uptime_s=lambda: reactor.seconds() - begun, max_inline_bytes=max_inline_bytes,
        )

    def _handlers(self, gate: Gate) -> Mapping[str, Any]:
        found = {f"/{SERVICE}/{method.name}": gate.handler(method) for method in self._servicer.methods()}
        found |= Health(self._listener.bridge, SERVICE).handlers(gate)
        if self._config.grpc.reflection:
            from daemon.rpc.reflection import reflection_handlers  # only where it is asked for

            found |= reflection_handlers(gate, most=REFLECTIONS_MAX)
        return found

    @property
    def error(self) -> str:
        """Why it does not listen, with its D-code; empty when it does or is off."""
        return self._listener.error if self._config.grpc_port else ""

    @property
    def listening(self) -> str:
        """Where it listens, for the log; empty when it does not."""
        return self._listener.address

    @property
    def certificate_not_after(self) -> float | None:
        """When the certificate in use ends, Unix seconds; None without one."""
        return self._listener.certificate_not_after

    async def open(self) -> None:
        """Listens, where a port is configured; where certificates cannot be used, as soon as they can.

        Raises:
            ListenError: D1003; the port is taken, its host is none of ours, or plain text would be reached
                from other hosts.
        """
        config = self._config
        if not config.grpc_port:
            return
        tls = config.grpc.tls
        proven = bool(tls.cert_file and tls.ca_file)
        if not proven and not is_loopback(config.grpc_host) and not config.grpc.insecure:
            raise ListenError(
                f"gRPC on {config.grpc_host or 'every interface'} would obey anybody; write daemon.grpc.tls, "
                "or listen on 127.0.0.1"
            )
        await self._listener.open()

    def agents_changed(self) -> None:
        """An agent is in another state, has another process or has left: answers kept are no longer true."""
        self._servicer.agents_changed()

    def refuse(self) -> None:
        """Refuses new calls as UNAVAILABLE; those in hand go on."""
        self._listener.refuse()

    def stopService(self) -> Deferred[None]:
        """Releases every call within a second; fires when gRPC's threads are done."""
        super().stopService()
        return Deferred.fromCoroutine(self._listener.close())

    def stats(self) -> RpcStats:
        """The numbers as they are now."""
        listener = self._listener
        return RpcStats(
            calls_total=listener.counts.by_method_and_code(),
            in_flight=listener.in_flight,
            waiting=listener.bridge.waiting,
            threads=listener.threads,
            handshakes_total=listener.handshakes.begun_total,
            connections_total=listener.handshakes.connections_total,
            slow_total=listener.deadlines.ended_total,
            left_out_total=listener.audit.left_out_total,
        )
