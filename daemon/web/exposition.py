"""``/metrics``: the daemon's own state for Prometheus, read at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from daemon import __version__
from daemon.agents.instance import AgentInstance
from daemon.control.control import Control
from daemon.control.views import health_status
from daemon.model.agent import AgentState, HealthStatus

_AGENT = ("agent",)

Extra = Callable[[], Iterator[Metric]]


class DaemonMetrics(Collector):
    """Metrics of agents, collectors, events and heartbeats; label ``agent`` is the configured id.

    Args:
        control: the daemon.
        now: monotonic seconds, for ages.
        extra: further families, of the receivers.
    """

    def __init__(self, control: Control, now: Callable[[], float], extra: Extra = lambda: iter(())) -> None:
        self._control = control
        self._now = now
        self._extra = extra

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        yield InfoMetricFamily("hostdaemon_build", "Version of the daemon.", {"version": __version__})
        agents = self._control.agents.registry.list()
        yield from self._agents(agents)
        yield from self._collectors()
        bus = self._control.bus
        yield CounterMetricFamily(
            "hostdaemon_events", "Events published since the start.", bus.published_total
        )
        yield CounterMetricFamily(
            "hostdaemon_events_lost", "Events that could not be journalled.", bus.lost_total
        )
        config = self._control.config.state()
        yield GaugeMetricFamily(
            "hostdaemon_config_last_reload_successful",
            "Whether the configuration was good when it was last read.",
            float(config.ok)
        )
        yield GaugeMetricFamily(
            "hostdaemon_config_last_reload_success_timestamp_seconds",
            "When the configuration was last loaded, Unix time.",
            config.loaded_at,
        )
        yield CounterMetricFamily(
            "hostdaemon_config_reloads", "Reloads of the configuration that succeeded.", config.reloads_total
        )
        yield CounterMetricFamily(
            "hostdaemon_config_reload_failures", "Reloads of the configuration that were refused.",
            config.failures_total
        )
        yield from self._extra()

    def _agents(self, agents: tuple[AgentInstance, ...]) -> Iterator[Metric]:
        info = InfoMetricFamily("hostdaemon_agent", "Type and version of the agent.", labels=("agent",))
        state = GaugeMetricFamily(
            "hostdaemon_agent_state", "1 for the state the agent is in, 0 for the others.",
            labels=("agent", "state"),
        )
        health = GaugeMetricFamily(
            "hostdaemon_agent_health", "1 for the verdict on the agent's health, 0 for the others.",
            labels=("agent", "status"),
        )
        restarts = CounterMetricFamily(
            "hostdaemon_agent_restarts", "Automatic restarts over the agent's life.", labels=_AGENT
        )
        started = GaugeMetricFamily(
            "hostdaemon_agent_start_time_seconds", "Start of the agent's process, Unix time.", labels=_AGENT
        )
        age = GaugeMetricFamily(
            "hostdaemon_agent_heartbeat_age_seconds", "Time since the agent's last heartbeat.", labels=_AGENT
        )
        beats = CounterMetricFamily(
            "hostdaemon_agent_heartbeats", "Heartbeats of the agent since the daemon's start.", labels=_AGENT
        )
        cpu = CounterMetricFamily(
            "hostdaemon_agent_cpu_seconds", "CPU time of all processes of the agent.", labels=_AGENT
        )
        memory = GaugeMetricFamily(
            "hostdaemon_agent_resident_memory_bytes", "Resident memory of all processes of the agent.",
            labels=_AGENT,
        )
        virtual = GaugeMetricFamily(
            "hostdaemon_agent_virtual_memory_bytes", "Virtual memory of all processes of the agent.",
            labels=_AGENT,
        )
        files = GaugeMetricFamily(
            "hostdaemon_agent_open_fds", "Open descriptors of all processes of the agent.", labels=_AGENT
        )
        threads = GaugeMetricFamily(
            "hostdaemon_agent_threads", "Threads of all processes of the agent.", labels=_AGENT
        )
        records = self._control.records
        for agent in agents:
            name = agent.agent_id
            label, verdict = (name,), health_status(agent)
            info.add_metric(label, {"type": agent.type, "version": agent.metadata.version})
            for each in AgentState:
                state.add_metric((name, each.value), float(agent.state is each))
            for status in HealthStatus:
                health.add_metric((name, status.value), float(status is verdict))
            restarts.add_metric(label, agent.metadata.lifetime_restarts)
            beats.add_metric(label, agent.pulse.count_total)
            if agent.pulse.received_mono is not None:
                age.add_metric(label, self._now() - agent.pulse.received_mono)
            if (cpu_s := records.cpu_seconds_total(name)) is not None:
                cpu.add_metric(label, cpu_s)
            if not agent.pid:
                continue
            started.add_metric(label, agent.metadata.started_at)
            if (used := records.latest(name)) is not None:
                memory.add_metric(label, used.rss_bytes)
                virtual.add_metric(label, used.vms_bytes)
                threads.add_metric(label, used.threads)
                if used.open_files is not None:
                    files.add_metric(label, used.open_files)
        yield from (
            info, state, health, restarts, started, age, beats, cpu, memory, virtual, files, threads
        )

    def _collectors(self) -> Iterator[Metric]:
        duration = GaugeMetricFamily(
            "hostdaemon_collector_duration_seconds", "Duration of the collector's last round.",
            labels=("collector",)
        )
        success = GaugeMetricFamily(
            "hostdaemon_collector_success", "Whether the collector's last round succeeded.",
            labels=("collector",)
        )
        failures = CounterMetricFamily(
            "hostdaemon_collector_failures", "Rounds of the collector that failed.", labels=("collector",)
        )
        for name, stats in self._control.collectors.stats().items():
            duration.add_metric((name,), stats.duration_s)
            success.add_metric((name,), float(stats.success))
            failures.add_metric((name,), stats.failures_total)
        yield from (duration, success, failures)
