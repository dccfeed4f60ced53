"""Watches over the health of every agent, each on its own timer, the phases of their groups spread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore

from daemon.aio.reactor import Clock
from daemon.aio.rota import Rota
from daemon.config.schema import AgentConfig
from daemon.health.patient import Counts, Meter, Patient, Ward
from daemon.health.probing import Probes
from daemon.interfaces import AgentRoster, AlertSink
from daemon.model.agent import Identity

PROBES_AT_ONCE = 32
GOLDEN = 0.618033988749895  # its multiples modulo 1 spread any number of groups evenly
# Agents looked at in one wake. A process that slept comes back to cold caches: a wake for one look costs some
# 1 ms of CPU, every further look in it 0.05 ms. 25 stay far below what may hold the loop.
TOGETHER = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthStats:
    """Counters of all agents together.

    Attributes:
        looks_total: rounds.
        probes_total: probes begun.
        probe_failures_total: probes that failed.
        probes_skipped_total: rounds at which a probe was still under way.
        probes_running: probes under way or waiting for a place.
    """

    looks_total: int
    probes_total: int
    probe_failures_total: int
    probes_skipped_total: int
    probes_running: int


class MultiHealthChecker(Service):
    """The service.

    Args:
        clock: the reactor.
        roster: the agents.
        meter: makes a meter for a process, told how old the knowledge of its session may be, in seconds.
        probes: makes probes.
        alerts: hears of unhealthy agents.
    """

    def __init__(
        self, clock: Clock, roster: AgentRoster, meter: Callable[[Identity, float], Meter], probes: Probes,
        alerts: AlertSink,
    ) -> None:
        self._roster = roster
        self._counts = Counts()
        self._places = DeferredSemaphore(PROBES_AT_ONCE)
        self._ward = Ward(
            clock=clock, rota=Rota(clock), meter=meter, probes=probes, places=self._places, alerts=alerts,
            counts=self._counts,
        )
        self._patients: dict[str, Patient] = {}
        self._admitted = 0

    def stats(self) -> HealthStats:
        """The counters at this moment."""
        counts = self._counts
        return HealthStats(
            looks_total=counts.looks_total, probes_total=counts.probes_total,
            probe_failures_total=counts.failures_total, probes_skipped_total=counts.skipped_total,
            probes_running=PROBES_AT_ONCE - self._places.tokens + len(self._places.waiting),
        )

    def apply(self, specs: Iterable[AgentConfig]) -> None:
        """Takes a configuration; an agent whose own did not change is not disturbed."""
        agents = {agent.agent_id: agent for agent in self._roster.supervised()}
        wanted = {spec.id: spec for spec in specs if spec.id in agents}
        for agent_id in [known for known in self._patients if known not in wanted]:
            self._patients.pop(agent_id).leave()
        for agent_id, spec in wanted.items():
            known = self._patients.get(agent_id)
            if known is None:
                phase = self._admitted // TOGETHER * GOLDEN % 1.0
                self._admitted += 1
                self._patients[agent_id] = patient = Patient(agents[agent_id], spec, self._ward, phase)
                if self.running:
                    patient.start()
                    patient.process_changed()
            elif known.spec != spec:
                known.apply(spec)

    def process_changed(self, agent_id: str) -> None:
        """Another process leads that agent, or none."""
        patient = self._patients.get(agent_id)
        if patient is not None:
            patient.process_changed()

    def startService(self) -> None:
        """Begins; silence before this moment does not count."""
        super().startService()
        for patient in self._patients.values():
            patient.start()
            patient.process_changed()

    def stopService(self) -> Deferred[None]:
        """Ends every timer and probe; fires when all are gone."""
        super().stopService()
        ending = [gone for patient in self._patients.values() for gone in patient.stop()]
        return DeferredList(ending).addCallback(lambda _gone: None)
