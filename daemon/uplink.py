"""The gRPC parts of the daemon: its own server and the link to the Manager, made only where they are
configured.

grpc costs 10 MB and a quarter of a second; it is imported here, when the daemon has begun to run (twistd
forks before that).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from twisted.logger import globalLogPublisher

from daemon import __version__
from daemon.assembly import Parts, stop_all
from daemon.config.redact import effective
from daemon.config.schema import Config
from daemon.control.control import Control
from daemon.control.node import NodeFacts
from daemon.control.views import ManagerState
from daemon.durable.workdir import WorkDir
from daemon.model.moment import rfc3339_or_none

if TYPE_CHECKING:
    from daemon.rpc.manager_link import ManagerLink
    from daemon.rpc.server import GrpcServer


class Uplink:
    """Owns both.

    Args:
        reactor: the reactor.
        control: the daemon's verbs.
        parts: what they are made of.
        facts: who the node is.
        config: what the daemon started with.
    """

    def __init__(
        self, reactor: Any, control: Control, parts: Parts, facts: NodeFacts, config: Config
    ) -> None:
        self.server: GrpcServer | None = None
        self.link: ManagerLink | None = None
        self._reactor = reactor
        self._control = control
        self._parts = parts
        self._facts = facts
        self._config = config
        self._unhook: Callable[[], None] = lambda: None
        control.manager_state = self.state

    # ------------------------------------------------------------------- server

    async def open(self) -> None:
        """Serves gRPC where ``grpc_port`` says so; where certificates cannot be used, as soon as they can.

        Raises:
            ListenError: D1003, the port.
        """
        if not self._config.daemon.grpc_port:
            return
        from daemon.rpc.server import GrpcServer

        parts = self._parts
        self.server = GrpcServer(
            self._reactor, self._control, parts.records, self._facts,
            lambda: effective(parts.config.in_force), self._config.daemon, parts.bus, parts.alerts,
            threads=parts.threads, max_inline_bytes=self._config.update.max_inline_size,
        )
        self.server.startService()
        await self.server.open()

    @property
    def error(self) -> str:
        """Why gRPC is not served although it should be; for readiness."""
        if not self._config.daemon.grpc_port:
            return ""
        return "not listening yet" if self.server is None else self.server.error

    @property
    def listening(self) -> str:
        """Where gRPC is served, for the log."""
        return "off" if self.server is None else self.server.listening or "not served"

    # --------------------------------------------------------------------- link

    def start_link(self) -> None:
        """Begins to speak to the Manager where there is one."""
        config = self._parts.config.in_force
        if self.link is not None or not config.manager.address:
            return
        from daemon.rpc.convert import agent_state
        from daemon.rpc.log_tap import LogTap
        from daemon.rpc.manager_link import ManagerLink

        parts = self._parts
        tap = LogTap(time.time)
        globalLogPublisher.addObserver(cast(Any, tap))
        self._unhook = lambda: globalLogPublisher.removeObserver(cast(Any, tap))
        self.link = ManagerLink(
            reactor=self._reactor, clock=self._reactor, threads=parts.threads, wall=time.time,
            config=config.manager, facts=self._facts, labels=config.daemon.labels,
            versions=lambda: (__version__, self._control.agent_version()),
            collectors=parts.collectors,
            states=lambda: [agent_state(agent) for agent in parts.agents.registry.list()],
            bus=parts.bus, alerts=parts.alerts,
            directory=WorkDir(Path(config.daemon.work_dir)).state / "reports", log_tap=tap,
        )
        self.link.startService()

    def apply(self, config: Config) -> None:
        """A reload: other agents, another Manager, or the first one."""
        if self.server is not None:
            self.server.agents_changed()
        if self.link is not None:
            self.link.apply(config.manager)
        else:
            self.start_link()

    def state_changed(self, agent_id: str) -> None:
        """An agent changed; callers see it at once, the Manager hears of it within a second."""
        if self.server is not None:
            self.server.agents_changed()
        if self.link is not None:
            self.link.states_changed(agent_id)

    def state(self) -> ManagerState:
        """The link as the node view shows it."""
        if self.link is None:
            return ManagerState(address=self._parts.config.in_force.manager.address)
        state = self.link.state
        return ManagerState(
            address=state.address, connected=state.connected, since=rfc3339_or_none(state.since),
            last_error=state.last_error or None, queued=state.queued, delivered=state.delivered,
            dropped=state.dropped, refused=state.refused, registered_at=rfc3339_or_none(state.registered_at),
        )

    def collect(self) -> Iterator[Metric]:
        """Metric families of both; of what is not configured there are none with values."""
        if self.server is not None:
            stats = self.server.stats()
            calls = CounterMetricFamily(
                "hostdaemon_grpc_calls", "Calls of gRPC answered.", labels=("method", "code")
            )
            for labels, number in stats.calls_total.items():
                calls.add_metric(labels, number)
            yield calls
            yield GaugeMetricFamily(
                "hostdaemon_grpc_calls_in_flight", "Calls of gRPC that run or wait for a worker.",
                stats.in_flight
            )
            yield CounterMetricFamily(
                "hostdaemon_grpc_calls_slow", "Calls ended because their message did not come.",
                stats.slow_total,
            )
            yield CounterMetricFamily(
                "hostdaemon_grpc_calls_unaudited", "Calls that found no room in the journal.",
                stats.left_out_total,
            )
            yield CounterMetricFamily(
                "hostdaemon_grpc_handshakes", "TLS handshakes begun, failed ones included.",
                stats.handshakes_total,
            )
            yield CounterMetricFamily(
                "hostdaemon_grpc_connections", "Connections with TLS over which a call came.",
                stats.connections_total,
            )
        if self.link is not None:
            state = self.link.state
            yield GaugeMetricFamily(
                "hostdaemon_manager_connected", "Whether the Manager answers.", float(state.connected)
            )
            yield GaugeMetricFamily(
                "hostdaemon_manager_reports_queued", "Reports that wait for the Manager.", state.queued
            )
            yield CounterMetricFamily(
                "hostdaemon_manager_reports_delivered", "Reports the Manager acknowledged.", state.delivered
            )
            yield CounterMetricFamily(
                "hostdaemon_manager_reports_dropped", "Reports dropped for want of room or time.",
                state.dropped
            )
            yield CounterMetricFamily(
                "hostdaemon_manager_reports_refused", "Reports the Manager refused for good.", state.refused
            )
            yield CounterMetricFamily(
                "hostdaemon_manager_connect_failures",
                "Connects to the Manager, and sessions with it, that failed.",
                state.failures_total,
            )
            yield CounterMetricFamily(
                "hostdaemon_manager_events_dropped", "Events and log entries lost before they were reported.",
                state.events_dropped,
            )

    @property
    def certificate_ends(self) -> Mapping[str, float | None]:
        """By use, when the certificate ends, Unix seconds; None where none is in use."""
        return {
            "grpc": self.server.certificate_not_after if self.server is not None else None,
            "manager": self.link.state.certificate_not_after if self.link is not None else None,
        }

    # --------------------------------------------------------------------- stop

    def refuse(self) -> None:
        """No new calls."""
        if self.server is not None:
            self.server.refuse()

    async def stop(self) -> None:
        """Leaves the Manager, then ends the server with every call released."""
        self._unhook()
        await stop_all([part for part in (self.link, self.server) if part is not None])
