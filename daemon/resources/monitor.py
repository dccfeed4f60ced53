"""Samples what every agent uses, each minute, and keeps a day of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.periodic import Periodic, periodic
from daemon.aio.reactor import Clock, DelayedCall
from daemon.aio.sleep import sleep
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.schema import ResourcesConfig
from daemon.errors import StorageError
from daemon.interfaces import AgentRoster, AlertSink, EventSink, SupervisedAgent, WallClock
from daemon.model.agent import Identity
from daemon.model.event import Severity
from daemon.model.usage import Usage, UsagePoint
from daemon.resources.history import History, Numbered
from daemon.resources.usage_record import Sample

log = Logger()

LANE = "resources"
WRITE_DEADLINE_S = 10.0
READ_DEADLINE_S = 10.0
STOP_DEADLINE_S = 3.0
LOOK_PATIENCE_S = 1.0
UNSAVED_MAX = 60  # samples of an agent that wait for a disk; older ones are counted as lost
AT_ONCE = 50  # processes measured in one turn of the reactor: one to two milliseconds
FIRST_LOOK_S = 2.0  # after a new process: a baseline, so that its first round has a CPU percent
ALERT = "resources_storage"
MIB = 2**20


class Meter(Protocol):
    """Measures the session of one process; see :class:`daemon.procfs.usage.SessionMeter`."""

    def full(self, now_s: float) -> Usage | None:
        """A sample, None when the process is gone."""
        ...


class Look(Protocol):
    """Looks who is in which session; see :meth:`daemon.aio.sessions.SessionIndex.fresh`."""

    def __call__(self, max_age_s: float, patience_s: float) -> Deferred[None]:
        """Fires, and never fails, when what is known is young enough or patience has ended."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceStats:
    """How the monitor is doing.

    Attributes:
        samples_total: samples taken.
        lost_total: samples that no disk took in time.
        torn_total: damaged records found in stored history, left out of it.
        failing: why samples are not stored now; empty when they are.
    """

    samples_total: int
    lost_total: int
    torn_total: int
    failing: str


def first_round_s(now_s: float, interval_s: float) -> float:
    """Seconds until the first round: the next beat of the clock, in the wake of whoever else works on it.

    Not before the baseline of :data:`FIRST_LOOK_S` is a while old: the CPU of an instant says nothing.
    """
    wait_s = -now_s % interval_s
    return wait_s if wait_s >= min(2 * FIRST_LOOK_S, interval_s / 2) else wait_s + interval_s


class _Subject:
    """One agent: its meter, its newest sample, what waits for the disk, the CPU time of its processes.

    Attributes:
        cpu_s_total: None before the first sample.
        counted: the process whose first ``counted_s`` are part of it.
    """

    __slots__ = ("counted", "counted_s", "cpu_s_total", "latest", "meter", "process", "unsaved")

    def __init__(self) -> None:
        self.process: Identity | None = None
        self.meter: Meter | None = None
        self.latest: Usage | None = None
        self.cpu_s_total: float | None = None
        self.counted: Identity | None = None
        self.counted_s = 0.0
        self.unsaved: tuple[Numbered, ...] = ()  # nearly always empty: shared, where a deque costs 760 bytes

    def count(self, process: Identity, cpu_s: float) -> None:
        """Adds what is new of a process's CPU time; a new meter of the same process adds nothing twice."""
        if process != self.counted:
            self.counted, self.counted_s = process, 0.0
        self.cpu_s_total = (self.cpu_s_total or 0.0) + max(0.0, cpu_s - self.counted_s)
        self.counted_s = max(cpu_s, self.counted_s)


