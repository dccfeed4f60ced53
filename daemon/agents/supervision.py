"""The loop of one agent: facts change, the reconcile rule is asked, its answer is carried out.

:class:`Supervision` knows processes and timers; :class:`daemon.agents.instance.AgentInstance` adds what
operators and heartbeats ask of it.
"""

from __future__ import annotations

import signal
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.agents import messages
from daemon.agents.book import AgentBook
from daemon.agents.burials import Burials
from daemon.agents.decide import Decision, Do, Observed, Spec, decide
from daemon.agents.exits import ExitReport, bury, leftovers
from daemon.agents.holding import Hold
from daemon.agents.illness import Illness
from daemon.agents.metadata import AgentMetadata
from daemon.agents.observer import SupervisionObserver, stopping_error
from daemon.agents.operations import OperationBoard
from daemon.agents.process import AgentProcess
from daemon.agents.pulse import Pulse
from daemon.agents.restart import Then, Verdict
from daemon.agents.spawning import spawn
from daemon.agents.stopping import Stop, signal_number
from daemon.agents.timers import Timers
from daemon.agents.version import detect_version
from daemon.agents.watchers import Watchers
from daemon.agents.world import AgentWorld
from daemon.config.schema import AgentConfig
from daemon.config.spec_hash import spec_hash
from daemon.errors import AgentStartError, AgentStopError, RequestError, RequestFault
from daemon.model.agent import AgentState, ExitStatus, Wanted
from daemon.model.event import Severity

STOP_AGAIN_S = 60.0  # after a stop that something survived


