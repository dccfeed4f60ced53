"""``/metrics``: the daemon's own state for Prometheus, read at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from daemon import __version__
from daemon.agents.instance import AgentInstance
from daemon.control.control import Control
from daemon.model.agent import AgentState, HealthStatus

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
            "hostdaemon_config_last_reload_successful", "Whether the last load succeeded.", float(config.ok)
        )
        yield GaugeMetricFamily(
            "hostdaemon_config_last_reload_success_timestamp_seconds", "When the last load succeeded.",
            config.loaded_at,
        )
        yield CounterMetricFamily(
            "hostdaemon_config_reloads", "Reloads that succeeded.", config.reloads_total
        )
        yield CounterMetricFamily(
            "hostdaemon_config_reload_failures", "Reloads that were refused.", config.failures_total
        )
        yield from self._extra()

    def _agents(self, agents: tuple[AgentInstance, ...]) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "hostdaemon_agent_state", "1 for the state the agent is in.", labels=("agent", "state")
        )
        restarts = CounterMetricFamily(
            "hostdaemon_agent_restarts", "Automatic restarts over the agent's life.", labels=("agent",)
        )
        started = GaugeMetricFamily(
            "hostdaemon_agent_start_time_seconds", "Start of the process, Unix time.", labels=("agent",)
        )
        age = GaugeMetricFamily(
            "hostdaemon_agent_heartbeat_age_seconds", "Since the last heartbeat.", labels=("agent",)
        )
        beats = CounterMetricFamily(
            "hostdaemon_agent_heartbeats", "Heartbeats taken since the daemon's start.", labels=("agent",)
        )
        health = GaugeMetricFamily(
            "hostdaemon_agent_health", "1 for the verdict on the agent's health.", labels=("agent", "status")
        )
        cpu = GaugeMetricFamily(
            "hostdaemon_agent_cpu_usage_ratio", "CPU of the agent's session, 1 = one core.", labels=("agent",)
        )
        memory = GaugeMetricFamily(
            "hostdaemon_agent_resident_memory_bytes", "Resident memory of its session.", labels=("agent",)
        )
        for agent in agents:
            verdict = self._control.agent(agent.agent_id).health.status
            for status in HealthStatus:
                health.add_metric((agent.agent_id, status.value), float(status.value == verdict))
            used = self._control.records.latest(agent.agent_id)
            if used is not None and agent.pid:
                memory.add_metric((agent.agent_id,), used.rss_bytes)
                if used.cpu_percent is not None:
                    cpu.add_metric((agent.agent_id,), used.cpu_percent / 100)
            for each in AgentState:
                state.add_metric((agent.agent_id, each.value), float(agent.state is each))
            label = (agent.agent_id,)
            restarts.add_metric(label, agent.metadata.lifetime_restarts)
            beats.add_metric(label, agent.pulse.count_total)
            if agent.pid:
                started.add_metric(label, agent.metadata.started_at)
            if agent.pulse.received_mono is not None:
                age.add_metric(label, self._now() - agent.pulse.received_mono)
        yield from (state, restarts, started, age, beats, health, cpu, memory)

    def _collectors(self) -> Iterator[Metric]:
        duration = GaugeMetricFamily(
            "hostdaemon_collector_duration_seconds", "Of the last round.", labels=("collector",)
        )
        success = GaugeMetricFamily(
            "hostdaemon_collector_success", "Whether the last round succeeded.", labels=("collector",)
        )
        failures = CounterMetricFamily(
            "hostdaemon_collector_failures", "Rounds that failed.", labels=("collector",)
        )
        for name, stats in self._control.collectors.stats().items():
            duration.add_metric((name,), stats.duration_s)
            success.add_metric((name,), float(stats.success))
            failures.add_metric((name,), stats.failures_total)
        yield from (duration, success, failures)
