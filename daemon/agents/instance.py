"""One agent as operators, heartbeats and a starting daemon meet it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from daemon.agents import messages
from daemon.agents.adopting import find_leader
from daemon.agents.exits import bury
from daemon.agents.logfile import log_path, log_size, tail
from daemon.agents.observer import stopping_error
from daemon.agents.operations import Outcome, Verb
from daemon.agents.process import AgentProcess
from daemon.agents.supervision import Supervision
from daemon.agents.version import try_binary
from daemon.config.schema import AgentConfig
from daemon.config.spec_hash import spec_hash
from daemon.errors import RequestError, RequestFault
from daemon.model.agent import AgentState, BinaryTrial, ExitStatus, Identity, LastExit, Wanted
from daemon.model.event import Severity
from daemon.model.health import HealthVerdict
from daemon.model.heartbeat import Heartbeat
from daemon.procfs.marks import read_mark
from daemon.procfs.stat import read_stat
from daemon.procfs.table import ProcessTable

INTENT_PATIENCE_S = 2.0  # a disk that takes longer does not hold an operation


class AgentInstance(Supervision):
    """One agent; see :class:`Supervision` for its facts."""

    _intent = 0  # counts operators' requests, so that only the newest one's save carries it out

    def owns(self, pid: int) -> bool:
        """Whether the live process is its leader, in the leader's session, or carries its mark."""
        leader = self.pid
        if leader and pid == leader:
            return True
        stat = read_stat(pid)
        if stat is None:  # an unreaped zombie still counts: its pid is nobody else's
            return False
        if leader and stat.session == leader:
            return True
        mark = read_mark(pid)
        return mark is not None and mark.token == self.metadata.mark

    def record(self, beat: Heartbeat) -> None:
        """Takes an accepted heartbeat (called for every message: keep it cheap)."""
        if self.pulse.take(beat, self._world.clock.seconds(), self._world.wall()):
            self._heartbeat_news(beat)

    def _heartbeat_news(self, beat: Heartbeat) -> None:
        changes: dict[str, Any] = {}
        if not self.metadata.ever_heartbeat:
            changes["ever_heartbeat"] = True
            self.book.publish("agent.first_heartbeat", "its first heartbeat came")
        if beat.version and beat.version != self.metadata.version:
            changes["version"] = beat.version
        if changes:
            self.book.remember(**changes)

    # ----------------------------------------------------------------- health

    @property
    def identity(self) -> Identity | None:
        """See SupervisedAgent."""
        return self.process.identity if self.process is not None and self.process.alive else None

    @property
    def started_mono(self) -> float | None:
        """See SupervisedAgent."""
        return self.process.started_mono if self.process is not None and self.process.alive else None

    @property
    def heartbeat_mono(self) -> float | None:
        """See SupervisedAgent."""
        return self.pulse.received_mono

    @property
    def heartbeat_at(self) -> float:
        """See SupervisedAgent."""
        return self.pulse.received_at

    @property
    def ever_heartbeat(self) -> bool:
        """See SupervisedAgent."""
        return self.metadata.ever_heartbeat

    @property
    def reported_cpu(self) -> float | None:
        """See SupervisedAgent."""
        return self.pulse.cpu

    @property
    def reported_memory(self) -> int | None:
        """See SupervisedAgent."""
        return self.pulse.memory

    def restore_heartbeat(self, mono: float, at: float) -> None:
        """See SupervisedAgent."""
        if self.metadata.ever_heartbeat:
            self.pulse.restore(mono, at)

    def judge(self, verdict: HealthVerdict) -> None:
        """See SupervisedAgent; a verdict that comes while it is being stopped says nothing any more."""
        if not self.pid or self._stop is not None or self._leaving:
            return
        was_unhealthy = self.illness.unhealthy
        self.illness.judge(verdict, messages.restart_policy(self.spec))
        self.watchers.changed()
        if was_unhealthy and not verdict.unhealthy:
            self._reset_count_later(0.0)
            self.reconcile()

    # ---------------------------------------------------------------- updates

    @property
    def binary_path(self) -> str:
        """See UpdatableAgent."""
        return self.spec.binary_path if self.spec is not None else ""

    @property
    def down(self) -> bool:
        """See UpdatableAgent."""
        return self._down

    @property
    def version(self) -> str:
        """See UpdatableAgent."""
        return self.metadata.version

    @property
    def verdict(self) -> HealthVerdict | None:
        """See UpdatableAgent."""
        return self.illness.verdict

    @property
    def last_exit(self) -> LastExit | None:
        """See UpdatableAgent."""
        return self.metadata.last_exit

    @property
    def exits_total(self) -> int:
        """See UpdatableAgent."""
        return self.book.exits_total

    def hold(self, why: str) -> Deferred[None]:
        """See UpdatableAgent."""
        if self._leaving:
            return fail(stopping_error())
        self._hold.why = why
        reached = self._hold.wait()
        self.reconcile()
        return reached

    def release(self) -> None:
        """See UpdatableAgent."""
        if not self._hold.why:
            return
        self._end_hold(RequestError(RequestFault.SUPERSEDED, "it was released before it was down"))
        if self.down:
            self._find_version()  # no start will ask

    def last_lines(self) -> tuple[str, ...]:
        """See UpdatableAgent."""
        path = log_path(self._world.logs_dir, self.agent_id)
        return tail(path, log_size(path))

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """See UpdatableAgent."""
        return self.watchers.add(changed)

    async def try_binary(self, path: str) -> BinaryTrial | None:
        """See UpdatableAgent."""
        return await try_binary(self._world, self.spec, path) if self.spec is not None else None

    # ------------------------------------------------------------- operations

    def start(self) -> Deferred[Outcome]:
        """Makes it run; fires when its process has lived ``start_seconds``."""
        refused = self._refusal()
        if refused is not None:
            return fail(refused)
        self.book.forgive()
        self._graceful = True
        if not self.pid or self._stop is not None:
            self._asked = True
        return self._request(Verb.START, Wanted.RUNNING)

    def stop(self, *, graceful: bool = True) -> Deferred[Outcome]:
        """Ends it and everything that belongs to it; fires when nothing is left."""
        if self._leaving:
            return fail(stopping_error())
        self._asked = False
        self._graceful = graceful
        if self._stop is not None and not graceful:
            self._stop.hurry()
        return self._request(Verb.STOP, Wanted.STOPPED)

    def restart(self, *, graceful: bool = True) -> Deferred[Outcome]:
        """Ends it if it runs and starts it anew, at once and uncounted."""
        refused = self._refusal()
        if refused is not None:
            return fail(refused)
        self.book.forgive()
        self._asked = True
        self._graceful = graceful
        if self._stop is not None and not graceful:
            self._stop.hurry()
        return self._request(Verb.RESTART, Wanted.RUNNING)

    def _refusal(self) -> RequestError | None:
        if self.spec is None:
            return RequestError(RequestFault.PRECONDITION, "it is no longer in the configuration")
        if self._leaving:
            return stopping_error()
        if not self.spec.enabled:
            return RequestError(
                RequestFault.PRECONDITION, "enabled: false in the configuration; set it true and reload"
            )
        return None

    def _request(self, verb: Verb, wanted: Wanted) -> Deferred[Outcome]:
        self._intent += 1
        if wanted is Wanted.RUNNING and self._stop is None:
            self.board.supersede_stops(f"a {verb.value} was asked for before it began")
        done = self.board.add(verb, spawns=self._spawns)
        restarting = verb is Verb.RESTART and self.pid != 0
        if self.metadata.wanted is wanted and not restarting:
            self.reconcile()
            return done
        self.watchers.changed()
        # Intent is on disk before it is carried out: a daemon that dies in between must not undo it.
        self.book.remember(wanted=wanted, settled=False, restarting=restarting)
        saving = self._world.store.save_now(self.metadata)
        saving.addTimeout(INTENT_PATIENCE_S, cast(Any, self._world.clock))
        saving.addErrback(self._intent_unsaved, verb)
        saving.addCallback(self._intent_saved, self._intent)
        self.log_failure(saving, "operation")
        return done

    def _intent_saved(self, _saved: None, intent: int) -> None:
        if intent == self._intent:  # else a newer one is being saved, which reconciles in its turn
            self.reconcile()

    def _intent_unsaved(self, failure: Failure, verb: Verb) -> None:
        text = f"it could not be stored, so a restart of the daemon may undo it: {failure.getErrorMessage()}"
        self.board.warn(verb, text)
        self.book.publish(
            "agent.intent_unsaved", f"{verb.value}: {text}", severity=Severity.ERROR, code="D1004"
        )

    def apply_spec(self, spec: AgentConfig | None) -> None:
        """Takes a new configuration; what must restart restarts, what is live is live."""
        old_hash, old_spec = self.spec_hash, self.spec
        self.spec = spec
        self.spec_hash = spec_hash(spec) if spec is not None else ""
        self.watchers.changed()
        if not self.enabled:
            self._asked = False
            self.board.supersede("the configuration no longer lets it run")
        elif spec is not None and old_spec is not None:
            if not self.pid and (old_hash != self.spec_hash or old_spec.restart != spec.restart):
                self._begin_anew()
            if old_spec.restart != spec.restart:
                self.illness.reconsider(messages.restart_policy(spec))
        if self.state is AgentState.RUNNING and self.process is not None:
            well_since = max(self.process.started_mono, self.illness.well_again_mono or 0.0)
            self._reset_count_later(self._world.clock.seconds() - well_since)
        self.reconcile()

    # -------------------------------------------------------------- adoption

    def take_over(self, table: ProcessTable) -> None:
        """Takes back what an earlier daemon started, by verified identity, and ends left-overs."""
        remembered = self.metadata.identity
        if self.metadata.boot_id and self.metadata.boot_id != self._world.boot_id:
            remembered = None
            self.book.begin_after_reboot()
        found = find_leader(self._world, self, self.metadata, self.spec_hash, table)
        if found.process is not None:
            self._taken_back(found.process)
            if found.others:
                self._burials.begin(bury(self._world, self.agent_id, self._leftovers(None), None))
            return
        self._survivors = found.others
        if self.metadata.spec_hash and self.metadata.spec_hash != self.spec_hash:
            self._begin_anew()
        self._retrying = self.metadata.next_try_mono is not None
        if self.metadata.gave_up:
            self.book.recall_giving_up()
            slow_retry_s = self.spec.restart.slow_retry if self.spec is not None else 0.0
            if not self._retrying and slow_retry_s > 0:  # it was 0 when it was given up for good
                self._retrying = True
                self.book.remember(next_try_mono=self._world.clock.seconds() + slow_retry_s)
        if remembered is not None:
            self._ended_while_away()

    def _taken_back(self, process: AgentProcess) -> None:
        world = self._world
        age_s = world.clock.seconds() - process.started_mono
        self._lead(process)
        self._asked = self.metadata.restarting and not self._down  # an earlier daemon died on the way to it
        self.book.remember(
            identity=process.identity, run=process.run, spec_hash=process.spec_hash,
            boot_id=world.boot_id, started_at=world.wall() - age_s,
            next_try_mono=None, gave_up=False, settled=False,
        )
        reason = f"taken back, pid {process.pid}"
        left_s = self._start_seconds - age_s
        if left_s > 0:
            self.book.transition(AgentState.STARTING, reason)
            self._timers.set("started", left_s, self._started)
        else:
            self.book.transition(AgentState.RUNNING, reason)
            self._reset_count_later(age_s)
            self._find_version()
        self.book.publish("agent.adopted", reason, pid=process.pid)

    def _ended_while_away(self) -> None:
        """Its process ended while no daemon watched: an exit like any other, its status unknown."""
        reason = "ended while no daemon watched"
        if self._down:
            self.book.remember(identity=None, last_exit=self.book.last_exit(ExitStatus(), reason))
            return
        if self.metadata.restarting:
            self._asked = True
            last = self.book.last_exit(ExitStatus(), f"{reason}, by the restart that was under way")
            self.book.remember(identity=None, last_exit=last)
            self.book.publish("agent.stopped", f"{last.reason}; it is started")
            return
        verdict = self.book.note_exit(self.spec, ExitStatus(), reason)
        self.book.publish("agent.exited", f"{reason}; {messages.next_step(verdict)}", severity=Severity.WARN)
        self._follow(verdict)
