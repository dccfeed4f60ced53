"""One agent under watch: its samples, its probes, its heartbeat deadline, and the verdict they come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.reactor import Clock, DelayedCall
from daemon.aio.rota import Member, Rota
from daemon.config.schema import AgentConfig
from daemon.health.deciding import Misses, Sustained, Vitals, judge, silence_from, silence_limit_s
from daemon.health.probing import Probes, kinds_of
from daemon.interfaces import AlertSink, SupervisedAgent
from daemon.model.agent import AgentState, HealthStatus, Identity
from daemon.model.health import UNHEALTHY, HealthVerdict

log = Logger()

FIRST_LOOK_S = 1.0  # a new process is looked at within that, spread over agents
LISTEN_AGAIN_S = 1.0  # a silent agent is listened to that often, so that a restart can be dropped in time


class Reading(Protocol):
    """CPU and memory of a session; see :class:`daemon.procfs.usage.LightUsage`."""

    @property
    def cpu_percent(self) -> float | None:
        """Percent of one core since the reading before; None for the first one."""
        ...

    @property
    def rss_bytes(self) -> int:
        """Resident bytes."""
        ...


class Meter(Protocol):
    """Measures the session of one process; see :class:`daemon.procfs.usage.SessionMeter`."""

    def light(self, now_s: float) -> Reading | None:
        """A reading, None when the process is gone."""
        ...


@dataclass(slots=True)
class Counts:
    """Of all agents together."""

    looks_total: int = 0
    probes_total: int = 0
    failures_total: int = 0
    skipped_total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ward:
    """What every patient shares.

    Attributes:
        clock: monotonic; decides everything.
        rota: calls each at its interval, those of one phase in one wake.
        meter: makes a meter for a process; told how old the knowledge of its members may be.
        probes: makes probes.
        places: so many probes at once over all agents.
        alerts: hears of those who are unhealthy.
        counts: kept up to date.
    """

    clock: Clock
    rota: Rota
    meter: Callable[[Identity, float], Meter]
    probes: Probes
    places: DeferredSemaphore
    alerts: AlertSink
    counts: Counts


class Patient:
    """One agent.

    Args:
        agent: the agent; told the verdicts.
        spec: its configuration.
        ward: what all share.
        phase: 0..1, its place within the interval.
    """

    def __init__(self, agent: SupervisedAgent, spec: AgentConfig, ward: Ward, phase: float) -> None:
        self.spec = spec
        self._agent = agent
        self._ward = ward
        self._phase = phase
        self._rounds: Member | None = None
        self._first_look: DelayedCall | None = None
        self._late_sample: DelayedCall | None = None
        self._deadline: DelayedCall | None = None
        self._watched_s = ward.clock.seconds()
        self._process: Identity | None = None
        self._meter: Meter | None = None
        self._cpu_percent: float | None = None
        self._rss_bytes = 0
        self._cpu = self._rss = Sustained()
        self._misses: dict[str, Misses] = {}
        self._under_way: dict[str, Deferred[None]] = {}
        self._told: HealthVerdict | None = None

    # ------------------------------------------------------------------- life

    def start(self) -> None:
        """Begins to look."""
        self._watched_s = self._ward.clock.seconds()
        self._rounds = self._begin_rounds()

    def _begin_rounds(self) -> Member:
        return self._ward.rota.join(
            self.spec.health_check.interval, self._phase, self._look,
            name=f"health of {self._agent.agent_id}",
        )

    def apply(self, spec: AgentConfig) -> None:
        """Another configuration; what was counted against an old key goes, the rest stays."""
        old, new = self.spec.health_check, spec.health_check
        if (old.heartbeat_timeout, self.spec.heartbeat_from_start) != (
            new.heartbeat_timeout, spec.heartbeat_from_start,
        ):
            self._watched_s = self._ward.clock.seconds()  # a reload alone must make nobody silent
        self.spec = spec
        if old.cpu_threshold != new.cpu_threshold:
            self._cpu = Sustained()
        if old.memory_threshold != new.memory_threshold:
            self._rss = Sustained()
        for kind, was, now in (
            ("http", old.http_endpoint, new.http_endpoint), ("tcp", old.tcp, new.tcp),
            ("command", old.command, new.command),
        ):
            if was != now:
                self._misses.pop(kind, None)
                if kind in self._under_way:
                    self._under_way[kind].cancel()
        if self._rounds is not None and old.interval != new.interval:
            self._rounds.leave()
            self._rounds = self._begin_rounds()
            self._meter = None  # how old its knowledge of the session may be was the old interval's
        self._take_back("_deadline")
        if self._process is not None:
            self._decide()

    def process_changed(self) -> None:
        """Another process leads the agent, or none: it is looked at soon."""
        self._admit()
        if self._rounds is not None:
            self._decide()  # at once: whoever asks must not take a starting process for a healthy one
        if self._rounds is not None and self._process is not None and self._first_look is None:
            delay_s = min(self.spec.health_check.interval, FIRST_LOOK_S) * self._phase
            self._first_look = self._ward.clock.callLater(delay_s, self._look_first)

    def stop(self) -> list[Deferred[None]]:
        """Ends it; each Deferred fires when a probe that was under way has ended."""
        if self._rounds is not None:
            self._rounds.leave()
            self._rounds = None
        for timer in ("_first_look", "_late_sample", "_deadline"):
            self._take_back(timer)
        return self._end_probes()

    def leave(self) -> list[Deferred[None]]:
        """Ends it because the agent has left the configuration."""
        self._clear_alerts("it is no longer watched")
        return self.stop()

    def _take_back(self, name: str) -> None:
        timer: DelayedCall | None = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)

    def _end_probes(self) -> list[Deferred[None]]:
        ending = list(self._under_way.values())
        for work in ending:
            work.cancel()
        return ending

    # ------------------------------------------------------------------- looks

    def _look_first(self) -> None:
        self._first_look = None
        self._look()

    def _look(self) -> None:
        """One round."""
        self._ward.counts.looks_total += 1
        self._admit()
        if self._process is None or self._ending:
            return
        self._sample()
        kinds = kinds_of(self.spec.health_check)
        for kind in kinds:
            self._begin_probe(kind)
        if kinds or not self._nothing_new:
            self._decide()

    @property
    def _nothing_new(self) -> bool:
        """Whether a verdict now would be the one told last: it was well, and nothing counts against it.

        Most looks at most agents end here; judging again would cost several times what the look does.
        """
        if self._told is None or self._told.status is not HealthStatus.HEALTHY:
            return False
        if self._cpu.since_s is not None or self._rss.since_s is not None:
            return False
        silence = self.spec.health_check.heartbeat_timeout > 0 and (
            self._agent.ever_heartbeat or self.spec.heartbeat_from_start
        )
        return not silence or self._deadline is not None  # which says so in time

    def _admit(self) -> None:
        """Notices another process: nothing that was counted against the old one holds for it."""
        identity = self._agent.identity
        if identity == self._process:
            return
        self._process = identity
        self._end_probes()
        self._take_back("_late_sample")
        self._take_back("_deadline")
        self._meter = None
        self._cpu_percent, self._rss_bytes = None, 0
        self._cpu = self._rss = Sustained()
        self._misses = {}
        self._told = None
        self._clear_alerts("its process ended" if identity is None else "another process runs")

    @property
    def _ending(self) -> bool:
        """Whether it is being stopped: that it closes its port before it goes is no illness."""
        return self._agent.state is AgentState.STOPPING

    @property
    def _forgiven(self) -> bool:
        """Whether its start period still lasts."""
        started_s = self._agent.started_mono
        return started_s is not None and (
            self._ward.clock.seconds() < started_s + self.spec.health_check.start_period
        )

    def _sample(self) -> None:
        check = self.spec.health_check
        if not (check.cpu_threshold or check.memory_threshold) or self._process is None:
            return
        now = self._ward.clock.seconds()
        early = [s for each in (self._cpu, self._rss) if (s := each.early_s(now, check.threshold_duration))]
        if early:  # a sample now would miss the duration by a hair, and the next be an interval late
            if self._late_sample is None:
                self._late_sample = self._ward.clock.callLater(min(early), self._sample_late)
            return
        if self._meter is None:
            self._meter = self._ward.meter(self._process, check.interval)
        reading = self._meter.light(now)
        if reading is None:  # it ends just now; whoever watches its pidfd says so
            return
        counts = not self._forgiven
        self._rss_bytes = reading.rss_bytes
        self._rss = self._rss.after(
            counts and bool(check.memory_threshold) and reading.rss_bytes > check.memory_threshold, now
        )
        if reading.cpu_percent is not None:
            self._cpu_percent = reading.cpu_percent
            self._cpu = self._cpu.after(
                counts and bool(check.cpu_threshold) and reading.cpu_percent > check.cpu_threshold, now
            )

    def _sample_late(self) -> None:
        self._late_sample = None
        self._admit()
        if self._process is not None and not self._ending:
            self._sample()
            self._decide()

    def _begin_probe(self, kind: str) -> None:
        if kind in self._under_way:
            self._ward.counts.skipped_total += 1  # never two of a kind: they would pile up
            return
        self._ward.counts.probes_total += 1
        spec = self.spec
        work: Deferred[Any] = self._ward.places.run(
            lambda: Deferred.fromCoroutine(self._ward.probes.run(kind, spec, self._ward.clock))
        )
        self._under_way[kind] = work
        work.addBoth(self._ended, kind, work).addErrback(
            lambda failure: log.failure(
                "the result of probe {kind} of agent {agent_id}", failure=failure, kind=kind,
                agent_id=self._agent.agent_id,
            )
        )

    def _ended(self, result: str | Failure, kind: str, work: Deferred[Any]) -> None:
        if self._under_way.get(kind) is work:
            del self._under_way[kind]
        self._probed(kind, result)

    def _probed(self, kind: str, result: str | Failure) -> None:
        if isinstance(result, Failure):
            if not result.check(CancelledError):
                log.failure("probe {kind} of agent {agent_id}", failure=result, kind=kind,
                            agent_id=self._agent.agent_id)
            return
        if self._process is None or self._agent.identity != self._process or self._ending:
            return
        if result:
            self._ward.counts.failures_total += 1
        self._misses[kind] = self._misses.get(kind, Misses()).after(result, forgiven=self._forgiven)
        self._decide()

    # ----------------------------------------------------------------- verdict

    def _vitals(self, started_s: float) -> Vitals:
        agent = self._agent
        heard = agent.heartbeat_mono is not None and agent.heartbeat_mono >= started_s
        return Vitals(
            now_s=self._ward.clock.seconds(),
            started_s=started_s,
            heartbeat_from_s=silence_from(
                self.spec, started_s=started_s, heartbeat_s=agent.heartbeat_mono, ever=agent.ever_heartbeat,
                watched_s=self._watched_s,
            ),
            heard=heard,
            cpu_percent=self._cpu_percent,
            rss_bytes=self._rss_bytes,
            cpu=self._cpu,
            rss=self._rss,
            misses=tuple(
                (kind, self._misses.get(kind, Misses())) for kind in kinds_of(self.spec.health_check)
            ),
        )

    def _decide(self) -> None:
        started_s = self._agent.started_mono
        if self._process is None or started_s is None or self._ending:
            return
        vitals = self._vitals(started_s)
        verdict = judge(self.spec, vitals, self._process.pid)
        self._listen(silence_limit_s(self.spec.health_check, vitals), vitals.now_s)
        told = self._told
        changed = told is None or (told.status, told.check, told.waits) != (
            verdict.status, verdict.check, verdict.waits,
        )
        if not changed and not verdict.unhealthy:
            return
        self._told = verdict
        if verdict.unhealthy:
            self._ward.alerts.raise_alert(
                verdict.status.value, f"agent {self._agent.agent_id}: {verdict.reason}",
                agent_id=self._agent.agent_id, current_value=verdict.value, threshold=verdict.limit,
            )
        if told is not None and told.unhealthy and told.status is not verdict.status:
            self._ward.alerts.clear(
                told.status.value, agent_id=self._agent.agent_id, message=verdict.reason
            )
        self._agent.judge(verdict)

    def _listen(self, limit_s: float | None, now_s: float) -> None:
        """Sets the timer to the moment at which silence becomes a verdict; heartbeats do not move it."""
        if limit_s is None or self._deadline is not None or self._rounds is None:
            return
        delay_s = limit_s - now_s if limit_s > now_s else LISTEN_AGAIN_S
        self._deadline = self._ward.clock.callLater(delay_s, self._deadline_due)

    def _deadline_due(self) -> None:
        self._deadline = None
        self._admit()
        self._decide()

    def _clear_alerts(self, why: str) -> None:
        for status in UNHEALTHY:
            self._ward.alerts.clear(status.value, agent_id=self._agent.agent_id, message=why)
