"""Metric families of the daemon's parts: heartbeats, health, history, logs, alerts, the webhook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from daemon.agents.metadata import FileMetadataStore
from daemon.aio.logsink import LogSink
from daemon.alerts.book import AlertBook
from daemon.alerts.webhook import Webhook
from daemon.health.checker import MultiHealthChecker
from daemon.heartbeat.http_receiver import HTTPHeartbeatReceiver
from daemon.heartbeat.socket_receiver import HeartbeatReceiver
from daemon.logs.manager import LogManager
from daemon.resources.host import HostHistory
from daemon.resources.monitor import ResourceMonitor
from daemon.updater.manager import UpdateManager


class PartsMetrics:
    """Read at each scrape. The arguments are the parts."""

    def __init__(
        self,
        *,
        heartbeats: HeartbeatReceiver,
        http_heartbeats: HTTPHeartbeatReceiver,
        health: MultiHealthChecker,
        resources: ResourceMonitor,
        host_history: HostHistory,
        logs: LogManager,
        webhook: Webhook,
        alerts: AlertBook,
        store: FileMetadataStore,
        sink: LogSink,
        updates: UpdateManager,
        certificate_ends: Callable[[], Mapping[str, float | None]],
    ) -> None:
        self._heartbeats = heartbeats
        self._http_heartbeats = http_heartbeats
        self._health = health
        self._resources = resources
        self._host_history = host_history
        self._logs = logs
        self._webhook = webhook
        self._alerts = alerts
        self._store = store
        self._sink = sink
        self._updates = updates
        self._certificate_ends = certificate_ends

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        yield from self._receivers()
        yield from self._checks()
        yield from self._log_files()
        yield from self._alarms()
        yield from self._of_updates()
        yield self._certificates()
        history = self._resources.stats()
        yield _counter(
            "hostdaemon_resource_samples", "Samples of agents' use of the host.", history.samples_total
        )
        yield _counter(
            "hostdaemon_resource_samples_lost", "Samples that no disk took in time.",
            history.lost_total + self._host_history.lost_total,
        )
        yield _counter(
            "hostdaemon_resource_records_torn", "Records of the history found damaged.",
            history.torn_total + self._host_history.torn_total,
        )
        yield _counter(
            "hostdaemon_metadata_write_failures",
            "Saves of agents' metadata that failed.",
            self._store.write_failures_total,
        )
        yield _counter(
            "hostdaemon_log_lines_lost",
            "Log lines of the daemon that could not be written.",
            self._sink.lost_total,
        )

    def _certificates(self) -> Metric:
        ends = GaugeMetricFamily(
            "hostdaemon_certificate_not_after_timestamp_seconds", "End of the certificate in use, Unix time.",
            labels=("use",),
        )
        for use, not_after in self._certificate_ends().items():
            if not_after is not None:
                ends.add_metric((use,), not_after)
        return ends

    def _receivers(self) -> Iterator[Metric]:
        stats, http = self._heartbeats.stats(), self._http_heartbeats.stats()
        accepted = CounterMetricFamily(
            "hostdaemon_heartbeats_accepted", "Heartbeats accepted.", labels=("receiver",)
        )
        refused = CounterMetricFamily(
            "hostdaemon_heartbeats_refused", "Heartbeats refused.", labels=("receiver",)
        )
        accepted.add_metric(("socket",), stats.accepted_total)
        accepted.add_metric(("http",), http.total_processed)
        refused.add_metric(("socket",), sum(stats.errors_total.values()))
        refused.add_metric(("http",), http.total_errors)
        yield from (accepted, refused)

    def _checks(self) -> Iterator[Metric]:
        health = self._health.stats()
        yield _counter("hostdaemon_health_looks", "Rounds of health checks.", health.looks_total)
        yield _counter("hostdaemon_health_probes", "Probes begun.", health.probes_total)
        yield _counter("hostdaemon_health_probe_failures", "Probes that failed.", health.probe_failures_total)
        yield _counter(
            "hostdaemon_health_probes_skipped",
            "Rounds at which a probe was still under way.",
            health.probes_skipped_total,
        )
        yield GaugeMetricFamily(
            "hostdaemon_health_probes_running", "Probes under way or waiting.", health.probes_running
        )

    def _log_files(self) -> Iterator[Metric]:
        logs = self._logs.stats()
        yield _counter("hostdaemon_log_rotations", "Rotations of agents' logs.", logs.rotations_total)
        yield _counter(
            "hostdaemon_log_fallback_rotations",
            "Rotations by truncation, where the filesystem has no other way.",
            logs.fallback_rotations_total,
        )
        yield _counter(
            "hostdaemon_log_dropped_bytes",
            "Bytes of agents' logs dropped for want of room.",
            logs.dropped_bytes_total,
        )
        yield _counter(
            "hostdaemon_log_dropped_lines",
            "Lines of agents' logs dropped for want of room.",
            logs.dropped_lines_total,
        )
        yield _counter(
            "hostdaemon_log_removed_files", "Rotated logs removed by their bounds.", logs.removed_files_total
        )
        yield _counter(
            "hostdaemon_log_removed_bytes",
            "Bytes of rotated logs removed by their bounds.",
            logs.removed_bytes_total,
        )
        yield _counter(
            "hostdaemon_log_truncations",
            "Logs that somebody else truncated or replaced.",
            logs.truncations_total,
        )
        yield _counter(
            "hostdaemon_log_rotation_failures", "Rotations that failed.", logs.rotation_failures_total
        )
        yield _counter(
            "hostdaemon_log_compress_failures", "Compressions that failed.", logs.compress_failures_total
        )
        yield GaugeMetricFamily("hostdaemon_log_followers", "Readers that follow a log.", logs.followers)

    def _alarms(self) -> Iterator[Metric]:
        standing = GaugeMetricFamily(
            "hostdaemon_alert", "1 for each alert that stands.", labels=("agent", "type", "severity")
        )
        for alert in self._alerts.standing():
            standing.add_metric((alert.agent_id, alert.type, alert.severity.value), 1.0)
        yield standing
        yield _counter("hostdaemon_alerts_raised", "Alerts that began.", self._alerts.raised_total)
        yield _counter("hostdaemon_alerts_cleared", "Alerts that ended.", self._alerts.cleared_total)
        yield _counter(
            "hostdaemon_alerts_dropped", "Alerts beyond what the list keeps.", self._alerts.dropped_total
        )
        hook = self._webhook.stats()
        yield GaugeMetricFamily("hostdaemon_webhook_queued", "Alerts that wait for the webhook.", hook.queued)
        yield _counter("hostdaemon_webhook_delivered", "Alerts the webhook took.", hook.delivered_total)
        yield _counter(
            "hostdaemon_webhook_dropped", "Alerts dropped before the webhook took them.", hook.dropped_total
        )
        yield _counter(
            "hostdaemon_webhook_refused", "Alerts the webhook refused for good.", hook.refused_total
        )
        yield _counter(
            "hostdaemon_webhook_failures", "Attempts at the webhook that failed.", hook.failures_total
        )


    def _of_updates(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "hostdaemon_updates", "Updates that are over.", labels=("component", "result")
        )
        for (target, result), count in self._updates.ended_total.items():
            ended.add_metric((target, result), count)
        running = GaugeMetricFamily(
            "hostdaemon_update_under_way", "1 for each update that is not over.", labels=("component", "step")
        )
        for update in self._updates.under_way:
            running.add_metric((update.component, update.step.value), 1.0)
        yield from (ended, running)


def _counter(name: str, about: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, about, value)
