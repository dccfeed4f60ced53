"""A hold: somebody keeps an agent down for a while, whatever is wanted of it, and waits until it is."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from daemon.errors import AgentStopError, RequestError


class Hold:
    """One hold, or none.

    Attributes:
        why: the reason as operators see it; empty for no hold.
    """

    def __init__(self) -> None:
        self.why = ""
        self._waiting: list[Deferred[None]] = []

    def wait(self) -> Deferred[None]:
        """Fires when nothing of the agent is left; fails when that cannot be. Cancelling it only ends the
        waiting."""
        waiter: Deferred[None] = Deferred(self._waiting_ended)
        self._waiting.append(waiter)
        return waiter

    def _waiting_ended(self, waiter: Deferred[None]) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def reached(self) -> None:
        """Nothing of the agent is left."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    def failed(self, error: AgentStopError | RequestError) -> None:
        """It ended before that."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.errback(error)