class Supervision:
    """One agent.

    Args:
        agent_id: its id.
        spec: its configuration; None when it has left the file.
        metadata: what is remembered of it.
        world: the rest of the daemon.
        observer: hears of changes.

    Attributes:
        book: state, reason, metadata.
        decision: the last one of the reconcile rule.
        pulse: its heartbeats.
        illness: what health checks say of its process.
        watchers: called after each change of what an update waits for.
        process: the leader under watch, None when none runs.
    """

    log = Logger()

    def __init__(
        self, agent_id: str, spec: AgentConfig | None, metadata: AgentMetadata, world: AgentWorld,
        observer: SupervisionObserver,
    ) -> None:
        self.agent_id = agent_id
        self.spec = spec
        self.spec_hash = spec_hash(spec) if spec is not None else ""
        self.book = AgentBook(agent_id, metadata, world, self._state_changed)
        self.decision = Decision(do=Do.NOTHING, why="not looked at yet")
        self.process: AgentProcess | None = None
        self.pulse = Pulse()
        self.board = OperationBoard()
        self._world = world
        self._observer = observer
        self._timers = Timers(world.clock)
        self.illness = Illness(self.book, self._timers, world, self.reconcile)
        self.watchers = Watchers(world.clock)
        self._hold = Hold()
        self._stop: Stop | None = None
        self._burials = Burials(agent_id)
        self._survivors = False
        self._asked = False  # an operator's start or restart that no spawn has answered yet
        self._graceful = True
        self._spawn_queued = False
        self._retrying = False
        self._spawns = 0
        self._leaving = False  # the daemon stops: nothing new is begun, what is under way ends
        self._gone = False

    # ------------------------------------------------------------------ facts

    @property
    def state(self) -> AgentState:
        """Its state."""
        return self.book.state

    @property
    def metadata(self) -> AgentMetadata:
        """What is remembered of it."""
        return self.book.metadata

    @property
    def pid(self) -> int:
        """The leader's pid, 0 when none lives."""
        return self.process.pid if self.process is not None and self.process.alive else 0

    @property
    def type(self) -> str:
        """Its type: as configured, or as it was when it has left the file."""
        return self.spec.type.value if self.spec is not None else self.metadata.type

    @property
    def enabled(self) -> bool:
        """Whether the configuration lets it run."""
        return self.spec is not None and self.spec.enabled

    @property
    def _ended_state(self) -> AgentState:
        """The state of an agent that ended and is left so by its policy."""
        last = self.metadata.last_exit
        return AgentState.STOPPED if last is not None and last.code == 0 else AgentState.FAILED

    @property
    def _start_seconds(self) -> float:
        return self.spec.start_seconds if self.spec is not None else 0.0

    @property
    def _down(self) -> bool:
        """Whether intent or configuration want it down."""
        return self.metadata.wanted is Wanted.STOPPED or not self.enabled

    # -------------------------------------------------------------- the loop

    def reconcile(self) -> None:
        """Asks what should follow from the facts, and does it."""
        if self._leaving or self._stop is not None:
            return
        self.decision = decision = self._decide()
        match decision.do:
            case Do.KEEP:
                self._keep(decision)
            case Do.SPAWN:
                self._queue_spawn()
            case Do.WAIT:
                self._wait_for_next_try()
            case Do.STOP | Do.RESTART | Do.CLEAN:
                self._begin_stop(decision)
            case Do.NOTHING | Do.FORGET:
                self._rest(decision)

    def _decide(self) -> Decision:
        metadata = self.metadata
        next_try = metadata.next_try_mono
        due = not metadata.gave_up if next_try is None else next_try <= self._world.clock.seconds()
        return decide(
            Spec(configured=self.spec is not None, enabled=self.enabled, spec_hash=self.spec_hash),
            metadata.wanted,
            Observed(
                alive=self.pid != 0,
                spec_hash=self.process.spec_hash if self.process is not None else "",
                survivors=self._survivors,
                restart_asked=self._asked,
                settled=metadata.settled,
                held=self._hold.why,
                unhealthy=self.illness.cause,
                due=due,
            ),
        )

    def _keep(self, decision: Decision) -> None:
        """It runs and should."""
        if self.state is AgentState.RUNNING:
            self.board.running(self._spawns)
        elif self.state is AgentState.FAILED:  # a stop of it failed, and it is wanted again
            self.book.transition(AgentState.STARTING, decision.why)
            self.book.remember(next_try_mono=None)
            self._timers.set("started", self._start_seconds, self._started)

    def _rest(self, decision: Decision) -> None:
        """Nothing should run and nothing does."""
        if self._down or self._hold.why:
            if self._burials.then(self.reconcile):
                return  # a stop has ended only when what an earlier crash left is gone too
            self._timers.cancel_all()
        if self._down:
            self._retrying = False
            failed = self.metadata.next_try_mono is not None or self.metadata.exits_in_a_row
            self.book.forgive(**({"next_try_mono": None, "exits_in_a_row": 0} if failed else {}))
            self.book.transition(AgentState.STOPPED, decision.why)
            self.book.complaints.content(decision.why)
            self.board.stopped()
        elif self._hold.why:
            self.book.transition(AgentState.RESTARTING, decision.why)
        else:
            self._left_ended(decision.why)
            self.board.start_failed(AgentStartError(decision.why), self._spawns)
        self._hold.reached()
        if decision.do is Do.FORGET:
            self._leaving = True
            self.board.abandon(RequestError(RequestFault.UNKNOWN, "it has left the configuration"))
            self._world.store.forget(self.agent_id)
            self._world.alerts.forget(self.agent_id)
            self._observer.forgotten(self.agent_id)

    def _left_ended(self, why: str) -> None:
        """It ended and its policy leaves it so: well, when it exited with 0."""
        self.book.transition(self._ended_state, why)
        if self.state is AgentState.FAILED:
            self.book.complaints.left_failed(self.metadata.last_exit)
        else:
            self.book.complaints.content("it ended by itself, with 0")

    def _wait_for_next_try(self) -> None:
        if self.state not in (AgentState.RESTARTING, AgentState.FAILED):
            new = AgentState.FAILED if self.metadata.gave_up else AgentState.RESTARTING
            self.book.transition(new, self.decision.why)
        next_try = self.metadata.next_try_mono
        if next_try is not None and not self._timers.pending("next_try"):
            self._timers.set("next_try", max(0.0, next_try - self._world.clock.seconds()), self.reconcile)

    # --------------------------------------------------------------- spawning

    def _queue_spawn(self) -> None:
        if not self._spawn_queued:
            self._spawn_queued = True
            self._world.budget.run(self._spawn_now)

    def _spawn_now(self) -> None:
        self._spawn_queued = False
        if self._gone or self._stop is not None:
            return
        self.decision = decision = self._decide()  # what was queued asks again
        if decision.do is not Do.SPAWN or self.spec is None:
            self.reconcile()
            return
        automatic = self._retrying and not self._asked
        self._asked = self._retrying = False
        self._graceful = True  # impatience was meant for the process before
        self._timers.cancel_all()
        self._spawns += 1
        self.book.transition(AgentState.STARTING, decision.why)
        if automatic:
            self.book.count_restart()
        try:
            process, metadata = spawn(self._world, self, self.spec, self.spec_hash, self.metadata)
        except AgentStartError as error:
            self._spawn_failed(error)
            return
        self.pulse.new_process()
        self._lead(process)
        self.book.keep(metadata)
        self.book.complaints.spawned(process.pid)
        self._timers.set("started", self.spec.start_seconds, self._started)

    def _spawn_failed(self, error: AgentStartError) -> None:
        verdict = self.book.note_exit(self.spec, ExitStatus(), error.message, spawned=False)
        text = f"{error.message}; {messages.next_step(verdict)}"
        self.book.complaints.not_spawned(text)
        self.book.publish("agent.start_failed", text, severity=Severity.ERROR, code="D3001")
        self.board.start_failed(error, self._spawns)
        self._follow(verdict, error_code="D3001")  # whose line in the log is the only one
        self.reconcile()

    def _started(self) -> None:
        """Its process has lived ``start_seconds``."""
        process = self.process
        if process is None or not process.alive or self._stop is not None:
            return
        self.book.transition(AgentState.RUNNING, f"started, pid {process.pid}")
        self.book.publish("agent.started", f"runs, pid {process.pid}", pid=process.pid)
        self.book.complaints.content(f"it runs, pid {process.pid}")
        self._reset_count_later(0.0)
        self.reconcile()
        self._find_version()

    def _reset_count_later(self, already_s: float) -> None:
        metadata = self.metadata
        if self.illness.unhealthy:
            return  # it counts from the day it is well
        if self.spec is not None and (metadata.exits_in_a_row or metadata.restart_count):
            left_s = max(0.0, self.spec.restart.reset_after - already_s)
            self._timers.set("reset", left_s, self.book.reset_count)

    def _find_version(self) -> None:
        if self.spec is not None and self.spec.version_command:
            asking = Deferred.fromCoroutine(
                detect_version(self._world, self.spec, self.metadata.version_key)
            )
            asking.addCallback(self._version_found)
            self.log_failure(asking, "version")

    def _version_found(self, found: tuple[str, str] | None) -> None:
        if found is not None and not self._leaving:
            self.book.remember(version=found[0], version_key=found[1])

    # ------------------------------------------------------------------ exits

    def process_exited(self, process: AgentProcess, status: ExitStatus) -> None:
        """Its leader ended; see ProcessOwner."""
        if process is self.process and self._stop is None:  # else the stop under way waits for this itself
            with self.book.quiet():
                self._unexpected_exit(process, status)

    def _unexpected_exit(self, process: AgentProcess, status: ExitStatus) -> None:
        # The old group goes before the leader is reaped; the sweep for the rest follows the successor.
        try:
            process.signal_group(signal.SIGKILL)
        except OSError as error:
            self.log.warn("agent {agent_id}: its group may not be signalled: {error}",
                          agent_id=self.agent_id, error=str(error))
        was_starting = self.state is AgentState.STARTING
        lived_s = self._world.clock.seconds() - process.started_mono
        reason = messages.exit_reason(status)
        self._timers.cancel_all()
        self._lead(None)
        if self._down:
            self.book.remember(identity=None, last_exit=self.book.last_exit(status, reason))
            self.book.transition(AgentState.STOPPED, reason)
            announced, then = True, "nothing follows: it is not wanted"
        else:
            verdict = self.book.note_exit(self.spec, status, reason)
            announced, then = self.pulse.announced_stop, messages.next_step(verdict)
            if was_starting:
                text = f"{reason} after {lived_s:.1f} s, before start_seconds had passed; its log says more"
                self.board.start_failed(AgentStartError(text), self._spawns)
            self._follow(verdict)
        report = ExitReport(
            process=process, status=status, reason=reason, lived_s=lived_s, announced=announced, then=then
        )
        try:
            if not self._down:
                self.reconcile()  # the successor first
        finally:
            self._burials.begin(bury(self._world, self.agent_id, self._leftovers(process), report))
        if self._down:
            self.reconcile()

    def _follow(self, verdict: Verdict, *, error_code: str = "") -> None:
        """Enters the state the policy's verdict leads to."""
        last = self.metadata.last_exit
        text = f"{last.reason if last is not None else ''}; {messages.next_step(verdict)}"
        self._retrying = verdict.then is not Then.LEAVE
        if verdict.then is Then.RETRY:
            self.book.transition(AgentState.RESTARTING, text, error_code=error_code)
            if verdict.limited:
                self.book.complaints.held_back(text)
        elif verdict.then is Then.GIVE_UP:
            self.book.transition(AgentState.FAILED, text, error_code=error_code)
            self.book.give_up(f"{verdict.why}; {messages.next_step(verdict)}")
        else:
            self.book.transition(self._ended_state, text, error_code=error_code)

    def _leftovers(self, old: AgentProcess | None) -> Any:
        return leftovers(
            self._world, self.agent_id, self.metadata.mark, old,
            lambda: self.process if self.process is not old else None,
        )

    # --------------------------------------------------------------- stopping

    def _begin_stop(self, decision: Decision) -> None:
        graceful, self._graceful = self._graceful, True
        metadata, spec = self.metadata, self.spec
        self._timers.cancel_all()
        restarts = decision.do is Do.RESTART or (self._hold.why and not self._down)
        if restarts and not metadata.restarting:
            self.book.remember(restarting=True)
        if decision.automatic:
            self.book.count_unhealthy()
            self._retrying = True
        self.book.transition(AgentState.STOPPING, decision.why)
        self._stop = stop = Stop(
            self._world, self.agent_id, self.process, self._leftovers(self.process),
            stop_signal=signal_number(spec.stop_signal if spec is not None else metadata.stop_signal),
            timeout_s=spec.stop_timeout if spec is not None else metadata.stop_timeout,
            graceful=graceful,
        )
        running = Deferred.fromCoroutine(stop.run())
        running.addCallbacks(self._stop_ended, self._stop_broke)
        self.log_failure(running, "stop")
        running.addCallback(lambda _over: stop.close())

    def _stop_ended(self, stop: Stop) -> None:
        self._stop = None
        self._survivors = False
        process = self.process
        if process is not None:
            self._lead(None)
        self.decision = self._decide()  # what holds now; what led to the stop is past
        why = self.decision.why if self._down else self.book.reason
        if process is not None:
            status = (process.handle.status if process.handle is not None else None) or ExitStatus()
            process.reap()
            self.book.remember(
                identity=None,
                last_exit=self.book.last_exit(status, f"{messages.exit_reason(status)}; stopped: {why}"),
            )
        self.book.transition(AgentState.STOPPED, why)
        self.book.complaints.ended()
        self.book.publish("agent.stopped", messages.stopped(why, stop.ended_count))
        self.board.stopped()
        if self._leaving and not self._down:
            self._spawn_now()  # a restart under way is ended as one: the daemon leaves no agent down
        self.reconcile()

    def _stop_broke(self, failure: Failure) -> None:
        self._stop = None
        hold, self._hold = self._hold, Hold()
        self._survivors = self.pid == 0  # the leader is gone: what is left still has to go
        error = failure.value
        if not isinstance(error, AgentStopError):
            self.log.failure("agent {agent_id}: stop", failure=failure, agent_id=self.agent_id)
            error = AgentStopError(f"stop failed: {failure.getErrorMessage()}; the daemon's log says more")
        self._asked = False
        self.book.remember(restarting=False)
        self.book.transition(AgentState.FAILED, error.message)
        self.book.complaints.not_ended(error.message)
        self.book.publish("agent.stop_failed", error.message, severity=Severity.ERROR, code="D3002")
        self.board.stop_failed(error)
        hold.failed(error)
        if self._leaving:
            return
        if self._decide().do is Do.KEEP:
            self.reconcile()  # a restart that failed: the old process goes on
            return
        self.book.remember(next_try_mono=self._world.clock.seconds() + STOP_AGAIN_S)
        self._timers.set("stop_again", STOP_AGAIN_S, self.reconcile)

    def _end_hold(self, error: RequestError) -> None:
        """It is again what is wanted, its failures of before are past; whoever waits gets the error."""
        hold, self._hold = self._hold, Hold()
        hold.failed(error)
        if not self._down:
            self._begin_anew()
        self.reconcile()

    def _begin_anew(self) -> None:
        """Another configuration or binary gets tries of its own: what the old one failed at is past."""
        self._timers.cancel("next_try")
        self._retrying = False
        self.book.forgive()
        self.book.remember(
            settled=False, gave_up=False, next_try_mono=None, exits_in_a_row=0, restart_count=0
        )

    # ----------------------------------------------------------------- leaving

    def leave(self) -> Deferred[None]:
        """The daemon stops: no new work; fires when the work in hand has ended (the caller bounds it)."""
        if self._hold.why:  # the next daemon knows of no hold; until it comes, the agent runs
            self._end_hold(stopping_error())
        if self._spawn_queued:
            self._spawn_now()
        self._leaving = True
        self._timers.cancel_all()
        work = list(self._burials.pending)
        if self._stop is not None:
            work.append(self._stop.done())
        left: Deferred[None] = Deferred()  # of its own: who gives up waiting must not cancel the work
        DeferredList(work).addCallback(lambda _ended: None if left.called else left.callback(None))
        return left

    def let_go(self) -> None:
        """The daemon is gone: the agent stays."""
        self._leaving = self._gone = True
        self._timers.cancel_all()
        self.watchers.clear()
        if self.process is not None:
            self.process.forget()
        self.board.abandon(stopping_error())

    # ------------------------------------------------------------------- small

    def _lead(self, process: AgentProcess | None) -> None:
        old = self.process.pid if self.process is not None else 0
        self.process = process
        self.illness.new_process()
        self.watchers.changed()
        self._observer.leader_changed(self.agent_id, old, process.pid if process is not None else 0)

    def _state_changed(self, old: AgentState, new: AgentState) -> None:
        self.watchers.changed()
        self._observer.state_changed(self.agent_id, old, new)

    def log_failure(self, work: Deferred[Any], what: str) -> None:
        """Ends a Deferred nobody else waits for: its failure is logged."""
        work.addErrback(
            lambda failure: self.log.failure(
                "agent {agent_id}: {what}", failure=failure, agent_id=self.agent_id, what=what
            )
        )
