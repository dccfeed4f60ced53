"""``/metrics`` of the Manager: its own state for Prometheus, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from daemon import __version__
from daemon.aio.logsink import LogSink
from daemon.manager.commands import Commands
from daemon.manager.database import Database
from daemon.manager.fleet import Fleet
from daemon.manager.intake import Intake
from daemon.manager.server import ManagerServer


class ManagerMetrics(Collector):
    """All families, from the counters of the parts."""

    def __init__(
        self, database: Database, intake: Intake, fleet: Fleet, server: ManagerServer, commands: Commands,
        sink: LogSink,
    ) -> None:
        self._sink = sink
        self._database = database
        self._intake = intake
        self._fleet = fleet
        self._server = server
        self._commands = commands

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        fleet, intake, database = self._fleet, self._intake, self._database
        yield InfoMetricFamily("hostmanager_build", "Version of the Manager.", {"version": __version__})
        nodes = GaugeMetricFamily("hostmanager_nodes", "Nodes by state.", labels=("state",))
        nodes.add_metric(("online",), fleet.presence.online)
        nodes.add_metric(("offline",), fleet.presence.offline)
        yield nodes
        calls = CounterMetricFamily(
            "hostmanager_grpc_calls", "Calls of daemons by method and status.", labels=("method", "code")
        )
        for labels, count in self._server.calls_total.items():
            calls.add_metric(labels, count)
        yield calls
        ended = CounterMetricFamily("hostmanager_commands", "Operations by outcome.", labels=("state",))
        for state, count in self._commands.ended_total.items():
            ended.add_metric((state,), count)
        yield ended
        for name, about, count in (
            ("samples", "Samples stored.", fleet.samples_total),
            ("samples_repeated", "Samples that were there already.", fleet.repeats_total),
            ("events", "Events and log entries stored.", fleet.events_total),
            ("events_lost", "Events and log entries that daemons had to drop.", fleet.lost_total),
            ("expired_rows", "Rows that retention deleted.", fleet.expired_total),
            ("commits", "Transactions that took what daemons sent.", intake.batches_total),
            ("writes", "Requests written in those transactions.", intake.works_total),
            ("transactions", "Transactions in all, reading ones included.", database.transactions_total),
            ("transaction_failures", "Transactions the database refused.", database.failures_total),
            ("grpc_handshakes", "TLS handshakes begun.", self._server.handshakes.begun_total),
            ("grpc_connections", "Connections with TLS over which a call came.",
             self._server.handshakes.connections_total),
            ("log_lines_lost", "Log lines of the Manager that could not be written.", self._sink.lost_total),
        ):
            yield CounterMetricFamily(f"hostmanager_{name}", about, count)
        for name, about, value in (
            ("writes_waiting", "Requests that wait for their transaction.", intake.waiting),
            ("grpc_calls_in_flight", "Calls of daemons in hand.", self._server.in_flight),
            ("commands_under_way", "Operations that have not ended.", self._commands.under_way),
            ("database_bytes", "Size of the database with its journal.", database.size_bytes),
        ):
            yield GaugeMetricFamily(f"hostmanager_{name}", about, value)
        if self._server.certificate_not_after is not None:
            yield GaugeMetricFamily(
                "hostmanager_certificate_not_after_timestamp_seconds",
                "End of the gRPC certificate, Unix time.",
                self._server.certificate_not_after,
            )