class ResourceMonitor(Service):
    """The service.

    Args:
        clock: the reactor.
        wall: stamps samples.
        threads: stores and reads them.
        roster: the agents.
        meter: makes a meter for a process, told how old the knowledge of its session may be, in seconds.
        history: the rings.
        events: hears of rings that were set aside.
        alerts: of thresholds, and of a disk that refuses.
        look: without it a round sees the sessions as the round before found them.
    """

    def __init__(
        self, clock: Clock, wall: WallClock, threads: Threads, roster: AgentRoster,
        meter: Callable[[Identity, float], Meter], history: History, events: EventSink, alerts: AlertSink,
        look: Look | None = None,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._threads = threads
        self._roster = roster
        self._meter = meter
        self._history = history
        self._events = events
        self._alerts = alerts
        self._look = look
        self._config = ResourcesConfig()
        self._subjects: dict[str, _Subject] = {}
        self._rounds: Periodic | None = None
        self._first_look: DelayedCall | None = None
        self._applied = False
        self._under_way: set[Deferred[Any]] = set()
        self._numbers = itertools.count(1)
        self._samples_total = 0
        self._lost_total = 0
        self._failing = ""

    # ------------------------------------------------------------------- facts

    def stats(self) -> ResourceStats:
        """The counters at this moment."""
        return ResourceStats(
            samples_total=self._samples_total, lost_total=self._lost_total,
            torn_total=self._history.torn_total, failing=self._failing,
        )

    def latest(self, agent_id: str) -> Usage | None:
        """The newest sample of an agent's present process, None before the first."""
        subject = self._subjects.get(agent_id)
        return None if subject is None else subject.latest

    def cpu_seconds_total(self, agent_id: str) -> float | None:
        """CPU time of all processes of an agent that were measured, None before the first sample.

        It begins with what the process had used when it was first measured, so a restart of the daemon costs
        nothing of a process that lives on.
        """
        subject = self._subjects.get(agent_id)
        return None if subject is None else subject.cpu_s_total

    async def query(self, agent_id: str, duration_s: int, step_s: int = 0) -> Sequence[UsagePoint]:
        """The points of the last ``duration_s`` seconds by wall time, oldest first.

        What was stamped by a clock that was ahead counts as well: setting a clock back hides nothing.

        Args:
            agent_id: an agent that is unknown or has no history has none.
            duration_s: seconds.
            step_s: seconds that make one point; 0 gives the samples as they are.

        Raises:
            StorageError: the history cannot be read.
        """
        subject = self._subjects.get(agent_id)
        if subject is None:
            return ()
        try:
            return await self._threads.run(
                LANE, READ_DEADLINE_S, self._history.query, agent_id, self._wall() - duration_s, step_s,
                self._capacity, subject.unsaved,
            )
        except (LaneBusy, LaneTimeout) as error:
            raise StorageError(
                f"the history does not answer ({error}); check the disk of work_dir"
            ) from error

    @property
    def _capacity(self) -> int:
        return max(1, round(self._config.history / self._config.interval))

    # -------------------------------------------------------------------- life

    def apply(self, config: ResourcesConfig, agent_ids: Collection[str]) -> None:
        """Takes a configuration; the history of agents that are no longer in it goes."""
        old, self._config = self._config, config
        self._applied = True
        for agent_id in [known for known in self._subjects if known not in agent_ids]:
            del self._subjects[agent_id]
            self._forget(agent_id)
        for agent_id in agent_ids:
            self._subjects.setdefault(agent_id, _Subject())
        for kind, was, now in (
            ("cpu", old.cpu_threshold, config.cpu_threshold),
            ("memory", old.memory_threshold, config.memory_threshold),
        ):
            if was and not now:
                for agent_id in self._subjects:
                    self._alerts.clear(kind, agent_id=agent_id, message="its threshold was taken away")
        if self._rounds is not None and old.interval != config.interval:
            self._end(self._rounds.stop())
            self._rounds = self._begin_rounds()
            for subject in self._subjects.values():
                subject.process = subject.meter = None  # theirs is the old interval
            self._look_soon()

    def process_changed(self, agent_id: str) -> None:
        """Another process leads that agent, or none: what was measured no longer holds."""
        subject = self._subjects.get(agent_id)
        if subject is not None:
            subject.process = subject.meter = subject.latest = None
            self._look_soon()

    def startService(self) -> None:
        """Begins; processes that run get their baseline within seconds."""
        super().startService()
        self._rounds = self._begin_rounds()
        if self._applied:  # else nobody has said yet whose history is to stay
            known = frozenset(self._subjects)
            self._end(self._threads.run(LANE, WRITE_DEADLINE_S, self._history.forget_others, known))
        self._look_soon()

    def _look_soon(self) -> None:
        if self.running and self._first_look is None:
            self._first_look = self._clock.callLater(FIRST_LOOK_S, self._look_first)

    def _begin_rounds(self) -> Periodic:
        interval_s = self._config.interval
        return periodic(
            self._clock, interval_s, lambda: Deferred.fromCoroutine(self._round()), name="resources",
            phase_s=first_round_s(self._clock.seconds(), interval_s),
        )

    def stopService(self) -> Deferred[None]:
        """Stores what waits, once; fires when that is done."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._first_look is not None:
            self._first_look.cancel()
            self._first_look = None
        if self._rounds is not None:
            await self._rounds.stop()
            self._rounds = None
        while self._under_way:
            await next(iter(self._under_way))
        await self._store(STOP_DEADLINE_S)

    def _forget(self, agent_id: str) -> None:
        for kind in ("cpu", "memory"):
            self._alerts.clear(kind, agent_id=agent_id)
        self._end(self._threads.run(LANE, WRITE_DEADLINE_S, self._history.forget, agent_id))

    def _end(self, work: Deferred[Any]) -> None:
        """Work nobody waits for but ``stopService``."""

        def failed(failure: Failure) -> None:
            if failure.check(StorageError, LaneBusy, LaneTimeout):
                log.warn("D1004 history: {error}", error=failure.getErrorMessage(), error_code="D1004")
            else:
                log.failure("history", failure=failure)

        self._under_way.add(work)
        work.addErrback(failed)
        work.addBoth(lambda _result: self._under_way.discard(work))

    # ------------------------------------------------------------------ rounds

    def _look_first(self) -> None:
        """A baseline of the CPU counters of processes not seen yet; nothing is stored."""
        self._first_look = None
        self._end(Deferred.fromCoroutine(self._each(self._baseline)))

    async def _round(self) -> None:
        try:
            await self._each(self._sample)
        finally:
            await self._store(WRITE_DEADLINE_S)

    async def _each(self, measure: Callable[[SupervisedAgent, _Subject], Usage | None]) -> None:
        """Measures every agent, some processes a turn."""
        if self._look is not None:
            await self._look(self._config.interval / 2, LOOK_PATIENCE_S)
        measured = 0
        for agent in self._roster.supervised():
            if measured >= AT_ONCE:
                measured = 0
                await sleep(self._clock, 0)  # others have their turn
            subject = self._subjects.get(agent.agent_id)
            if subject is not None:
                usage = measure(agent, subject)
                measured += 1 if usage is None else usage.processes

    def _baseline(self, agent: SupervisedAgent, subject: _Subject) -> Usage | None:
        if agent.identity == subject.process and subject.latest is not None:
            return None
        subject.latest = self._measure(agent, subject)
        return subject.latest

    def _measure(self, agent: SupervisedAgent, subject: _Subject) -> Usage | None:
        if agent.identity is None:
            subject.process = subject.meter = None
            return None
        if agent.identity != subject.process or subject.meter is None:
            subject.process = agent.identity
            subject.meter = self._meter(agent.identity, self._config.interval / 2)
        usage = subject.meter.full(self._clock.seconds())
        if usage is not None:
            subject.count(agent.identity, usage.cpu_seconds)
        return usage

    def _sample(self, agent: SupervisedAgent, subject: _Subject) -> Usage | None:
        subject.latest = usage = self._measure(agent, subject)
        if usage is None:
            for kind in ("cpu", "memory"):
                self._alerts.clear(kind, agent_id=agent.agent_id, message="no process runs")
            return None
        self._samples_total += 1
        sample = Sample(
            at=int(self._wall()), cpu=usage.cpu_percent, rss=usage.rss_bytes, vms=usage.vms_bytes,
            read=usage.read_bytes, write=usage.write_bytes, files=usage.open_files, threads=usage.threads,
            reported_cpu=agent.reported_cpu, reported_memory=agent.reported_memory,
        )
        if len(subject.unsaved) >= UNSAVED_MAX:
            subject.unsaved = subject.unsaved[1:]
            self._lost_total += 1
        subject.unsaved = (*subject.unsaved, (next(self._numbers), sample))
        self._compare(agent.agent_id, usage)
        return usage

    def _compare(self, agent_id: str, usage: Usage) -> None:
        cpu, limit = usage.cpu_percent, self._config.cpu_threshold
        if limit and cpu is not None:
            if cpu > limit:
                self._alerts.raise_alert(
                    "cpu", f"agent {agent_id}: CPU {cpu:.1f} % of one core, above {limit:g} % "
                    "(resources.cpu_threshold)",
                    agent_id=agent_id, current_value=round(cpu, 1), threshold=limit,
                )
            else:
                self._alerts.clear("cpu", agent_id=agent_id, message=f"CPU {cpu:.1f} %, at most {limit:g} %")
        rss, most = usage.rss_bytes, self._config.memory_threshold
        if most and rss > most:
            self._alerts.raise_alert(
                "memory", f"agent {agent_id}: memory {rss / MIB:.1f} MiB, above {most / MIB:.1f} MiB "
                "(resources.memory_threshold)", agent_id=agent_id, current_value=rss, threshold=most,
            )
        elif most:
            self._alerts.clear("memory", agent_id=agent_id, message=f"memory {rss / MIB:.1f} MiB")

    # ----------------------------------------------------------------- storage

    async def _store(self, deadline_s: float) -> None:
        batch = {name: s.unsaved for name, s in self._subjects.items() if s.unsaved}
        if not batch:
            return
        try:
            stored = await self._threads.run(LANE, deadline_s, self._history.append, batch, self._capacity)
        except (LaneBusy, LaneTimeout) as error:
            # It may be written all the same, later; the numbers keep it from being written twice.
            self._tell(f"the disk does not answer ({error}); check the disk of work_dir")
            return
        for name, newest in stored.newest.items():
            subject = self._subjects.get(name)
            if subject is not None:
                subject.unsaved = tuple(each for each in subject.unsaved if each[0] > newest)
        self._tell(stored.trouble)

    def _tell(self, cause: str) -> None:
        for agent_id, kept in tuple(self._history.set_aside.items()):
            del self._history.set_aside[agent_id]
            self._events.publish(
                "agent.history_corrupt",
                f"the history of agent {agent_id} was unreadable; kept as {kept}, it begins anew",
                severity=Severity.WARN, agent_id=agent_id, data={"code": "D1004", "kept": kept},
            )
        if cause and not self._failing:
            text = f"history of what agents use: {cause}; up to {UNSAVED_MAX} samples of each wait for it"
            log.error("D1004 {text}", text=text, error_code="D1004")
            self._alerts.raise_alert(ALERT, text, severity=Severity.ERROR)
        elif not cause and self._failing:
            self._alerts.clear(ALERT, message="history is stored again")
        self._failing = cause
