"""Operators' requests to one agent: who waits for what, and what supersedes what.

The reconcile loop carries requests out; this board only knows who waits. A ``stop`` supersedes the
starts and restarts that wait; a ``start`` or ``restart`` that comes during a stop is carried out after
it, and both succeed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from twisted.internet.defer import Deferred

from daemon.errors import AgentStartError, AgentStopError, DaemonError, RequestError, RequestFault


class Verb(Enum):
    """What an operator may ask of an agent."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an operation went.

    Attributes:
        warnings: what the operator should know although it succeeded.
    """

    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Request:
    verb: Verb
    after_spawn: int
    warnings: tuple[str, ...]
    done: Deferred[Outcome]


_Which = Callable[[_Request], bool]


class OperationBoard:
    """The requests to one agent that wait for their outcome."""

    def __init__(self) -> None:
        self._requests: list[_Request] = []

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, verb: Verb, *, spawns: int, warnings: tuple[str, ...] = ()) -> Deferred[Outcome]:
        """Takes a request; ``spawns`` is how many processes the agent has had, a restart waits for one more.

        Returns:
            fires with the outcome; fails with AgentStartError, AgentStopError, or RequestError when it
            is superseded or the daemon stops. Cancelling it gives up the waiting, not the operation.
        """
        if verb is Verb.STOP:
            self.supersede("a stop was asked for")
        done: Deferred[Outcome] = Deferred()
        request = _Request(verb, spawns if verb is Verb.RESTART else 0, warnings, done)
        self._requests.append(request)
        return done

    def warn(self, verb: Verb, text: str) -> None:
        """Adds a warning to the answers of those who wait for that."""
        for request in self._requests:
            if request.verb is verb:
                request.warnings = (*request.warnings, text)

    def supersede(self, why: str) -> None:
        """Ends the starts and restarts that wait."""
        error = RequestError(RequestFault.SUPERSEDED, f"superseded: {why}")
        self._fail(lambda r: r.verb is not Verb.STOP, error)

    def supersede_stops(self, why: str) -> None:
        """Ends the stops that wait and have not begun."""
        self._fail(lambda r: r.verb is Verb.STOP, RequestError(RequestFault.SUPERSEDED, f"superseded: {why}"))

    def running(self, spawns: int) -> None:
        """The agent's latest process lived long enough."""
        self._finish(lambda r: r.verb is Verb.START or (r.verb is Verb.RESTART and spawns > r.after_spawn))

    def start_failed(self, error: AgentStartError, spawns: int) -> None:
        """A spawn failed, or the process died too soon."""
        self._fail(
            lambda r: r.verb is Verb.START or (r.verb is Verb.RESTART and spawns > r.after_spawn), error
        )

    def stopped(self) -> None:
        """Nothing of the agent is left."""
        self._finish(lambda r: r.verb is Verb.STOP)

    def stop_failed(self, error: AgentStopError) -> None:
        """Something would not end; a restart cannot go on either."""
        self._fail(lambda r: True, error)

    def abandon(self, error: DaemonError | RequestError) -> None:
        """Nobody will carry these out any more."""
        self._fail(lambda r: True, error)

    def _take(self, which: _Which) -> list[_Request]:
        taken = [r for r in self._requests if which(r)]
        self._requests = [r for r in self._requests if not which(r)]
        return taken

    def _finish(self, which: _Which) -> None:
        for request in self._take(which):
            if not request.done.called:
                request.done.callback(Outcome(warnings=request.warnings))

    def _fail(self, which: _Which, error: Exception) -> None:
        for request in self._take(which):
            if not request.done.called:
                request.done.errback(error)
