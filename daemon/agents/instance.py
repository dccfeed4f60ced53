"""One agent as operators and heartbeats meet it: start, stop, restart, who speaks for it."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from daemon.agents.operations import Outcome, Verb
from daemon.agents.supervision import Supervision, stopping_error
from daemon.config.schema import AgentConfig
from daemon.config.spec_hash import spec_hash
from daemon.errors import RequestError, RequestFault
from daemon.model.agent import AgentState, Wanted
from daemon.model.event import Severity
from daemon.model.heartbeat import Heartbeat
from daemon.procfs.marks import read_mark
from daemon.procfs.stat import read_stat

INTENT_PATIENCE_S = 2.0  # a disk that takes longer does not hold an operation


class AgentInstance(Supervision):
    """One agent; see :class:`Supervision` for its facts."""

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
        if self._leaving:
            return stopping_error()
        if self.spec is None:
            return RequestError(RequestFault.PRECONDITION, "it is no longer in the configuration")
        if not self.spec.enabled:
            return RequestError(
                RequestFault.PRECONDITION, "enabled: false in the configuration; set it true and reload"
            )
        return None

    def _request(self, verb: Verb, wanted: Wanted) -> Deferred[Outcome]:
        if wanted is Wanted.RUNNING and self._stop is None:
            self.board.supersede_stops(f"a {verb.value} was asked for before it began")
        done = self.board.add(verb, spawns=self._spawns)
        if self.metadata.wanted is wanted:
            self.reconcile()
            return done
        # Intent is on disk before it is carried out: a daemon that dies in between must not undo it.
        self.book.remember(wanted=wanted, settled=False)
        saving = self._world.store.save_now(self.metadata)
        saving.addTimeout(INTENT_PATIENCE_S, cast(Any, self._world.clock))
        saving.addErrback(self._intent_unsaved, verb)
        saving.addCallback(lambda _saved: self.reconcile())
        self.log_failure(saving, "operation")
        return done

    def _intent_unsaved(self, failure: Failure, verb: Verb) -> None:
        text = f"it could not be stored, so a restart of the daemon may undo it: {failure.getErrorMessage()}"
        self.board.warn(verb, text)
        self.book.publish(
            "agent.intent_unsaved", f"{verb.value}: {text}", severity=Severity.ERROR, code="D1004"
        )

    def apply_spec(self, spec: AgentConfig | None) -> None:
        """Takes a new configuration; what must restart restarts, what is live is live."""
        self.spec = spec
        self.spec_hash = spec_hash(spec) if spec is not None else ""
        if not self.enabled:
            self._asked = False
            self.board.supersede("the configuration no longer lets it run")
        if self.state is AgentState.RUNNING and self.process is not None:
            self._reset_count_later(self._world.clock.seconds() - self.process.started_mono)
        self.reconcile()
